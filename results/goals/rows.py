"""The rows of goals by name: those of layers and of peft, and those that need a task or zoo fit."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F

from results.goals import goals
from results.goals.goals import BLOCK, Goal, Row, goal
from results.goals.loop import BLOCK_SIZE, CHARACTERS, STEPS, WINDOWS, corpus, ids, loops, options
from results.goals.peft import peft_pairs
from tasks import CharLM
from tasks.text.windows import WindowLoader
from zoo.parameterizations import DCT, BlockDCT, Dense
from zoo.studies.bench.timing import Call, alternate, quartiles, ratio
from zoo.training.muon import StepScale
from zoo.training.optimizers import OptimizerConfig, build, warmup_cosine

IMPORTS = "import os, torch, lightning; os._exit(0)"
FIRST_STEP = """
import os, sys
from zoo.cli.fit.command import run
from lightning.pytorch import Callback
class Stop(Callback):
    def on_train_batch_end(self, *rest):
        os._exit(0)
sys.exit(run(sys.argv[1:], [Stop()]) or "no step was made")
"""
"""Both end at once: what an interpreter does when it is left is no part of a start."""


def measure(
    names: Sequence[str] | None,
    say: Callable[[str], None],
    done: Callable[[list[Goal]], None] = lambda goals: None,
) -> list[Goal]:
    """Measure the goals of some rows, or of all (`results.goals.goals.measure`)."""
    return goals.measure(names, say, ROWS, done)


# ---- A training step -----------------------------------------------------------------------------


def steps(say: Callable[[str], None], rounds: int = 40) -> list[Goal]:
    """Time a training step of the paper's model beside that of dense weights."""
    factories = {
        "dense": Dense,
        "dct_half": partial(DCT, ratio=0.5),
        "block_dct 1/2": partial(BlockDCT, ratio=0.5),
        "block_dct 1/10": partial(BlockDCT, ratio=0.1),
    }
    calls = {name: trained_step(factory) for name, factory in factories.items()}
    times = alternate(calls, rounds=rounds, warmup=5)
    measured = []
    for name in list(factories)[1:]:
        ours, dense = (1e3 * quartiles(times[key]).median for key in (name, "dense"))
        note = (
            f"paper's model, {WINDOWS} windows, bfloat16 autocast, {ours:.1f} ms to {dense:.1f} ms"
        )
        limit = 1.04 if name == "dct_half" else BLOCK
        measured.append(
            goal(f"training step, {name} to dense", limit, ratio(times[name], times["dense"]), note)
        )
    return measured


def trained_step(
    parameterization: Any,
    optimizer: Literal["adamw", "muon"] = "adamw",
    windows: int = WINDOWS,
    scale: StepScale = "spectral",
) -> Call:
    """Make a training step of the paper's model in a plain loop.

    It has bfloat16 autocast, AdamW or Muon, and clipping.
    """
    torch.manual_seed(0)
    model = CharLM(CHARACTERS, parameterization)
    batches = iter(WindowLoader(ids(), STEPS, windows, BLOCK_SIZE, seed=0))
    moved = build(model, OptimizerConfig(optimizer, lr=0.007, muon_scale=scale, final_lr=0.02))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        moved, lambda step: warmup_cosine(step, STEPS, 100, 0.02)
    )

    def step() -> None:
        inputs, targets = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten())
        moved.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        moved.step()
        schedule.step()

    return step


# ---- The start -----------------------------------------------------------------------------------


def imports(
    say: Callable[[str], None], rounds: int = 5, config: str = "dct_half.yaml"
) -> list[Goal]:
    """Time a process of `zoo fit` to the end of its first step.

    It is compared with a process that imports torch and lightning alone.
    """
    with corpus() as folder:
        calls = {
            "imports": partial(_process, IMPORTS),
            "fit": partial(_process, FIRST_STEP, "fit", "--config", config, *options(folder)),
        }
        times = alternate(calls, rounds=rounds, warmup=1)
    seconds = " to ".join(f"{quartiles(times[name]).median:.2f} s" for name in ("fit", "imports"))
    case = f"zoo fit {config} to its first step, to importing torch and lightning"
    return [goal(case, 1.3, ratio(times["fit"], times["imports"]), f"whole processes, {seconds}")]


def _process(code: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True)


ROWS: dict[str, Row] = {
    "step": steps,
    **goals.ROWS,
    "peft": peft_pairs,
    "loop": loops,
    "import": imports,
}
"""By the names that `python -m results.goals` takes."""
