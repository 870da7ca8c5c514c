"""Show how far a command is."""

import sys
from collections.abc import Callable


class Bar:
    """Show a progress bar on stderr, from two seconds on, where that is a terminal.

    Args:
        what: is counted.
    """

    def __init__(self, what: str) -> None:
        from tqdm import tqdm

        self.bar = tqdm(
            desc=what,
            unit="",
            leave=False,
            delay=2,
            dynamic_ncols=True,
            disable=None,
            file=sys.stderr,
        )

    def expect(self, total: int) -> Callable[[], object]:
        """Say how many there are; what is returned counts one."""
        self.bar.reset(total=total)
        return self.bar.update

    def close(self) -> None:
        """Remove it."""
        self.bar.close()
