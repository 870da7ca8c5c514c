"""Goals for layers, each a ratio of two things that are measured side by side in one run.

Here are those of layers; what needs a task or the command line is in `results.goals.rows`, peft's
in `results.goals.peft`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.layers.convert import convert
from zoo.parameterizations import DCT, BlockDCT
from zoo.studies.bench.floor import Case
from zoo.studies.bench.layers import Contender, Spec, contenders, passes
from zoo.studies.bench.timing import (
    CPU,
    Ratio,
    alternate,
    held_bytes,
    kept_for_backward,
    peak_memory,
    quartiles,
    ratio,
)

TOKENS = 4096
LAYERS = {(768, 768): 1.10, (3072, 768): 1.10, (4096, 4096): 1.25}
"""Shapes whose forward and backward pass has a goal, for DCT 1/2; BlockDCT has one for all."""
BLOCK, GROWTH, MEMORY, CACHE = 1.03, 1.5, 0.25, 1.02
SIZES = (256, 512, 1024, 2048, 4096, 8192)
"""Of square matrices that are rebuilt."""


class Goal(NamedTuple):
    """A goal and its measurement."""

    case: str
    goal: float
    measured: float
    low: float
    """The lower quartile, or what is measured where it does not vary."""
    high: float
    note: str
    at_least: bool = False
    """Whether more is better."""

    @property
    def met(self) -> bool:
        """Whether what is measured is as good as the goal."""
        return self.measured >= self.goal if self.at_least else self.measured <= self.goal


Row = Callable[[Callable[[str], None]], list[Goal]]
"""Measures some goals; is told what to call to say what it is at."""


def measure(
    names: Sequence[str] | None,
    say: Callable[[str], None],
    rows: Mapping[str, Row],
    done: Callable[[list[Goal]], None] = lambda goals: None,
) -> list[Goal]:
    """Measure the goals of some rows.

    Args:
        names: of the rows; None for all.
        say: takes what is measured now, in a few words.
        rows: by name.
        done: takes the goals of each row as they are measured.

    Raises:
        UserError: naming a row that is none.
    """
    wanted = list(rows) if names is None else list(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in rows]:
        raise UserError(f"the goals are some of {','.join(rows)}, got {unknown[0]!r}")
    measured = []
    for name in wanted:
        say(name)
        goals = rows[name](say)
        done(goals)
        measured += goals
    return measured


def goal(case: str, limit: float, spread: Ratio, note: str, at_least: bool = False) -> Goal:
    """Make a goal of a ratio with its quartiles."""
    return Goal(case, limit, *spread, note, at_least)


def exact(value: float) -> Ratio:
    """Return what does not vary as a ratio."""
    return Ratio(value, value, value)


# ---- Layers --------------------------------------------------------------------------------------


def layers(
    say: Callable[[str], None],
    shapes: Mapping[tuple[int, int], float] | None = None,
    tokens: int = TOKENS,
    seconds: float = 4.0,
) -> list[Goal]:
    """Time the forward and backward pass beside a dense layer's, in float32.

    Args:
        say: takes the shape.
        shapes: (m, n) of W, each with the goal of DCT.
        tokens: inputs at once.
        seconds: of a shape, and at least three rounds.
    """
    goals = []
    for shape, limit in (LAYERS if shapes is None else shapes).items():
        say(f"layer {shape[0]}x{shape[1]}")
        specs = [
            Spec(DCT, {"ratio": 0.5}),
            Spec(BlockDCT, {"ratio": 0.5}),
            Spec(BlockDCT, {"ratio": 0.1}),
        ]
        measured = [
            each
            for each in contenders(specs, shape, False, ["dense"], CPU)
            if isinstance(each, Contender)
        ]
        times = _passes(measured, Case("float32", shape, tokens), "forward_backward", seconds)
        for each in measured[1:]:
            assert each.spec is not None
            spread = ratio(times[each.name], times["dense"])
            note = f"float32, {_times(times[each.name], times['dense'])}"
            case = f"layer {shape[0]}x{shape[1]}, {tokens} tokens, {each.name} to dense"
            goals.append(goal(case, limit if each.spec.cls is DCT else BLOCK, spread, note))
    return goals


def _passes(
    layers: Sequence[Contender], case: Case, name: str, seconds: float
) -> dict[str, list[float]]:
    """Time one of a layer's passes for each contender, in seconds."""
    calls = {}
    for each in layers:
        each.layer.train(name != "evaluation")
        calls[each.name] = passes(each, case, CPU)[name]
    return alternate(calls, seconds, warmup=2, least=4)


def _times(ours: Sequence[float], theirs: Sequence[float]) -> str:
    a, b = (1e3 * quartiles(each).median for each in (ours, theirs))
    return f"{a:.3g} ms to {b:.3g} ms"


