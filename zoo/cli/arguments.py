"""A command's options are the parameters of its function, with their types, defaults and docstring.

A mistake is one line and exit status 2. jsonargparse, which the commands that train are built on,
takes no `zoo report RUN RUN --force`: it has lists as `[RUN,RUN]`, and flags as `--force true`.
"""

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from zoo.errors import did_you_mean
from zoo.files.trust import HELP, OPTION, Trust

Result = TypeVar("Result")


class OneLineParser(argparse.ArgumentParser):
    """argparse, whose errors are one line with the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        _, _, wrong = message.partition("unrecognized arguments: ")
        if wrong:
            word = wrong.split()[0]
            options = [o for action in self._actions for o in action.option_strings]
            message = f"no option {word!r}" + did_you_mean(word, options, f"see {self.prog} --help")
        print(f"zoo: {message}", file=sys.stderr)
        raise SystemExit(2)


def call(
    function: Callable[..., Result],
    argv: Sequence[str],
    /,
    joint: str = "_",
    own: Sequence[str] | None = None,
    **more: Any,
) -> Result:
    """Call the function of a command with what the command line says.

    What can be given by position is positional on the command line too, and what follows the star
    is an option. `Annotated[str, "FILE"]` says what help calls a value, and the docstring's `Args`
    what it is; the module's docstring is on top of the help. `trust: Trust` is the option of
    commands that read what others wrote. A name may end in `_`, where Python has it already.

    Args:
        function: the function of the command.
        argv: the command's name, and the words after it.
        joint: what stands between the words of an option.
        own: the words after the name that are this command's, if some are of `zoo fit`.
        more: arguments of the function that are no options.
    """
    from docstring_parser.google import parse

    about = {each.arg_name: each.description or "" for each in parse(function.__doc__ or "").params}
    hints = get_type_hints(function, include_extras=True)
    parser = OneLineParser(
        prog=f"zoo {argv[0]}",
        description=sys.modules[function.__module__].__doc__,
        allow_abbrev=False,
    )
    for name, parameter in inspect.signature(function).parameters.items():
        if hints[name] is Trust:
            parser.add_argument(OPTION, action="append", metavar="NAME", help=HELP)
        elif name not in more:
            said = " ".join(about[name].split()).removesuffix(".").replace("%", "%%")
            is_option = parameter.kind is parameter.KEYWORD_ONLY
            word = f"--{name.rstrip('_').replace('_', joint)}" if is_option else name
            parser.add_argument(word, help=said, **_kind(hints[name], parameter))
    # Intermixed, so that arguments may stand on both sides of an option.
    options = vars(parser.parse_intermixed_args(list(argv[1:] if own is None else own)))
    if "trust" in options:
        options["trust"] = Trust.of(argv)
    return function(**options, **more)


def _kind(hint: Any, parameter: inspect.Parameter) -> dict[str, Any]:
    """Say how argparse reads a parameter.

    Args:
        hint: its type; a list is of arguments, at least one, or of an option that may be repeated.
        parameter: whose default is the option's; an option without one is required.
    """
    found: dict[str, Any] = {}
    if parameter.kind is parameter.KEYWORD_ONLY:
        required = parameter.default is parameter.empty
        found |= {"required": True} if required else {"default": parameter.default}
        found["dest"] = parameter.name
    if get_origin(hint) is Annotated:
        hint, found["metavar"] = get_args(hint)
    if NoneType in get_args(hint):
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if hint is bool:
        return found | {"action": "store_true"}
    if get_origin(hint) is Literal:
        return found | {"choices": get_args(hint)}
    if get_origin(hint) is list:
        several = {"nargs": "+"} if get_args(hint) != (str,) or "dest" not in found else {}
        return found | several | ({"action": "append"} if "dest" in found else {})
    return found if hint is str else found | {"type": hint}
