"""The first paper's table: the character model as shipped, at the rates that the searches found.

Training takes 4000 steps. Model, data, windows, optimizer, warm-up, decay and precision are those
of `configs/char_lm.yaml`; `tests/results/test_gpu_characters.py` holds the first losses against
those of a real `zoo fit`. Seeds 1 to 5 of one method train side by side, each a branch of one CUDA
graph (`results.gpu.training.steps`); where that fails, or its first 50 losses are not those of
Lightning's loop on the same device, each is a graph of its own, and then the step is launched from
Python: `loop` says which, and `agreement` is the largest relative difference of those losses, for
the first seed.

Validation is over the whole last tenth every 250 steps, all its windows as one batch; Lightning's
batches of 32 give the same sum. `loss` is that of the last step, `best_loss` the least.

A step's floor, by the counts: 6 N T = 20 Gflop and 32 bytes of AdamW for each of 0.4 to 0.8 million
parameters, a fifth of a millisecond for five seeds. It is bound by its launches: 260 to 350
operations a seed (counted by dispatch), so about 350 kernels, 1 microsecond at least for each node
of a graph whatever it does, hence 1.8 ms for five seeds if the device starts one node at a time,
and 0.9 ms if branches run side by side at 2.5 microseconds a node: 4 to 7 s for the 4000 steps of a
method. With 16 validations of 5 ms for each seed, the capture and Lightning's 50 steps, 7 to 11 s a
method, and 90 to 140 s for thirteen.
"""

import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from results.gpu.cases.methods import METHODS, Method, Training, shipped
from results.gpu.frame.clock import ceilings, synchronize
from results.gpu.frame.failures import note
from results.gpu.frame.rows import Last, Table
from results.gpu.frame.setting import Setting

if TYPE_CHECKING:
    from results.gpu.training.steps import Run

GRAPHS = ("one graph, a branch for each seed", "a graph for each seed")
"""Loops of `results.gpu.training.steps` that are CUDA graphs."""
WIDTH = 68
"""Columns of a line of the summary."""
TOLERANCE = 0.05
"""Relative difference of first losses up to which a loop is the same as Lightning's.

In bfloat16 rounding grows: rates in float32 and one layer's start moved by 1e-6 change a loss by up
to 1e-3 in 50 steps (on a CPU). A step that works on others' memory is off by far more.
"""


def measure(setting: Setting, table: Table) -> None:
    """Write the rows of all seeds of each method together.

    A method that there is no time for is left to another run.
    """
    from zoo.cli.console import quiet

    quiet()  # Lightning, at the start of each reference
    took = 0.0
    with shipped(setting) as training:
        for name, method in METHODS.items():
            cases: list[dict[str, Any]] = [
                {"method": name, "seed": seed, "steps": training.steps} for seed in training.seeds
            ]
            if all(table.has(**case) for case in cases):
                continue
            if setting.left() < took:
                print(f"characters: no time was left from {name} on", file=sys.stderr)
                return
            start = time.time()
            try:
                broken = {
                    loop
                    for loop in GRAPHS
                    if any(f"{loop}: " in row.get("note", "") for row in table.rows)
                }
                rows = train(method, training, setting.left, broken)
            except Exception as error:  # of whatever kind, the next method is measured
                rows = [{"note": note(error, setting.device)} for _ in cases]
            if rows is None:
                print(f"characters: no time was left from {name} on", file=sys.stderr)
                return
            for case, row in zip(cases, rows, strict=True):
                if not table.has(**case):
                    table.write(**case, **row)
            took = time.time() - start


