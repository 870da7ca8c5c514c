"""Every case of the kernels' tests, compiled for the device."""

from results.gpu.rows import Table
from results.gpu.setting import Setting


def measure(setting: Setting, table: Table) -> None:
    """A row for each case."""
