"""One part in a process of its own, which `results.gpu` starts: `python -m` this with its name."""

import importlib
import sys
from pathlib import Path

from results.gpu import PARTS
from results.gpu.frame.rows import Poisoned, Table
from results.gpu.frame.setting import Setting

AGAIN = 75
"""The exit status of a process that can measure no more: another one goes on from there."""


def main(name: str) -> int:
    """Measure the part that a command line names, in the setting that the environment holds."""
    setting, part = Setting.given(), PARTS[name]
    table = Table(Path(setting.out) / f"{name}.csv", part.case, part.measured, setting.source)
    try:
        importlib.import_module(f"results.gpu.{name}").measure(setting, table)
    except Poisoned as error:
        print(error, file=sys.stderr)
        return AGAIN
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
