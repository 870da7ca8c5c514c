"""The options of the small commands, parsed alike: a mistake is one line and exit status 2."""

import argparse
import difflib
import sys
from typing import Any, NoReturn

from zoo.files.trust import HELP, OPTION

TRUST: dict[str, dict[str, Any]] = {
    OPTION: {"action": "append", "default": [], "metavar": "NAME", "help": HELP}
}
"""The option of commands that read what others wrote."""


class OneLineParser(argparse.ArgumentParser):
    """argparse, whose errors are one line with the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        _, _, wrong = message.partition("unrecognized arguments: ")
        if wrong:
            word = wrong.split()[0]
            options = [o for action in self._actions for o in action.option_strings]
            near = difflib.get_close_matches(word, options, 1, 0.5)
            message = f"no option {word!r}; " + (
                f"did you mean {near[0]!r}?" if near else f"see {self.prog} --help"
            )
        print(f"zoo: {message}", file=sys.stderr)
        raise SystemExit(2)


def parse(
    command: str, description: str, argv: list[str], options: dict[str, dict[str, Any]]
) -> argparse.Namespace:
    """Parse the words after `zoo <command>`; `options` are argparse's, by name."""
    parser = OneLineParser(prog=f"zoo {command}", description=description, allow_abbrev=False)
    for name, settings in options.items():
        parser.add_argument(name, **settings)
    return parser.parse_intermixed_args(argv[1:])  # RUN --null 5 RUN
