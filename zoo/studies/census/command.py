"""`zoo census`: what is in many adapters beyond their singular values.

Each adapter is analysed from its factors alone, in a process of its own within bounds of memory and
time: strangers' files may be anything. What cannot be read is left out, named and counted. A census
that was stopped goes on where it was.
"""

import math
import os
import time
from typing import Annotated

from zoo.cli.arguments import call
from zoo.errors import UserError
from zoo.pages.texts import lines, printable
from zoo.studies.folder import check_out, facts, written
from zoo.studies.options import need_extra, words

LEAST = 5
"""Draws of a null that give a standard deviation."""
TRANSFORMS = "dct,fourier,hadamard,haar,random"


def main(argv: list[str]) -> int:
    """Print the census, and write it."""
    print(call(census, argv, argv=argv[1:]))
    return 0


def census(
    adapters: Annotated[str, "LIST"],
    *,
    out: Annotated[str, "DIR"],
    draws: Annotated[int, "N"] = 20,
    jobs: Annotated[int, "N"] = 0,
    transform: Annotated[str, "NAMES"] = TRANSFORMS,
    memory: Annotated[float, "GIB"] = 4.0,
    minutes: Annotated[float, "M"] = 60.0,
    seed: Annotated[int, "N"] = 0,
    force: bool = False,
    argv: list[str],
) -> str:
    """Analyse all adapters of a list, and write what they have in common.

    Args:
        adapters: a text with one adapter a line, a .csv with a column adapter, or a folder with
            adapters at any depth. An adapter is a folder or a file of peft's, zoo's or loralib's,
            or a hub's user/name; a .csv may have columns name, before, alpha, enable_lora, cluster,
            status, and any others that are kept.
        out: a folder for census.json, census.csv, adapters.csv, census.html and figures.
        draws: of each null; by default 20, and 200 where a result is three deviations off.
        jobs: adapters at once, each on one thread; by default as many as there are cores.
        transform: some of dct,fourier,hadamard,haar,random; by default all five.
        memory: GiB that one adapter may take; by default 4.
        minutes: that one adapter may take; by default 60.
        seed: of the nulls; by default 0.
        force: go on with the census in --out, with a list that may have grown, and write it anew.
        argv: the words of the command line after `zoo census`.

    Raises:
        UserError: for an option out of range, a list that names nothing, a folder that holds
            something else, or if nothing could be analysed.
    """
    start = time.perf_counter()
    if draws < LEAST:
        raise UserError(f"--draws must be at least {LEAST}, for a standard deviation, got {draws}")
    if jobs < 0:
        raise UserError(f"--jobs must be at least 1, got {jobs}")
    for name, value in (("memory", memory), ("minutes", minutes)):
        if not 0 < value < math.inf:
            raise UserError(f"--{name} must be above 0 and finite, got {value:g}")
    folder = check_out(out, "census", force)
    need_extra()
    from zoo.bases import TRANSFORMS as KNOWN
    from zoo.studies.census.entries import read_list
    from zoo.studies.census.result import Census
    from zoo.studies.census.running import Bounds
    from zoo.studies.census.taking import take

    chosen = words("--transform", transform, list(KNOWN))
    entries = read_list(adapters)
    at_once = jobs or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])
    taken = take(entries, chosen, draws, seed, Bounds(memory, minutes), at_once, folder, _say)
    if not any(each["status"] == "analysed" for each in taken["adapters"]):
        first = taken["adapters"][0]
        raise UserError(
            f"of {len(entries)} adapters none could be analysed; the first, "
            f"{first['entry']['name']}: {first['status']}, {first['why']}"
        )
    command = " ".join(["zoo", "census", *argv])
    result = Census({**facts(command, start), **taken})
    result.write(folder)
    return f"\n{result}{lines(written(out, result.file))}"


def _say(text: str) -> None:
    print(printable(text), flush=True)
