"""Errors of jsonargparse and Lightning, said in one line with the remedy."""

import inspect
import linecache
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from zoo.errors import LOCALE, UserError, blame, did_you_mean, is_too_large
from zoo.files.trust import Trust, imported
from zoo.parameterizations import WeightParameterization
from zoo.provenance import PACKAGE
from zoo.training.module import ZooData, ZooModule

Rule = Callable[[re.Match[str], ArgumentParser], str | None]
RULES: list[tuple[re.Pattern[str], Rule]] = []
"""What jsonargparse says, and what zoo says or None, tried in order.

tests/cli/test_mistakes.py has a case for each.
"""
SPEC = r"(?:val=|class_path=|'class_path': )'((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)'"
"""A class in a message."""
NOTHING = "nothing says what to train: give a config, as in --config dct_half.yaml"
KINDS = (WeightParameterization, ZooModule, ZooData)
PLACES: dict[str, tuple[type, ...]] = {"model": (ZooModule,), "data": (ZooData,)}
"""The classes that can stand in a place."""
OWN = {
    "model": "MyTask",
    "data": "MyData",
    "trainer.callbacks": "MyCallback",
    "trainer.logger": "MyLogger",
    "trainer.plugins": "MyPlugin",
}
"""What a class of the user's own may be called there."""
LIGHTNINGS = (ValueError, TypeError, RuntimeError, ModuleNotFoundError)
"""What Lightning raises for settings that do not go together, or for a package that is missing."""
NOISE = (
    "Given value",
    "Subtypes:",
    "Errors:",
    "Does not validate",
    "Expected a <class 'NoneType'>",
    "Expected <class 'NoneType'>",
)


def rule(pattern: str) -> Callable[[Rule], Rule]:
    """Add a rule for messages that match, across lines."""

    def add(function: Rule) -> Rule:
        RULES.append((re.compile(pattern, re.DOTALL), function))
        return function

    return add


def explain(message: str, parser: ArgumentParser) -> str:
    """Put a message of jsonargparse in one line: of an unknown one, the last that says anything.

    In a message stand the words of files, too. Where one was handed over, the parser's `trust` says
    what of them may be imported to find out more (`zoo.cli.fit.parsing.Parser`).
    """
    for pattern, function in RULES:
        if (match := pattern.search(message)) and (line := function(match, parser)):
            return " ".join(line.split())
    lines = [line.strip(" -") for line in message.splitlines()]
    telling = [line for line in lines if line and not line.startswith(NOISE)]
    return (
        telling[-1]
        if telling
        else "the command line or a config holds a value of the wrong type; zoo fit --help"
    )


def _may_import(path: str, parser: ArgumentParser) -> bool:
    """Say whether a class in a message may be imported: the user wrote it, or trusts it."""
    trust: Trust | None = getattr(parser, "trust", None)
    if trust is None:
        return True
    try:
        return trust.find(path, object, "it") is not None
    except UserError:
        return False


def user_error(error: BaseException) -> str | None:
    """Say what the user did wrong, if that caused an exception, however deeply it is wrapped."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, UserError | MisconfigurationException) or _is_raised(cause):
            return " ".join(str(cause).split())
        if isinstance(cause, UnicodeEncodeError) and cause.encoding != "utf-8":
            return LOCALE.format(ascii(cause.object)[:60])
        if is_too_large(cause):
            reason = " ".join(str(cause).split())[:120] or type(cause).__name__
            return (
                f"the network or a batch is too large for this machine ({reason}): lower a size, "
                "as --data.batch_size or --model.width"
            )
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def as_user_errors(where: str = "") -> Iterator[None]:
    """Have what the user did wrong be a UserError, whatever Lightning or torch has made of it.

    Args:
        where: what a message is of, which it then begins with.
    """
    try:
        yield
    except Exception as error:
        if mistake := user_error(error):
            raise UserError(f"{where}: {mistake}" if where else mistake) from error
        raise


def _is_raised(error: BaseException) -> bool:
    """Say whether zoo or Lightning raised an error itself: it is a mistake of the user's then."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames or not isinstance(error, LIGHTNINGS):
        return False
    frame, line = frames[-1]
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    said = linecache.getline(frame.f_code.co_filename, line).strip().startswith("raise ")
    return (
        type(error) is ValueError
        and package in ("zoo", "tasks", "lightning")
        or package == "lightning"
        and said
    )


def subclasses(cls: type) -> Iterable[type]:
    """Find all concrete subclasses."""
    children: list[type] = cls.__subclasses__()
    for sub in children:
        if not inspect.isabstract(sub):
            yield sub
        yield from subclasses(sub)


def settings(class_path: str) -> list[str]:
    """List what a class can be given in a config."""
    module, _, name = class_path.rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name).__init__).parameters
    return [key for key in parameters if key not in ("self", "out_features", "in_features")]


@rule(r"^((?:no )?config (?:'|of |from )[^\n]+)")
def _config(match: re.Match[str], parser: ArgumentParser) -> str:
    return match[1]


