"""`zoo`: the front door. Answers what it can before anything heavy is imported."""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from types import ModuleType

from zoo.errors import LOCALE, UserError, did_you_mean, is_too_large

HELP = """usage: zoo <command> [--config FILE]... [--key value]...

train and test
  fit        train a model                 zoo fit --config dct_half.yaml
  sweep      a grid of fits                zoo sweep --config char_lm_sweep.yaml
  validate   one pass over the validation data
  test       one pass over the test data
  predict    run the model over the data
share
  export     a run as a plain model, as one small file or for peft
                                           zoo export RUN --to peft
  import     an adapter of peft as a run   zoo import ADAPTER --task rte
look
  report     runs as a table and figures   zoo report runs --out report
  analyze    ranks and spectra of updates  zoo analyze RUN --out report
  census     the same of many adapters     zoo census LIST --out census
  mask       score against coefficients    zoo mask RUN --budgets 1,10,100
  coordinates  norms at growing width and depth
  bench      time and memory of layers     zoo bench --shape 768x768
  params     what is swapped, and counts   zoo params --config dct_half.yaml
  list       parameterizations, tasks and shipped configs
  check      test a parameterization       zoo check my_basis.MyBasis
  generate   text of a language model      zoo generate --ckpt_path RUN

Every command explains itself (zoo fit --help), a parameterization too:
  zoo fit --config dct_half.yaml --model.parameterization.help DCT
"""

COMMANDS = {
    **dict.fromkeys(("fit", "validate", "test", "predict", "params"), "zoo.cli.fit.command:run"),
    **{name: f"zoo.cli.{name}:main" for name in ("list", "check", "generate", "export")},
    "import": "zoo.cli.import_:main",
    "sweep": "zoo.sweep.command:main",
    **{
        name: f"zoo.studies.{name}.command:main"
        for name in ("analyze", "census", "mask", "report", "coordinates", "bench")
    },
}


class OwnTasks(MetaPathFinder):
    """Finds zoo's own `tasks` beside it, whatever else of that name is on the path.

    It is there from the import of this module on, so that it is in processes too that are started
    for other ranks.
    """

    home = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tasks")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the package itself; its modules are found in it."""
        if fullname != "tasks":
            return None
        return spec_from_file_location(
            fullname, os.path.join(self.home, "__init__.py"), submodule_search_locations=[self.home]
        )


sys.meta_path.insert(0, OwnTasks())


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status, 2 for a mistake of the user's."""
    if argv is None:
        prepare_process()
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    command = argv[0]
    if command in ("-V", "--version"):
        from zoo import __version__

        print("zoo", __version__)
        return 0
    if command not in COMMANDS:
        return _unknown(argv)
    try:
        here = os.getcwd()
    except OSError:
        return _said("the current folder was deleted: go to another one")
    # Last, so that ./my_basis.py is found and a ./yaml.py does not hide another.
    sys.path[:] = [*(folder for folder in sys.path if folder not in ("", here)), here]
    module, function = COMMANDS[command].split(":")
    return guarded(lambda: getattr(importlib.import_module(module), function)(argv))


def guarded(command: Callable[[], int]) -> int:
    """Run a command; returns its exit status, 2 for what a user can be told in one line."""
    try:
        return command()
    except BrokenPipeError:  # `zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UserError as mistake:
        return _said(mistake)
    except OSError as error:
        return _said(f"{error.strerror or error}: {error.filename or 'no file'}")
    except UnicodeEncodeError as error:
        return _said(LOCALE.format(ascii(error.object)[:60]))
    except (MemoryError, RuntimeError, OverflowError) as error:
        if is_too_large(error):
            return _said(f"something is too large for this machine ({error}): give smaller numbers")
        raise
    except KeyboardInterrupt:  # while training, Lightning stops it and says how to go on
        print("zoo: stopped", file=sys.stderr)
        return 130
    except SystemExit as stop:  # a parser's way to end
        return int(stop.code or 0)


def prepare_process() -> None:
    """Have a process print whatever its console's encoding is, and take no warning for an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # Without a HOME, matplotlib tells of its temporary cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if "error" in os.environ.get("PYTHONWARNINGS", "") or any(
        "error" in option for option in sys.warnoptions
    ):
        os.environ.pop("PYTHONWARNINGS", None)  # of processes that are started, too
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)


def _said(mistake: object) -> int:
    from zoo.pages.texts import printable

    print(f"zoo: {printable(mistake)}", file=sys.stderr)
    return 2


def _unknown(argv: list[str]) -> int:
    if argv[0].startswith("-"):
        print(f"zoo: the command comes first, as in: zoo fit {' '.join(argv[:2])}", file=sys.stderr)
        return 2
    hint = did_you_mean(argv[0], COMMANDS, f"there are {', '.join(COMMANDS)}")
    print(f"zoo: no command {argv[0]!r}{hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
