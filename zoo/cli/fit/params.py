"""What `zoo params` prints: what is swapped for what, and the counts."""

import json
import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from zoo.layers.convert import counts, table, zoo_layers
from zoo.layers.costs import cost_facts
from zoo.training.dense_phase import is_dense
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
        rows = None if datamodule is None else datamodule.batch_rows()
        facts = cost_facts(model.net, rows, self.precision)
        del facts["total_training_flops"]  # which a run has that is over
        print(params_json(model, facts) if json else params_table(model, facts, rows is None))


def params_json(model: ZooModule, cost: Mapping[str, int | None]) -> str:
    """Write layers, counts and cost as JSON."""
    facts = {"layers": table(model.net), **counts(model.net), "cost": cost}
    return json.dumps(facts, indent=2)


def params_table(model: ZooModule, cost: Mapping[str, int | None], assumed: bool) -> str:
    """Write layers, counts and cost in 80 columns; what all names begin with is said once.

    Args:
        model: the task.
        cost: of its network, as `cost_facts` has it.
        assumed: whether nothing says how many rows a training batch has.
    """
    rows = table(model.net)
    names = [str(row["layer"]) for row in rows]
    prefix = os.path.commonprefix(names).rpartition(".")[0] if len(names) > 1 else ""
    prefix = prefix + "." if len(prefix) > 12 else ""
    cells = [("layer", "shape", "kind", "trainable", "weights", "lr_mult")]
    for name, row in zip(names, rows, strict=True):
        shape = "x".join(map(str, row["shape"]))  # type: ignore[call-overload]
        numbers = (f"{row['trainable']:,}", f"{row['weights']:,}", _rates(row["lr_mult"]))
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
    unknown = ", whose size is unknown" if assumed else ""
    kept = ", and of W0" if any(x.stores_base for x in zoo_layers(model.net).values()) else ""
    lines += [
        "",
        f"coefficients    {total['coefficients']:>13,} for {total['replaced']:,} weights",
        f"trainable       {total['trainable']:>13,} of {total['total']:,} parameters of the dense "
        "model",
        f"checkpoint      {cost['checkpoint_bytes']:>13,} bytes of all that is trained{kept}",
        f"forward         {cost['forward_flops']:>13,} FLOPs a token in linear layers",
        f"training        {cost['training_flops']:>13,} at {cost['rows']:,} tokens a batch"
        f"{unknown}",
        f"decoding        {cost['decode_bytes']:>13,} bytes of them read for a token",
    ]
    if is_dense(model):
        lines.append(f"all that after  {model.dense_steps:>13,} steps of dense weights")
    return "\n".join(lines)


def _rates(mult: Any) -> str:
    """Write a factor on the learning rate, or from the least to the largest of several."""
    if isinstance(mult, Mapping):
        return f"{min(mult.values()):.2g}-{max(mult.values()):.2g}"
    return f"{mult:.2f}"
