"""`zoo fit` beside nanoGPT's training loop, in turns within one process."""

import contextlib
import io
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from results.goals.goals import Goal, goal
from tasks.char_lm.model import GPT
from zoo.files.access import write_text
from zoo.studies.bench.timing import Call, Ratio, quartiles

CHARACTERS = "".join(chr(48 + i) for i in range(65))
"""As many as Tiny Shakespeare has. Which of them come costs nothing, so a random text will do."""
WINDOWS, BLOCK_SIZE, STEPS = 32, 128, 10_000
LOOP = {"dense.yaml": 1.0, "dct_half.yaml": 0.95}
"""Configs whose speed is compared, and their goals."""
CHUNK = 10
"""Steps of one loop before it is the other's turn."""


def loops(say: Callable[[str], None], count: int = 150) -> list[Goal]:
    """Compare tokens a second of `zoo fit` with those of nanoGPT's loop, in one process.

    `zoo fit` runs with all its callbacks, nanoGPT's loop with plain layers.

    Args:
        say: takes the config.
        count: steps of each.
    """
    goals = []
    for config, limit in LOOP.items():
        say(f"loop {config}")
        turns = Turns(
            {
                "nanoGPT's loop": plain_step(fused=False),
                "the same, AdamW fused": plain_step(fused=True),
            }
        )
        with corpus() as folder:
            fit(
                [
                    "--config",
                    config,
                    *options(folder),
                    f"--trainer.max_steps={count}",
                    "--trainer.limit_val_batches=0",
                ],
                [turns],
            )
        for name in turns.others:
            ours, theirs = turns.fit_seconds[1:], turns.seconds[name][1:]  # the first are slow
            shares = quartiles([b / a for a, b in zip(ours, theirs, strict=True)])
            rates = " to ".join(
                f"{WINDOWS * BLOCK_SIZE * CHUNK / quartiles(s).median:,.0f}" for s in (ours, theirs)
            )
            note = f"chunks of {CHUNK} steps, {rates} tokens a second; no validation"
            case = f"zoo fit {config}, tokens a second to {name}"
            # Whole time of the fit, in some of whose chunks callbacks run; a slow chunk of the
            # other is no merit of it.
            total = len(ours) * quartiles(theirs).median / sum(ours)
            goals.append(
                goal(case, limit, Ratio(total, shares.low, shares.high), note, at_least=True)
            )
    return goals


class Turns(Callback):
    """Takes turns with other loops: after every `CHUNK` steps of a fit, as many of each.

    Args:
        others: a step of each, by name.
    """

    def __init__(self, others: dict[str, Call]) -> None:
        self.others = others
        self.fit_seconds: list[float] = []
        self.seconds: dict[str, list[float]] = {name: [] for name in others}
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock while the others have their turn."""
        self._steps += 1
        if self._steps % CHUNK:
            return
        self.fit_seconds.append(time.perf_counter() - self._start)
        for name, step in self.others.items():
            start = time.perf_counter()
            for _ in range(CHUNK):
                step()
            self.seconds[name].append(time.perf_counter() - start)
        self._start = time.perf_counter()


def plain_step(fused: bool) -> Call:
    """Make a step of nanoGPT's train.py on the paper's model with `nn.Linear` layers.

    The loop is that of github.com/karpathy/nanoGPT.

    As published: batches stacked from a numpy array, the rate set by hand, AdamW in two groups with
    betas (0.9, 0.99), clipping, gradients set to None, a loss read every tenth step. Autocast,
    which it has on a GPU only, is given here.

    Args:
        fused: AdamW's kernel too, which it has on a GPU only.
    """
    torch.manual_seed(0)
    model, data = GPT(len(CHARACTERS), BLOCK_SIZE), ids().numpy().astype(np.uint16)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=fused)
    number = 0

    def batch() -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(data) - BLOCK_SIZE, (WINDOWS,))
        x = torch.stack(
            [torch.from_numpy(data[i : i + BLOCK_SIZE].astype(np.int64)) for i in starts]
        )
        y = torch.stack(
            [torch.from_numpy(data[i + 1 : i + 1 + BLOCK_SIZE].astype(np.int64)) for i in starts]
        )
        return x, y

    def rate(step: int) -> float:
        if step < 100:
            return 1e-3 * (step + 1) / 101
        return 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / (STEPS - 100))) * (1e-3 - 1e-4)

    x, y = batch()

    def step() -> None:
        nonlocal x, y, number
        for group in optimizer.param_groups:
            group["lr"] = rate(number)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1), ignore_index=-1)
        x, y = batch()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number % 10 == 0:
            loss.item()
        number += 1

    return step


# ---- A run on a random text ----------------------------------------------------------------------


def ids(count: int = 200_000) -> Tensor:
    """Draw a random text as ids."""
    return torch.randint(
        len(CHARACTERS), (count,), generator=torch.Generator().manual_seed(0), dtype=torch.int32
    )


@contextlib.contextmanager
def corpus() -> Iterator[Path]:
    """Provide a folder with a random text for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder) / "text.txt", "".join(CHARACTERS[i] for i in ids().tolist()))
        yield Path(folder)


def options(folder: Path) -> list[str]:
    """Return the options of `zoo fit` for a run in a folder of `corpus`."""
    return [f"--data.corpus={folder / 'text.txt'}", f"--trainer.default_root_dir={folder / 'runs'}"]


def fit(arguments: Sequence[str], callbacks: list[Callback]) -> None:
    """Run `zoo fit` in this process, in silence.

    Raises:
        RuntimeError: if it fails, with what it said.
    """
    from zoo.cli.fit.command import run

    said, before = io.StringIO(), sys.argv[:]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = run(["fit", *arguments], callbacks)
    except SystemExit:  # a parser's way to refuse
        status = 2
    finally:
        sys.argv[:] = before
    if status:
        raise RuntimeError(said.getvalue())