# ---- Growth --------------------------------------------------------------------------------------


def growth(
    say: Callable[[str], None], sizes: Sequence[int] = SIZES, seconds: float = 1.0
) -> list[Goal]:
    """Time how rebuilding W, (n, n), grows beside n^2 log n.

    The goal is for the time over n^2 log n, relative to the least n, at the n where it is largest.

    Args:
        say: takes the size.
        sizes: n, ascending.
        seconds: of a size, and at least three rounds.
    """
    goals = []
    for cls in (DCT, BlockDCT):
        spreads = {}
        for n in sizes:
            say(f"growth {cls.__name__} {n}")
            subspace = cls(n, n, ratio=0.1)
            with torch.no_grad():
                times = alternate({"": subspace.weight}, seconds, warmup=2, least=3)[""]
            spreads[n] = quartiles([t / (n * n * math.log(n)) for t in times])
        first = spreads[sizes[0]].median
        relative = {n: Ratio(*(value / first for value in spread)) for n, spread in spreads.items()}
        listed = ", ".join(f"{n}: {spread.median:.2f}" for n, spread in relative.items())
        case = (
            f"rebuild {cls.__name__} 0.1, time over n^2 log n, "
            f"largest of n = {sizes[0]}-{sizes[-1]} to the first"
        )
        goals.append(goal(case, GROWTH, max(relative.values()), listed))
    return goals


# ---- Memory --------------------------------------------------------------------------------------


def memory(
    say: Callable[[str], None],
    size: int = 2048,
    depth: int = 12,
    tokens: int = 32,
    ratio: float = 0.1,
) -> list[Goal]:
    """Count the bytes of training beside dense AdamW's.

    They are what stays from step to step, and what a forward pass keeps for backward.

    Args:
        say: takes the name of a network.
        size: of its square layers.
        depth: how many layers.
        tokens: inputs at once.
        ratio: K / mn, with W built again in backward.
    """
    dense = training_bytes(_network(size, depth), size, tokens)
    goals = []
    for cls in (DCT, BlockDCT):
        say(f"memory {cls.__name__}")
        network = convert(_network(size, depth), partial(cls, ratio=ratio), ["*"], recompute=True)
        ours = training_bytes(network, size, tokens)
        parts = ", ".join(f"{name} {mib(ours[name])} to {mib(dense[name])}" for name in ours)
        case = f"training memory, {depth} layers {size}x{size}, {cls.__name__} {ratio} to dense"
        share = (ours["held"] + ours["kept"]) / (dense["held"] + dense["kept"])
        goals.append(goal(case, MEMORY, exact(share), f"{tokens} tokens, recompute; MiB: {parts}"))
    return goals


def mib(count: float) -> str:
    """Write a number of bytes in MiB."""
    return f"{count / 2**20:.1f}"


def training_bytes(network: nn.Module, size: int, tokens: int) -> dict[str, int]:
    """Count the bytes of AdamW on (tokens, size) inputs.

    Returns:
        `held` from step to step, gradients too; `kept` for backward; and the `peak` of a step
        beyond what is held.
    """
    x = torch.randn(tokens, size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def forward() -> Tensor:
        return network(x).square().mean()

    def step() -> None:
        optimizer.zero_grad()
        forward().backward()
        optimizer.step()

    step()
    held = held_bytes(network, optimizer).total
    kept = kept_for_backward(forward, network)
    return {"held": held, "kept": kept, "peak": peak_memory(step)}


def _network(size: int, depth: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(size, size) for _ in range(depth)))


# ---- Evaluation ----------------------------------------------------------------------------------


def cache(
    say: Callable[[str], None],
    shape: tuple[int, int] = (768, 768),
    tokens: Sequence[int] = (1, 16, 512),
    seconds: float = 2.0,
) -> list[Goal]:
    """Time a forward pass in evaluation mode, again and again, beside a dense layer's.

    Args:
        say: takes the number of tokens.
        shape: (m, n) of W.
        tokens: inputs at once.
        seconds: of a number of tokens.
    """
    goals = []
    dense, ours = (
        each
        for each in contenders([Spec(DCT, {"ratio": 0.5})], shape, False, ["dense"], CPU)
        if isinstance(each, Contender)
    )
    for count in tokens:
        say(f"cache {count} tokens")
        times = _passes([dense, ours], Case("float32", shape, count), "evaluation", seconds)
        a, b = times[ours.name], times["dense"]
        case = (
            f"eval-mode forward, repeated, {shape[0]}x{shape[1]}, {count} tokens, "
            f"{ours.name} to dense"
        )
        goals.append(goal(case, CACHE, ratio(a, b), _times(a, b)))
    return goals


ROWS: dict[str, Row] = {"layer": layers, "growth": growth, "memory": memory, "cache": cache}
"""By the names that `python -m results.goals` takes."""
