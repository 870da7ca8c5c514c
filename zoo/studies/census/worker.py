"""The process of one adapter of a census: a stranger's file can end it, and nothing else.

    python -m zoo.studies.census.worker

The job is a line of JSON on standard input, the result a file. The process ends with the census: at
the end of standard input.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

GIB = 2**30


def main() -> None:
    """Do the job that the first line of standard input says."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_census, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    from zoo.files.access import write_text
    from zoo.studies.census import measuring  # noqa: F401  what it imports is no part of the limit

    _limit(job["memory"])
    write_text(Path(job["result"]), json.dumps(outcome(job)))


def outcome(job: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a job, or why there is none."""
    from zoo.errors import UserError, is_too_large

    try:
        return {"status": "analysed", **_result(job)}
    except UserError as error:
        return {"status": "unreadable", "why": str(error)}
    except (MemoryError, RuntimeError, OverflowError) as error:
        if not isinstance(error, MemoryError) and not is_too_large(error):
            raise
        why = f"it takes more than {job['memory']:g} GiB of memory"
        return {"status": "out of memory", "why": why}


def _result(job: dict[str, Any]) -> dict[str, Any]:
    from zoo.studies.census import measuring
    from zoo.studies.census.entries import Entry
    from zoo.studies.census.hub import at_hand
    from zoo.studies.census.precheck import left_out

    entry = at_hand(Entry(**job["entry"]))
    if left := left_out(entry.what):  # of a hub's, whose files were not here to be looked at
        return left._asdict()
    if "layer" in job:
        return measuring.tail(entry, job["layer"], job["seed"])
    found = measuring.measured(entry, job["transforms"], job["draws"], job["seed"])
    return {"sha256": measuring.digest(entry), **found}


def _limit(memory: float) -> None:
    """Have the process fail where it asks for more than `memory` GiB, or writes large files."""
    try:
        import resource

        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
        held = int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        return  # a system without such limits: time is limited from outside
    for what, most in (
        (resource.RLIMIT_AS, held + int(memory * GIB)),
        (resource.RLIMIT_FSIZE, GIB // 4),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def _end_with_the_census() -> None:
    while sys.stdin.read(1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
