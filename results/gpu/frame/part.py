"""One part, in a process of its own: `python -m results.gpu.frame.part NAME`, started by `results.gpu`."""

import importlib
import sys
from pathlib import Path

from results.gpu import PARTS
from results.gpu.frame.rows import Table
from results.gpu.frame.setting import Setting


def main(name: str) -> None:
    """Measure the part that a command line names, in the setting that the environment holds."""
    setting, part = Setting.given(), PARTS[name]
    table = Table(Path(setting.out) / f"{name}.csv", part.case, part.measured, setting.source)
    importlib.import_module(f"results.gpu.{name}").measure(setting, table)


if __name__ == "__main__":
    main(sys.argv[1])
