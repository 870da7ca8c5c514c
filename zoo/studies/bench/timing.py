"""Time and memory of alternatives, side by side in one process, as `zoo bench` measures them.

A machine's speed drifts by more than what is looked for, and not within two neighbouring calls. So
alternatives are called in turn, and what is compared is the ratio of neighbours:

    ratio(a, b) = median_i a_i / b_i, with its quartiles
"""

import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median, quantiles
from typing import NamedTuple

import torch
from torch import Tensor, nn

Call = Callable[[], object]
CPU = torch.device("cpu")


class Ratio(NamedTuple):
    """Of times that were taken in turn: the median of neighbours' ratios, and its quartiles."""

    median: float
    low: float
    high: float


class Held(NamedTuple):
    """Bytes that stay from step to step."""

    parameters: int
    """That are trained."""
    frozen: int
    """Parameters that are not."""
    gradients: int
    optimizer: int
    buffers: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


# ---- Time ----------------------------------------------------------------------------------------


def alternate(
    calls: Mapping[str, Call],
    seconds: float = 0.0,
    rounds: int = 0,
    warmup: int = 3,
    least: int = 5,
    device: torch.device = CPU,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Measure seconds of each call, called in turn, in one order and the reverse.

    Caches are then as a network's other layers leave them, not as a loop over one call does. The
    garbage collector waits until the end.

    Args:
        calls: by name.
        seconds: for each: a call that has taken so long in all, and `least` rounds, is called no
            more; or
        rounds: for all, so many.
        warmup: rounds before that do not count; a call that takes longer than `seconds` is called
            once in them.
        least: rounds of each, however long they take.
        device: that is waited for.
        clock: seconds since some start.

    Returns:
        By name; the i-th of each are neighbours.

    Raises:
        ValueError: unless exactly one of seconds and rounds is above 0.
    """
    if (seconds > 0) == (rounds > 0):
        raise ValueError(f"either seconds or rounds must be above 0, got {seconds} and {rounds}")
    times: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)

    def once(names: list[str]) -> None:
        for name in names:
            wait(device)
            start = clock()
            calls[name]()
            wait(device)
            times[name].append(clock() - start)
            spent[name] += times[name][-1]

    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(warmup):
            once([name for name in calls if not times[name] or spent[name] < (seconds or math.inf)])
        for name in calls:
            times[name], spent[name] = [], 0.0
        backwards = False  # every second round, so that a drift favours none
        while left := [
            name for name in calls if len(times[name]) < (rounds or least) or spent[name] < seconds
        ]:
            once(left[::-1] if backwards else left)
            backwards = not backwards
    finally:
        if collecting:
            gc.enable()
    return times


def wait(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Divide a by b, neighbour by neighbour: median and quartiles.

    Where one was called longer, its last times have none.

    Raises:
        ValueError: if there are no neighbours.
    """
    if not a or not b:
        raise ValueError(f"a ratio needs times of both, got {len(a)} and {len(b)}")
    return quartiles([x / y for x, y in zip(a, b, strict=False)])


def quartiles(values: Sequence[float]) -> Ratio:
    """Return median and quartiles of values, none of them beyond the values."""
    if len(values) < 2:
        return Ratio(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Ratio(median(values), low, high)


# ---- Memory --------------------------------------------------------------------------------------


def peak_memory(call: Call, device: torch.device = CPU) -> int:
    """Measure the most bytes that a call allocates at one time, beyond those that were there.

    What was there must stay. Counted are bytes of torch's allocators: what a library takes by
    itself, as for a transform's scratch space, is not seen on the CPU.
    """
    if device.type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    results = profile.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    held = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def kept_for_backward(call: Call, module: nn.Module) -> int:
    """Count the bytes that a forward pass keeps for its backward pass, each storage once.

    What the module holds anyway, parameters and buffers, is left out; its input is not. Tensors
    that an autograd function keeps as plain attributes are not seen.
    """
    held = {_storage(tensor) for tensor in (*module.parameters(), *module.buffers())}
    # Alive until counted, or a storage's address would be given away again.
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        # A sparse one has no storage of its own.
        saved.extend([tensor._indices(), tensor._values()] if tensor.is_sparse else [tensor])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return _bytes(tensor for tensor in saved if _storage(tensor) not in held)


def held_bytes(module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Held:
    """Count bytes of a module's parameters, gradients and buffers, and of an optimizer's state.

    Each storage counts once.
    """
    parameters = list(module.parameters())
    state = (
        []
        if optimizer is None
        else [value for each in optimizer.state.values() for value in each.values()]
    )
    return Held(
        _bytes(p for p in parameters if p.requires_grad),
        _bytes(p for p in parameters if not p.requires_grad),
        _bytes(p.grad for p in parameters if p.grad is not None),
        _bytes(value for value in state if isinstance(value, Tensor)),
        _bytes(module.buffers()),
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    storages = {_storage(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
