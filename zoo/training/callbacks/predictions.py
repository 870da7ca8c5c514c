"""The table that `zoo predict` leaves in the run's folder, whole or not at all."""

import csv
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.errors import UserError
from zoo.files.access import check_writable, opened, write_text
from zoo.training.callbacks.summary import aligned
from zoo.training.checkpoint_files import run_folder

WIDEST = 4096
"""Numbers of an example that a table has columns for."""
INDEX = "index"


@runtime_checkable
class NamesColumns(Protocol):
    """A task whose table says more than what `predict_step` gives: labels by their names, say."""

    def prediction_columns(self, outputs: Any) -> Mapping[str, Any]:
        """Return columns by name, (examples,) each, of what one `predict_step` gave."""


class Predictions(Callback):
    """Writes `predictions.tsv`, a row for each example, into the folder of the run that predicts.

    Whatever `predict_step` gives becomes columns: a tensor (examples,) or (examples, values) is
    called `prediction`, and the parts of a mapping by their keys; `NamesColumns` is for tasks that
    have more to say. The first column, `index`, is the example's number, and rows are in its order.
    `predict_step` gives it, or else the sampler of the loader, shuffled or not, where there is a
    row for each example that it drew; otherwise rows are numbered as they come, of one process
    alone.

    A checkpoint that is in no run has its table beside it, and a task without any in the current
    folder. Of several loaders each has a table of its own, `predictions-NAME.tsv` by the `name` of
    its data set, or by its number. An earlier table is replaced, any other file is not.
    """

    def __init__(self) -> None:
        self.rows: dict[int, list[list[Any]]] = {}
        self.names: dict[int, list[str]] = {}
        self.numbered: dict[int, bool] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be written, before the work is done.

        Raises:
            UserError: if a table's place is taken by a file that is none, or cannot be written.
        """
        self.rows, self.names, self.numbered = {}, {}, {}
        for path in self.paths(trainer):
            check_writable(path.parent, "--ckpt_path", "predictions to ")
            if (path.exists() or path.is_symlink()) and not _is_table(path):
                raise UserError(
                    f"'{path}' is there already, and no table of predictions: move it away"
                )

    def paths(self, trainer: Trainer) -> list[Path]:
        """Find where the table of each loader goes."""
        folder = Path()
        if trainer.ckpt_path:
            checkpoint = Path(trainer.ckpt_path)
            folder = run_folder(checkpoint) or checkpoint.parent
        loaders = trainer.predict_dataloaders
        loaders = list(loaders) if isinstance(loaders, list | tuple) else [loaders]
        if len(loaders) == 1:
            return [folder / "predictions.tsv"]
        names = [
            str(getattr(getattr(loader, "dataset", None), "name", i))
            for i, loader in enumerate(loaders)
        ]
        if len(set(names)) < len(names) or not all(
            re.fullmatch(r"\w[\w.-]*", name) for name in names
        ):
            names = [str(i) for i in range(len(names))]
        return [folder / f"predictions-{name}.tsv" for name in names]

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the rows of a batch.

        Raises:
            UserError: if they are no table, or not that of the batches before, or several processes
                do not say which.
        """
        if isinstance(pl_module, NamesColumns):
            outputs = pl_module.prediction_columns(outputs)
        table = columns(outputs)
        what = f"predict_step of {type(pl_module).__name__} gives"
        if not table:
            return
        if (most := max(map(len, table.values()))) != min(map(len, table.values())):
            name = next(name for name, column in table.items() if len(column) != most)
            raise UserError(
                f"{what} {most} rows, but {len(table[name])} of {name!r}: give as many of each"
            )
        drawn = self._drawn(trainer, batch_idx, dataloader_idx) if INDEX not in table else None
        if (
            drawn is not None
            and len(drawn) == most
            and self.numbered.setdefault(dataloader_idx, True)
        ):
            table = {INDEX: drawn, **table}
        elif INDEX not in table and self.numbered.setdefault(dataloader_idx, False):
            raise UserError(
                f"{what} {most} rows for a batch of {len(drawn or ())} examples, after one for "
                f"each: return an {INDEX!r}, the number of each example"
            )
        if trainer.world_size > 1 and INDEX not in table:
            raise UserError(
                f"{what} no {INDEX!r}, the number of each example, which several processes need: "
                "return one, or give --trainer.devices 1"
            )
        rows = self.rows.setdefault(dataloader_idx, [])
        index = table.pop(INDEX, range(len(rows), len(rows) + most))
        names = self.names.setdefault(dataloader_idx, [INDEX, *table])
        if names != [INDEX, *table]:
            raise UserError(
                f"{what} {', '.join(table)} after {', '.join(names[1:])}: give the same each time"
            )
        rows += map(list, zip(index, *table.values(), strict=True))

    def _drawn(self, trainer: Trainer, batch_idx: int, dataloader_idx: int) -> Sequence[int] | None:
        """Return the numbers of the examples that a loader has drawn for a batch, if known."""
        loaders = trainer.predict_dataloaders
        loader = loaders[dataloader_idx] if isinstance(loaders, list | tuple) else loaders
        seen = getattr(getattr(loader, "batch_sampler", None), "seen_batch_indices", ())
        numbers = seen[batch_idx] if batch_idx < len(seen) else None
        plain = isinstance(numbers, list) and all(type(number) is int for number in numbers)
        return numbers if plain else None

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rows of all processes; write the tables, and print where they are."""
        parts = [(self.rows, self.names)]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size  # type: ignore[list-item]
            torch.distributed.all_gather_object(parts, (self.rows, self.names))
        if not trainer.is_global_zero:
            return
        paths = self.paths(trainer)
        for number in sorted({number for rows, _ in parts for number in rows}):
            names = next(names[number] for _, names in parts if number in names)
            every = [row for rows, _ in parts for row in rows.get(number, ())]
            if INDEX in names:
                every = [row for _, row in sorted({row[0]: row for row in every}.items())]
            write_text(paths[number], render([names, *every]))
            table = os.path.relpath(paths[number])
            print(
                aligned({"predictions": f"{len(every):,} rows: {shorten(names)}", "table": table})
            )
        if not any(rows for rows, _ in parts):
            print("predictions  none")


def shorten(names: Sequence[str], most: int = 8) -> str:
    """Name the first few, and say how many more there are."""
    return (
        ", ".join(names)
        if len(names) <= most
        else f"{', '.join(names[:most])} and {len(names) - most:,} more"
    )


def _is_table(path: Path) -> bool:
    """Tell whether a file is what was written here before."""
    try:
        with opened(path) as file:
            return file.readline(99).startswith(f"{INDEX}\t".encode())
    except UserError:
        return False


def columns(outputs: Any, name: str = "prediction") -> dict[str, Sequence[Any]]:
    """Make columns of plain values, by name, of what `predict_step` gave.

    Args:
        outputs: a tensor whose first dimension is the examples, a sequence of as many values or
            strings, a mapping of such, or a tuple of tensors, named or not; None is no column.
        name: of what has none; parts are called `name_0`, or by the mapping's keys.

    Raises:
        UserError: for a tensor that has more than `WIDEST` numbers for an example.
    """
    if outputs is None:
        return {}
    if hasattr(outputs, "_asdict"):  # a named tuple
        outputs = outputs._asdict()
    if isinstance(outputs, Mapping):
        found: dict[str, Sequence[Any]] = {}
        for key, value in outputs.items():
            found |= columns(value, str(key))
        return found
    if not isinstance(outputs, Tensor) and hasattr(outputs, "__array__"):
        outputs = torch.as_tensor(outputs)
    if isinstance(outputs, Tensor):
        values = outputs.detach().cpu()
        rows = values.flatten(1) if values.dim() > 1 else values.reshape(-1, 1)
        if rows.shape[1] > WIDEST:
            raise UserError(
                f"predict_step gives {tuple(values.shape)} as {name!r}, and a table has room for "
                f"{WIDEST:,} numbers of an example: give fewer, such as the likeliest"
            )
        if values.dim() < 2:
            return {name: rows[:, 0].tolist()}
        return {f"{name}_{i}": column.tolist() for i, column in enumerate(rows.unbind(1))}
    if isinstance(outputs, list | tuple) and any(
        isinstance(each, Tensor | Mapping | list | tuple) for each in outputs
    ):
        found = {}
        for i, each in enumerate(outputs):
            found |= columns(each, f"{name}_{i}")
        return found
    return {name: outputs if isinstance(outputs, list | tuple) else [outputs]}


def render(rows: Sequence[Sequence[Any]]) -> str:
    """Write rows as tab-separated values, quoted as csv's readers take it."""
    file = io.StringIO()
    csv.writer(file, delimiter="\t", lineterminator="\n").writerows(
        [cell(value) for value in row] for row in rows
    )
    return file.getvalue()


def cell(value: Any) -> str:
    """Write a value for a table; what cannot be printed becomes escapes.

    Numbers have the 9 digits that tell float32s apart.
    """
    if isinstance(value, float):
        return f"{value:.9g}" if math.isfinite(value) else str(value)
    text = str(value).replace("\\", "\\\\") if isinstance(value, str) else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
