"""`zoo export`: a trained run as a plain model, one small file or a Hugging Face peft adapter."""

import math
from pathlib import Path
from typing import Literal

from zoo.cli.arguments import call
from zoo.errors import UserError
from zoo.files.trust import NOBODY, Trust


def main(argv: list[str]) -> int:
    """Write the export, and print where and how large it is."""
    print(call(export, argv))
    return 0


def export(
    run: str,
    *,
    to: Literal["dense", "safetensors", "peft"],
    output: str | None = None,
    backbone: str | None = None,
    rank: int | None = None,
    trust: Trust = NOBODY,
) -> str:
    """Write an export, whole or not at all.

    Args:
        run: a run's folder, a checkpoint or an adapter.safetensors.
        to: what to write.
        output: a new folder; by default export-<what> in the run's.
        backbone: where the pretrained network is now, if it was moved.
        rank: with --to peft: truncate updates of a higher rank to this one; what peft has no
            format for has 8 by default.
        trust: which classes besides zoo's own the run may name.

    Returns:
        Where it is, and how many bytes it has beside those of the dense update.

    Raises:
        UserError: if the run cannot be rebuilt here, the output is there already, or peft cannot
            hold the update.
    """
    if rank is not None and (rank < 1 or to != "peft"):
        raise UserError(
            f"--rank must be at least 1, and goes with --to peft; got --rank {rank} --to {to}"
        )
    from zoo.api.record import find_record
    from zoo.api.saving import for_python
    from zoo.files.access import new_folder, read_text, size
    from zoo.files.paths import ADAPTER
    from zoo.layers.convert import zoo_layers
    from zoo.runs import checkpoints, peft

    path = checkpoints.resolve(run)
    here = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    target = Path(output) if output else here / f"export-{to}"
    errors: dict[str, float] = {}
    with new_folder(target) as part:
        model = checkpoints.rebuild(path, backbone, trust=trust)
        if to == "dense":
            model.export_dense(part)
        elif to == "peft":
            if not model.peft_fields() and any(
                layer.has_base for layer in zoo_layers(model.net).values()
            ):
                raise UserError(
                    "a peft adapter is of a pretrained network, and the W0 of this run is in its "
                    "own checkpoints: export --to dense"
                )
            errors = peft.write(part, model.net, model.peft_fields(), rank, model.backbone_state())
        else:
            checkpoint, folder = checkpoints.load(path, resume=False), checkpoints.run_folder(path)
            config = read_text(folder / "config.yaml") if folder else checkpoint.get("config", "")
            checkpoints.write_adapter(part / ADAPTER, checkpoint, config)
            if (record := find_record(model.net)) is not None and record.start == "update":
                for_python(part, model.net, checkpoint["state_dict"])
    layers = zoo_layers(model.net).values()
    dense = sum(4 * math.prod(layer.parameterization.shape) for layer in layers)
    coefficients = sum(4 * layer.parameterization.num_trainable for layer in layers)
    lines = [
        f"written to      {target}",
        f"on disk         {size(target):,} bytes, with all that is trained",
        f"dense update    {dense:,} bytes in float32, {len(layers)} layers",
        f"coefficients    {coefficients:,} bytes",
    ]
    if any(errors.values()):
        worst = max(errors, key=errors.__getitem__)
        mean = sum(errors.values()) / len(errors)
        lines.append(
            f"relative error  mean {mean:.3g}, max {errors[worst]:.3g} ({worst}), of dW in the "
            "Frobenius norm"
        )
    return "\n".join(lines)