@rule(
    r"Problem with given class_path 'zoo\.training\.(?:data\.ZooData|module\.ZooModule)'"
    r"|^the following arguments are required"
)
def _nothing(match: re.Match[str], parser: ArgumentParser) -> str:
    return NOTHING


@rule(r"Option '([^']+)' is not accepted.*?class_path='([^']+)'")
def _setting(match: re.Match[str], parser: ArgumentParser) -> str | None:
    return _no_setting(match[1], match[2]) if _may_import(match[2], parser) else None


@rule(r"Problem with given class_path '([^']+)':\s+(?:-\s*)?Option '([^']+)' is not accepted")
def _task_setting(match: re.Match[str], parser: ArgumentParser) -> str | None:
    return _no_setting(match[2], match[1]) if _may_import(match[1], parser) else None


def _no_setting(key: str, class_path: str) -> str:
    have = settings(class_path)
    name = class_path.rpartition(".")[2]
    if key.startswith("parameterization") and "parameterization" not in have:
        return (
            f"{name} takes no {key!r}: a task has **settings in its __init__, for "
            "super().__init__(**settings)"
        )
    return (
        f"{name} has no setting {key!r}{did_you_mean(key, have)}; it has "
        f"{', '.join(have) or 'none'}"
    )


@rule(r"given class_path '([\w.]+)':\s*unrecognized arguments: --([\w.]+)")
def _nested_setting(match: re.Match[str], parser: ArgumentParser) -> str | None:
    return _no_setting(match[2], match[1]) if _may_import(match[1], parser) else None


@rule(r"does not accept option '([^']+)'")
def _option(match: re.Match[str], parser: ArgumentParser) -> str:
    key = match[1]
    keys = [action.dest for action in parser._actions]
    head = key.split(".")[0]
    heads = {k.split(".")[0] for k in keys}
    return f"no option {key!r}" + (
        did_you_mean(key, keys) if head in heads else did_you_mean(head, heads)
    )


@rule(r"Expected a dot import path string: ([\w.]+)")
def _class(match: re.Match[str], parser: ArgumentParser) -> str:
    """Say what may stand in the place, which the keys on the way there name."""
    keys = re.findall(r'Parser key "([^"]+)"', match.string)
    place = ".".join(keys)
    bases: tuple[type, ...] = PLACES.get(place, ())
    if not bases and re.search(r"parameterization|overrides", match.string):
        bases = (WeightParameterization,)
    names = sorted({c.__name__ for base in bases for c in subclasses(base)})
    every = {c.__name__ for base in KINDS for c in subclasses(base)}
    wrong = f"no class is called {match[1]!r}{did_you_mean(match[1], names)}"
    if match[1] in every - set(names):
        wrong = f"class {match[1]!r} cannot stand there, another kind is wanted"
    where = f"{place}: " if place and not bases else ""
    known = f"known are {', '.join(names)}, and one" if names else "one"
    return (
        f"{where}{wrong}; {known} of your own goes by its path, as "
        f"my_file.{OWN.get(place, 'MyBasis')}"
    )


@rule(
    r"Problem with given class_path '([^']+)':\s+(?:-\s*)?"
    r"the following arguments are required: (\w+)"
)
def _lacking(match: re.Match[str], parser: ArgumentParser) -> str:
    place = ".".join(re.findall(r'Parser key "([^"]+)"', match.string))
    return (
        f"{match[1].rpartition('.')[2]} needs a value for {match[2]!r}: give --{place}.{match[2]}"
    )


@rule(
    r"""Parser key "(model|data)":.*?"""
    r"""(?:given class_path '|Import path |Given value: )((?:[A-Za-z_]\w*\.)+\w+)"""
)
def _task(match: re.Match[str], parser: ArgumentParser) -> str | None:
    """Explain a class that cannot be imported, or that is none of a task or its data."""
    group, path = match.groups()
    if not _may_import(path, parser):
        return None
    if problem := import_problem(path):
        return problem
    found, (base,) = imported(path), PLACES[group]
    if isinstance(found, type) and issubclass(found, base):
        return None
    return (
        f"{path!r} is no {base.__name__}: give a class that inherits from "
        f"zoo.training.module.{base.__name__}"
    )


@rule(r"Expected an import path or a subclass spec, but got (.*?)\. Got value")
def _no_class(match: re.Match[str], parser: ArgumentParser) -> str:
    return f"{match[1]!r} is no class: give one as {{class_path: DCT, init_args: {{ratio: 0.5}}}}"


@rule(r"add_function_arguments\(\) got an unexpected keyword")
def _function(match: re.Match[str], parser: ArgumentParser) -> str:
    return "a function is given where a class belongs: give a class, as my_file.MyBasis"


@rule(r"arguments are required: ([\w, ]+)\. Got value: Namespace\(class_path='([^']+)'")
def _required(match: re.Match[str], parser: ArgumentParser) -> str:
    key = match[1].split(",")[0]
    name = match[2].rpartition(".")[2]
    return (
        f"{name} needs a value for {key!r}: give it as --model.parameterization.{key} or under its "
        "init_args"
    )


