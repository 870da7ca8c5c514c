"""LoRA as its authors' loralib saves it: a state dict with `...query.lora_A` (r, in) and `...query.lora_B` (out, r).

dW = alpha / r B A (arXiv 2106.09685). alpha stands in no file; what else was trained is there by
its own name.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zoo.errors import UserError
from zoo.runs.peft.adapter import Adapter, Factors, Update


def read(path: Path, tensors: Mapping[str, Tensor], alpha: float | None) -> Adapter:
    """An adapter of linear layers.

    Args:
        path: of the file, for messages.
        tensors: by name.
        alpha: it was trained with.

    Raises:
        UserError: if there is no alpha, no layer, or one of another kind than `loralib.Linear`.
    """
    found: dict[str, dict[str, Tensor]] = {}
    saved = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.+)\.lora_([AB])", name):
            found.setdefault(match[1], {})[match[2]] = tensor
        else:
            saved[name] = tensor
    if not found:
        raise UserError(
            f"'{path}' has no layers with lora_A and lora_B: give a peft adapter's folder, or a state dict "
            "of loralib's"
        )
    if alpha is None:
        raise UserError(
            f"'{path}' is a state dict of loralib's, which does not say alpha: give it as --alpha 16"
        )
    if not math.isfinite(alpha) or alpha == 0:
        raise UserError(f"--alpha must be a finite number other than 0, got {alpha}")
    updates: dict[str, Update] = {}
    for layer, pair in found.items():
        a, b = pair.get("A"), pair.get("B")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or not b.numel():
            raise UserError(
                f"'{path}': {layer} has no matrices (r, in) and (out, r): use another one"
            )
        if a.shape[0] != b.shape[1]:
            raise UserError(
                f"'{path}': {layer} is loralib's MergedLinear, several layers in one, and cannot be read: "
                "merge it with loralib instead"
            )
        updates[layer] = Factors(a.float(), b.float(), alpha / len(a))
    return Adapter({}, updates, saved, {})
