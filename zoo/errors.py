"""What a user did wrong, as opposed to what zoo did wrong."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

LOCALE = "{} has letters that names of files cannot have in this locale: set PYTHONUTF8=1"
"""To be said where a name is not written in ASCII and the locale knows nothing else."""


_OPTIONS: ContextVar[Mapping[str, str] | None] = ContextVar("names of options", default=None)
_DASHES: ContextVar[str] = ContextVar("what stands before the name of an option", default="--")
LONGEST = 4000
"""How many characters a message has at most, which may name what anyone wrote."""


class UserError(ValueError):
    """A mistake in a command, config or input file.

    It is one line, whatever it names. The command line prints it and exits with status 2.

        >>> try:
        ...     net = zoo.adapt(torch.nn.Linear(8, 8), zoo.LoRA, rank=2, targets="nothing")
        ... except zoo.UserError as error:
        ...     print(str(error)[:43])
        targets: 'nothing' matches no layer; there

    Args:
        message: what is wrong, and the remedy.
    """

    def __init__(self, message: object) -> None:
        text = " ".join(str(message).splitlines())
        super().__init__(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def option(name: str, value: str | None = None) -> str:
    """Name an option in a message as the command or function that is at work calls it.

    Args:
        name: of the option without its dashes, as `force`, or `model.backbone` of `zoo fit`.
        value: to be given to it, as in `--trust my_basis`, or `trust='my_basis'` in Python.
    """
    dashes, called = _DASHES.get(), (_OPTIONS.get() or {}).get(name, name)
    given = "" if value is None else f" {value}" if dashes else f"={value!r}"
    return f"{dashes}{called}{given}"


@contextmanager
def options_called(names: Mapping[str, str]) -> Iterator[None]:
    """Have messages name options as a command calls them that is not `zoo fit`.

    Args:
        names: by what `zoo fit` calls each option; both without dashes.
    """
    token = _OPTIONS.set(names)
    try:
        yield
    finally:
        _OPTIONS.reset(token)


@contextmanager
def as_arguments() -> Iterator[None]:
    """Have messages name options as the arguments of a function, without dashes."""
    token = _DASHES.set("")
    try:
        yield
    finally:
        _DASHES.reset(token)


def did_you_mean(
    word: str,
    known: Iterable[str],
    otherwise: str = "",
    most: int = 1,
    written: Callable[[str], str] = repr,
) -> str:
    """End a message with the nearest of the words that are known: `; did you mean 'fit'?`.

    Args:
        word: which is none of them.
        known: what could stand in its place.
        otherwise: what to say where none is near.
        most: words that are named, the nearest first.
        written: how a word is written in the question.
    """
    import difflib

    near = difflib.get_close_matches(word, list(known), most, 0.5)
    hint = f"did you mean {' or '.join(map(written, near))}?" if near else otherwise
    return hint and f"; {hint}"


def is_too_large(error: BaseException) -> bool:
    """Tell whether memory did not suffice, or a number was larger than a size can be."""
    words = (
        "can't allocate memory",
        "out of memory",
        "overflow",
        "too large",
        "invalid dimensions",
    )
    return isinstance(error, MemoryError | OverflowError) or (
        isinstance(error, RuntimeError | TypeError)
        and any(word in str(error).lower() for word in words)
    )


def blame(error: BaseException) -> str:
    """Say in one line what an exception is, and which place raised it."""
    import traceback

    if isinstance(error, SyntaxError):
        return f"{error.msg} ({Path(error.filename or '?').name}, line {error.lineno})"
    message = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{message} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else message
