"""Compiling of several kernels at a time."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

THREADS = min(16, os.cpu_count() or 1)
"""How many compile at a time."""


def compile_all(jobs: Sequence[Callable[[], Sequence[Any] | None]]) -> None:
    """Run jobs that compile kernels, several at a time.

    Most of it is done without Python's lock. Of the compiled kernels that a job returns the
    launchers are made too, each by a run of the C compiler. A job that fails does so in silence:
    the call that needs its kernel compiles again, and raises.
    """

    def attempt(job: Callable[[], Sequence[Any] | None]) -> None:
        with suppress(Exception):
            for kernel in job() or ():
                _ = kernel.run

    for job in jobs[:1]:
        attempt(job)  # alone: what Triton does once for a kernel, it does not do in several threads
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(attempt, jobs[1:]))
