"""Transformers' own loop in a second: its arguments, rows to train on, and what a network gives."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

IDS = torch.arange(3, 23)[None]
WORDS = torch.randint(3, 60, (16, 12), generator=torch.Generator().manual_seed(0))
SETTINGS: dict[str, dict[str, Any]] = {
    "LoRA": {"rank": 2},
    "DCT": {"ratio": 0.1},
    "BlockDCT": {"ratio": 0.1},
    "RandLoRA": {"ratio": 0.1},
    "DoRA": {"rank": 2},
}
"""Parameterizations of updates, and settings for a tiny network."""
TEXTS = {"input_ids": WORDS, "labels": WORDS}
"""Sixteen texts of twelve words, for a network that tells the next one."""


class Rows(torch.utils.data.Dataset):
    """The rows of a batch."""

    def __init__(self, batch: Mapping[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(next(iter(self.batch.values())))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: values[i] for name, values in self.batch.items()}


def arguments(folder: Path, **more: Any) -> dict[str, Any]:
    """Settings of transformers' `TrainingArguments`, and of what other libraries make of these."""
    settings = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
    }
    return settings | more


def trainer(
    model: nn.Module,
    folder: Path,
    batch: Mapping[str, Tensor] = TEXTS,
    callbacks: Iterable[Any] = (),
    **more: Any,
) -> Any:
    """A loop of a few steps over the rows of a batch."""
    import transformers

    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**arguments(folder, **more)),
        train_dataset=Rows(batch),
        eval_dataset=Rows(batch),
        callbacks=list(callbacks),
    )


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    return model.eval()(input_ids=ids).logits
