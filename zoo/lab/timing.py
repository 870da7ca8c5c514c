"""Time and memory of alternatives, side by side in one process: what `zoo bench` and `results/measure.py` measure with.

A machine's speed drifts by more than what is looked for, and not within two neighbouring calls. So alternatives are
called in turn, and what is compared is the ratio of neighbours:

    ratio(a, b) = median_i a_i / b_i, with its quartiles
"""

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
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


# ---- Time ------------------------------------------------------------------------------------------------------------


def alternate(
    calls: Mapping[str, Call], seconds: float = 0.0, rounds: int = 0, warmup: int = 3, least: int = 5,
    device: torch.device = CPU, clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call, called in turn, in one order and the reverse.

    Caches are then as a network's other layers leave them, not as a loop over one call does. The garbage collector
    waits until the end.

    Args:
        calls: by name.
        seconds: go on for so long in all, warm-up left out, ...
        rounds: ... and for so many rounds. The later of both ends it.
        warmup: rounds before, not counted; at least one, or the first call of a kernel is timed.
        least: rounds, where `seconds` would allow fewer.
        device: that is waited for.
        clock: seconds since some start.

    Returns:
        By name, as many for each; the i-th are neighbours.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls.items())
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(warmup):
            _round(order, i, device, clock)
        start, i = clock(), 0
        while i < max(rounds, least if seconds else 0) or clock() - start < seconds:
            for name, took in _round(order, i, device, clock):
                found[name].append(took)
            i += 1
    finally:
        if collecting:
            gc.enable()
    return found


def _round(
    order: Sequence[tuple[str, Call]], i: int, device: torch.device, clock: Callable[[], float]
) -> list[tuple[str, float]]:
    """One call of each; every second round backwards, so that a drift favours none."""
    times = []
    for name, call in order if i % 2 == 0 else reversed(order):
        wait(device)
        start = clock()
        call()
        wait(device)
        times.append((name, clock() - start))
    return times


def wait(device: torch.device) -> None:
    """Until an accelerator has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """a / b, neighbour by neighbour: median and quartiles.

    Raises:
        ValueError: if they are not equally many, or none.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"a ratio needs as many times of both, at least one, got {len(a)} and {len(b)}")
    return quartiles([x / y for x, y in zip(a, b, strict=True)])


def quartiles(values: Sequence[float]) -> Ratio:
    """Median and quartiles of values, none of them beyond the values."""
    if len(values) < 2:
        return Ratio(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Ratio(median(values), low, high)


# ---- Memory ----------------------------------------------------------------------------------------------------------


def peak_memory(call: Call, device: torch.device = CPU) -> int:
    """The most bytes that a call has allocated at one time beyond what there was before it.

    Of torch's allocators: what a library takes by itself, as for a transform's scratch space, is not seen on the CPU.
    """
    if device.type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    results = profile.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    held = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def kept_for_backward(call: Call, module: nn.Module) -> int:
    """Bytes that a forward pass keeps for its backward pass, each storage once.

    What the module holds anyway, parameters and buffers, is left out; its input is not. Tensors that an autograd
    function keeps as plain attributes are not seen.
    """
    held = {_storage(tensor) for tensor in (*module.parameters(), *module.buffers())}
    saved: list[Tensor] = []  # alive until counted, or a storage's address would be given away again

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return _bytes(tensor for tensor in saved if _storage(tensor) not in held)


def held_bytes(module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Held:
    """Bytes of a module's parameters, gradients and buffers and of an optimizer's state, each storage once."""
    parameters = list(module.parameters())
    state = [] if optimizer is None else [value for each in optimizer.state.values() for value in each.values()]
    return Held(
        _bytes(p for p in parameters if p.requires_grad), _bytes(p for p in parameters if not p.requires_grad),
        _bytes(p.grad for p in parameters if p.grad is not None),
        _bytes(value for value in state if isinstance(value, Tensor)), _bytes(module.buffers()),
    )


def checkpoint_bytes(module: nn.Module) -> int:
    """Of the state dict as `torch.save` writes it."""
    file = BytesIO()
    torch.save(module.state_dict(), file)
    return len(file.getbuffer())


def _bytes(tensors: Iterable[Tensor]) -> int:
    storages = {_storage(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


