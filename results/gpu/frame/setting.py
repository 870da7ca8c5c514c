"""How a part is to measure: on which device, how small, and until when."""

import json
import os
import time
from dataclasses import asdict, dataclass

VARIABLE = "ZOO_GPU_SETTING"


@dataclass(frozen=True)
class Setting:
    """What every part is told."""

    device: str
    """"cuda", or "cpu" with `small`."""
    small: bool
    """Whether this is the rehearsal: every path, on sizes that a CPU does in seconds."""
    until: float
    """The time, of `time.time`, when the part must have ended."""
    out: str
    """The folder of the tables."""
    data: str | None
    """The folder that holds `tinyshakespeare/input.txt`; None for a made-up text, if `small`."""
    source: dict[str, str]
    """Columns of every row: command, commit, device and date."""

    def left(self) -> float:
        """Return the seconds until the part must have ended."""
        return self.until - time.time()

    def environment(self) -> dict[str, str]:
        """Return the environment of the part's process."""
        return {**os.environ, VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def given(cls) -> "Setting":
        """Return what this process was told."""
        return cls(**json.loads(os.environ[VARIABLE]))
