"""Times on a device, of calls in alternation, and what the device can do at most.

`zoo.studies.bench.timing.alternate` is another clock on purpose. It asks what a layer costs its
user, launches from Python included, by the wall, and lets a slow call stop before a fast one. Here
kernels of microseconds are compared: events on the device time them, often replays of a captured
graph, and all have as many rounds, within seconds that are shared out beforehand.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import torch

Call = Callable[[], object]


class Ceilings(NamedTuple):
    """Measured rates that a time is set beside."""

    bandwidth: float  # bytes a second that a copy reads and writes
    products: float  # operations a second of a bfloat16 product, a multiply-add being two


def captured(call: Call, warmup: int = 3) -> Call:
    """Capture a call's kernels as one CUDA graph, so that launches from Python cost nothing.

    What the call reads and writes must stay where it is: the replay holds the call, and with it
    what it is of. Called some times before, on a stream of its own, so that whatever is made or
    tuned at a first call is not in the graph. The garbage collector waits: what it would let go of
    meanwhile may be of the device, and end the capture.

    Raises:
        RuntimeError: if it cannot be captured; it says what the call met with, not that the capture
            could not be ended.
    """
    before, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warmup):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        torch.cuda.set_stream(before)  # a capture that fails leaves its own
        raise RuntimeError(str(error.__context__ or error)) from error
    finally:
        if collecting:
            gc.enable()

    def replay(held: Call = call) -> None:
        graph.replay()

    return replay


def alternate(
    calls: Mapping[str, Call], device: str, seconds: float = 0.2, least: int = 5, warmup: int = 3
) -> dict[str, list[float]]:
    """Time each call in seconds, called in turn; a machine's drift then favours none.

    Args:
        calls: by name.
        device: "cuda", timed by events on the device; or "cpu", by the clock.
        seconds: that all rounds together take, about.
        least: rounds, however long they take.
        warmup: rounds before that do not count.

    Returns:
        By name; the i-th of each are neighbours.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warmup):
        for call in calls.values():
            call()
    start = time.perf_counter()
    rounds = 0
    while rounds < least or time.perf_counter() - start < seconds:
        for name in list(calls)[:: 1 if rounds % 2 else -1]:
            found[name].append(_once(calls[name], device))
        rounds += 1
    return found


def _once(call: Call, device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000


def synchronize(device: str) -> None:
    """Wait for all that was launched."""
    if device == "cuda":
        torch.cuda.synchronize()


def median(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each call's times."""
    return {name: statistics.median(each) for name, each in times.items()}


@lru_cache(maxsize=1)
def ceilings(device: str) -> Ceilings:
    """Measure what this device does at most: a copy far larger than its caches, a large product."""
    gpu = device == "cuda"
    source = torch.empty(2**31 if gpu else 2**24, dtype=torch.uint8, device=device)
    target, n = torch.empty_like(source), 8192 if gpu else 256
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    calls: dict[str, Call] = {"copy": lambda: target.copy_(source), "product": lambda: a @ b}
    times = median(alternate(calls, device, seconds=0.3 if gpu else 0.02))
    return Ceilings(2 * len(source) / times["copy"], 2 * n**3 / times["product"])
