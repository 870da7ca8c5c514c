"""LoRA as its authors' loralib saves it: a state dict with `lora_A` (r, in) and `lora_B` (out, r).

dW = alpha / r B A (arXiv 2106.09685). alpha stands in no file; what else was trained is there by
its own name. A `MergedLinear` is several layers in one, as GPT-2's query, key and value are: A has
(g r, in) of the g enabled ones, B (g out / G, r) of all G. Its dW is one of rank g r. Which are
enabled stands in no file either.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.runs.peft.adapter import Adapter, Factors, Update, by_layer


def read(
    path: Path, tensors: Mapping[str, Tensor], alpha: float | None, enabled: Sequence[bool] | None
) -> Adapter:
    """Read an adapter of linear layers.

    Args:
        path: the file, for messages.
        tensors: what it holds, by name.
        alpha: what the adapter was trained with; a finite number other than 0.
        enabled: which parts of merged layers were trained, loralib's `enable_lora`.

    Raises:
        UserError: if there is no alpha, no layer, or one of another kind than `loralib.Linear` and
            `loralib.MergedLinear`.
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
        a, b = parts.get("A"), parts.get("B")
        if a is None or b is None or not a.ndim == b.ndim == 2 or not a.numel() or not b.numel():
            raise UserError(
                f"'{path}': {layer} has no matrices (r, in) and (out, r): use another one"
            )
        a, b = a.float(), b.float()
        rank = b.shape[1]
        if len(a) != rank:
            b = _apart(f"'{path}': {layer}", a, b, enabled)
        updates[layer] = Factors(a, b, alpha / rank)
    return Adapter({}, updates, saved, {})


def _apart(where: str, a: Tensor, b: Tensor, enabled: Sequence[bool] | None) -> Tensor:
    """Return the B (out, g r) that goes with the A of a merged layer, 0 but for each part's own.

    Raises:
        UserError: if nothing says which parts there are, or there are others.
    """
    parts, odd = divmod(len(a), b.shape[1])
    if enabled is None or odd or len(b) % parts or sum(enabled) != parts:
        raise UserError(
            f"{where} is loralib's MergedLinear, several layers in one, {parts} of them trained: "
            "say which, as in --enable_lora true,false,true"
        )
    blocks = iter(b.split(len(b) // parts))  # (out / G, r) each
    rows = [next(blocks) if each else torch.zeros(len(b) // parts, 0) for each in enabled]
    return torch.block_diag(*rows)