@rule(r"Expected '([^']+)' to be a (?:subclass of|function that returns) <class '(\w+)'>")
def _kind(match: re.Match[str], parser: ArgumentParser) -> str:
    return f"{match[1]!r} is no {match[2]}: give a class that inherits from it"


@rule(r"(?:val=|class_path=|'class_path': )'[A-Za-z_]\w*\.")
def _import(match: re.Match[str], parser: ArgumentParser) -> str | None:
    """Try each class in the message: jsonargparse does not say which cannot be imported, or why."""
    for path in re.findall(SPEC, match.string):
        if _may_import(path, parser) and (problem := import_problem(path)):
            return problem
    return None


def import_problem(class_path: str) -> str | None:
    """Say why a class cannot be imported; None if it can."""
    module, _, name = class_path.rpartition(".")
    try:
        names = vars(import_module(module))
    except ModuleNotFoundError as error:
        if hidden := _hidden(module.partition(".")[0]):
            return (
                f"no module {error.name!r} in zoo's own {hidden.stem!r}, which hides '{hidden}': "
                "rename that"
            )
        if module == error.name or module.startswith(f"{error.name}."):
            # Where the command was called: the current folder may be that of a config by now.
            here = sys.path[-1]
            return (
                f"no module {error.name!r} for {class_path!r}: it must be a file in {here}, or "
                "installed"
            )
        return f"cannot import {class_path!r}: {blame(error)}; install it, or correct the import"
    except Exception as error:  # a module of the user's own can raise anything
        return f"cannot import {class_path!r}: {blame(error)}; correct that file"
    classes = [key for key, value in names.items() if isinstance(value, type)]
    hint = did_you_mean(name, classes, f"it has {', '.join(classes) or 'none'}")
    if name in names:
        return None
    if hidden := _hidden(module.partition(".")[0]):
        return f"zoo's own {hidden.stem!r} has no class {name!r}, and hides '{hidden}': rename that"
    return f"module {module!r} has no class {name!r}{hint}"


def _hidden(top: str) -> Path | None:
    """Find what else is called `tasks`, here or on the path, and is hidden by zoo's own."""
    home = PACKAGE.parent
    places = [
        place for folder in sys.path for place in (Path(folder) / top, Path(folder) / f"{top}.py")
    ]
    others = (
        place
        for place in places
        if (place.is_dir() or place.suffix and place.is_file())
        and place.resolve() != (home / top).resolve()
    )
    return next(others, None) if top == "tasks" else None


@rule(r'.*Parser key "([^"]+)":(.*?)(?:Given|Got) value: (.*?)(?:\. Got value|\n|$)')
def _value(match: re.Match[str], parser: ArgumentParser) -> str | None:
    """Explain a value of a wrong type.

    The greedy start finds the innermost key: model, its optimizer, its lr.
    """
    types = re.findall(
        r"Expected (?:a )?(?:<class '([\w.]+)'>|typing\.Literal\[([^\n]*)\])", match[2]
    )
    key = ".".join(re.findall(r'Parser key "([^"]+)"', match[0]))
    said = {"NoneType": "null", "collections.abc.Sequence": "list"}
    legal = [literal or said.get(name, name) for name, literal in types]
    # A seed of true or false is refused in trainer_options.check_seed.
    legal = [name for name in legal if key != "seed_everything" or name != "bool"]
    hint = """; write a list as '["one", "two"]'""" if "list" in legal else ""
    shown = match[3] if len(match[3]) <= 60 else f"{match[3][:57]}..."
    shown = "null" if shown == "None" else f"{shown!r}"
    # A class with its arguments, of which jsonargparse says nothing.
    if match[3].startswith("Namespace("):
        return (
            f"{key} is given arguments that its class does not take: zoo fit --{key}.help CLASS "
            "lists them"
        )
    return f"{key} must be {' or '.join(legal)}, got {shown}{hint}" if legal else None


@rule(r'Parser key "([^"]+)":\s*(?:-\s*)?Unable to load config "(.*?)"')
def _group(match: re.Match[str], parser: ArgumentParser) -> str:
    key, given = match.groups()
    return (
        f"{key} is a group of settings, got {given[:60]!r}: give each as --{key}.NAME, or a file "
        "of them"
    )


@rule(r"unrecognized arguments: (\S+)")
def _unrecognized(match: re.Match[str], parser: ArgumentParser) -> str:
    if not match[1].startswith("--"):
        return f"{match[1]!r} is no option: options start with --, as in --trainer.max_steps 100"
    key = match[1][2:].partition("=")[0]
    keys = [
        option[2:]
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    ]
    heads = {k.split(".")[0] for k in keys}
    head = key.split(".")[0]
    hint = did_you_mean(key, [k for k in keys if k.startswith(f"{head}.")]) or (
        "" if head in heads else did_you_mean(head, heads)
    )
    return f"no option '--{key}'{hint or '; zoo fit --help lists them'}"
