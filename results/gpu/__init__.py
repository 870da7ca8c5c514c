"""What zoo costs on a GPU, measured by one command: `bash results/gpu.sh`.

`PARTS` says what is measured, in the order of its worth. Each part is a module of its name with a
function `measure(setting, table)`, which runs in a process of its own, so that an error which
poisons the device ends one part and not the next; its rows go into a table of its name.
"""

from typing import NamedTuple


class Part(NamedTuple):
    """One thing that is measured."""

    seconds: float  # of nine minutes; what a part leaves goes to those after it
    memory: int  # bytes of the device that it needs
    case: tuple[str, ...]  # columns that say what a row is of
    measured: tuple[str, ...]  # columns that say what was found


GB = 10**9
PARTS = {
    "kernels": Part(
        60, 2 * GB, ("kernel", "case", "dtype"), ("error", "tolerance", "agrees", "seconds"),
    ),
}
