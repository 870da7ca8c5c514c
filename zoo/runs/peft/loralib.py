"""LoRA as its authors' loralib saves it: a state dict with `lora_A` (r, in) and `lora_B` (out, r).

dW = alpha / r B A (arXiv 2106.09685). alpha stands in no file; what else was trained is there by
its own name.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zoo.errors import UserError
from zoo.runs.peft.adapter import Adapter, Factors, Update, by_layer
from zoo.runs.peft.lora import matrices


def read(path: Path, tensors: Mapping[str, Tensor], alpha: float | None) -> Adapter:
    """Read an adapter of linear layers.

    Args:
        path: the file, for messages.
        tensors: what it holds, by name.
        alpha: what the adapter was trained with; a finite number other than 0.

    Raises:
        UserError: if there is no alpha, no layer, or one of another kind than `loralib.Linear`.
    """
    layers, saved = by_layer(tensors, r"(.+)\.lora_([AB])")
    if not layers:
        raise UserError(
            f"'{path}' has no layers with lora_A and lora_B: give a peft adapter's folder, or a "
            "state dict of loralib's"
        )
    if alpha is None:
        raise UserError(
            f"'{path}' is a state dict of loralib's, which does not say alpha: give it as --alpha "
            "16"
        )
    if not math.isfinite(alpha) or alpha == 0:
        raise UserError(f"--alpha must be a finite number other than 0, got {alpha}")
    updates: dict[str, Update] = {}
    for layer, parts in layers.items():
        a, b = matrices(f"'{path}'", layer, parts)
        if len(a) != b.shape[1]:
            raise UserError(
                f"'{path}': {layer} is loralib's MergedLinear, several layers in one, and cannot "
                "be read: merge it with loralib instead"
            )
        updates[layer] = Factors(a, b, alpha / len(a))
    return Adapter({}, updates, saved, {})