def train(
    method: Method, training: Training, left: Callable[[], float], broken: Collection[str] = ()
) -> list[dict[str, Any]] | None:
    """Train a method with all seeds and return a row for each; None if there is not time enough.

    Args:
        method: that is trained.
        training: how.
        left: seconds that are left.
        broken: loops that have failed before, for another method or in a process that they ended.

    Raises:
        RuntimeError: if there is no loop that works, or only one for which there is not time
            enough; or one has failed so that another process must go on.
    """
    from results.gpu.training import steps

    datas = [training.data(seed) for seed in training.seeds]
    vocabulary, device = datas[0].vocabulary, training.device
    ids = datas[0].encoded[0][0]
    seed, first = training.seeds[0], training.first
    wanted = steps.lightning_losses(
        training.model(method, seed, vocabulary), datas[0], training.steps, first, device
    )
    failed: list[str] = []
    step: Callable[[], object] | None = None
    for loop, way in steps.LOOPS.items():
        if (device == "cpu" and loop in GRAPHS) or loop in broken:
            continue
        try:
            runs = [
                steps.Run(
                    training.model(method, each, vocabulary).to(device),
                    ids,
                    steps.window_starts(
                        len(ids), training.steps, training.batch_size, training.block_size, each
                    ),
                    training.block_size,
                )
                for each in training.seeds
            ]
            replay = way(runs)
            for _ in range(first - runs[0].taken):
                replay()
            synchronize(device)
            agreement = ((runs[0].losses[:first].cpu() - wanted).abs() / wanted).max().item()
            if not agreement <= TOLERANCE:  # nan neither
                raise RuntimeError(f"losses differ by {agreement:.2g}")
            step = replay
            break
        except RuntimeError as error:
            failed.append(f"{loop}: {(why := note(error, device))}")
            if isinstance(why, Last):
                break
    if step is None:
        raise RuntimeError("; ".join(failed))
    windows = tuple(
        torch.stack(part).to(device)
        for part in zip(*datas[0].val_dataloader().dataset, strict=True)  # type: ignore[misc]
    )
    finished = _finish(runs, step, windows, training, left)
    if finished is None and failed:  # it would be so in another run too
        raise RuntimeError("; ".join([*failed, f"{loop}: too slow"]))
    if finished is None:
        return None
    losses, seconds = finished
    tokens = training.batch_size * training.block_size
    floor = sum(_floor(run, tokens, training.block_size, ceilings(device)) for run in runs)
    return [
        {
            "trainable": sum(p.numel() for p in run.model.parameters()),
            "rate": method.rate,
            "shipped_rate": method.shipped,
            "loss": f"{each[-1]:.4f}",
            "best_loss": f"{min(each):.4f}",
            "best_step": (1 + each.index(min(each))) * training.interval,
            "stable_rank": stable_rank(run),
            "step_ms": 1000 * seconds,
            "floor_ms": 1000 * floor,
            "tokens_per_second": len(runs) * tokens / seconds,
            "loop": loop,
            "agreement": agreement,
            "note": "; ".join(failed),
        }
        for run, each in zip(runs, losses, strict=True)
    ]


def _finish(
    runs: "Sequence[Run]",
    step: Callable[[], object],
    windows: Any,
    training: Training,
    left: Callable[[], float],
) -> tuple[list[list[float]], float] | None:
    """Take the steps of all runs.

    Returns the validation losses of each run, at every interval, and the seconds of a step of all;
    None if time runs out.
    """
    losses: list[list[float]] = [[] for _ in runs]
    seconds, counted, start = 0.0, 0, time.perf_counter()
    for done in range(training.first + 1, training.steps + 1):
        step()
        counted += 1
        if done % training.interval == 0:
            synchronize(training.device)
            seconds += time.perf_counter() - start
            for run, each in zip(runs, losses, strict=True):
                each.append(run.validate(windows))
            if (training.steps - done) * seconds / counted > left():
                return None
            start = time.perf_counter()
    return losses, seconds / counted


def _floor(run: "Run", tokens: int, context: int, most: Any) -> float:
    """Return the least seconds of a step of one run: its products, and what AdamW moves."""
    from results.gpu.training.steps import moved, operations

    with run.precision():
        return (
            operations(run.model, tokens, context) / most.products
            + moved(run.model) / most.bandwidth
        )


@torch.no_grad()
def stable_rank(run: "Run") -> float:
    """Return the mean stable rank over the matrices, as a run's summary has it."""
    from zoo.layers.convert import zoo_layers
    from zoo.training.callbacks import StableRank

    look = StableRank()
    look.looks[0] = look.measure(zoo_layers(run.model.net))
    assert look.mean is not None
    return look.mean


def lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Summarize the largest deviation over seeds, the loop, and the means of each method."""
    whole = [row for row in rows if row.get("loss")]
    said, spreads = [], [0.0]
    for name in METHODS:
        if of_method := [row for row in whole if row["method"] == name]:
            losses, ranks = (
                [float(row[key]) for row in of_method] for key in ("loss", "stable_rank")
            )
            said.append(
                f"{name} {statistics.mean(losses):.3f}/{statistics.mean(ranks):.0f}".replace(
                    " ", "\0"
                )
            )
            spreads.append(statistics.stdev(losses) if len(losses) > 1 else 0.0)
    if not whole:
        return []
    loops = ", ".join(sorted({row["loop"].split(",")[0] for row in whole}))
    step = statistics.median(float(row["step_ms"]) for row in whole)
    worst = max(float(row["agreement"]) for row in whole)
    text = [line.replace("\0", " ") for line in textwrap.wrap(" ".join(said), WIDTH)]
    return [
        f"loss/rank, +-{max(spreads):.3f}; {loops}, {step:.2f} ms a step, off by {worst:.0e}",
        *text,
    ]
