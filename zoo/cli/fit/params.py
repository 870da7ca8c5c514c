"""What `zoo params` prints: what is swapped for what, and the counts."""

import json
import os

from lightning.pytorch import Trainer

from zoo.layers.convert import counts, table
from zoo.training.module import ZooData, ZooModule


class ZooTrainer(Trainer):
    """Lightning's trainer, with the commands that look at a model."""

    def params(
        self, model: ZooModule, datamodule: ZooData | None = None, json: bool = False
    ) -> None:
        """Print what is swapped for what, and the counts.

        Args:
            model: the task.
            datamodule: its data.
            json: print JSON instead of a table.
        """
        print(params_json(model) if json else params_table(model))


def params_json(model: ZooModule) -> str:
    """Write layers and counts as JSON."""
    return json.dumps({"layers": table(model.net), **counts(model.net)}, indent=2)


def params_table(model: ZooModule) -> str:
    """Write layers and counts as a table of 80 columns; what all names begin with is said once."""
    rows = table(model.net)
    names = [str(row["layer"]) for row in rows]
    prefix = os.path.commonprefix(names).rpartition(".")[0] if len(names) > 1 else ""
    prefix = prefix + "." if len(prefix) > 12 else ""
    cells = [("layer", "shape", "kind", "trainable", "weights", "lr_mult")]
    for name, row in zip(names, rows, strict=True):
        shape = "x".join(map(str, row["shape"]))  # type: ignore[call-overload]
        numbers = (f"{row['trainable']:,}", f"{row['weights']:,}", f"{row['lr_mult']:.2f}")
        cells.append((name.removeprefix(prefix), shape, str(row["parameterization"]), *numbers))
    widths = [max(len(cell[i]) for cell in cells) for i in range(6)]
    lines = [
        f"{layer:<{widths[0]}} {shape:>{widths[1]}}  {kind:<{widths[2]}}  {trainable:>{widths[3]}} "
        "of "
        f"{weights:>{widths[4]}} {mult:>{widths[5]}}".rstrip()
        for layer, shape, kind, trainable, weights, mult in cells
    ]
    if prefix:
        lines.insert(0, f"in {prefix}*")
    total = counts(model.net)
    lines += [
        "",
        f"coefficients  {total['coefficients']:>9,} for {total['replaced']:,} weights",
        f"trainable     {total['trainable']:>9,} of {total['total']:,} parameters of the dense "
        "model",
    ]
    return "\n".join(lines)
