"""What the linear layers of a network take: FLOPs a token, bytes read for one, bytes saved.

Layers count that `convert` swaps or could swap, parameterized and plain ones. Attention, norms,
convolutions, embeddings and biases are left out. Each layer counts
as if it were called once a pass with T rows, a head over few of them too, and as if its x needed a
gradient, the first one's too.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zoo.layers.batched import built_together
from zoo.layers.layer import ZooLayer, zoo_layers
from zoo.layers.plain import is_linear
from zoo.parameterizations.cost import Cost, cost_with_weight

ROWS = 1024
"""The rows of a step where nothing says how many there are."""
BYTES = {"64": 8, "32": 4, "16": 2, "bf16": 2}
"""Bytes of a number in a product, by the first word of the trainer's precision."""


def layer_cost(layer: nn.Module, rows: int, dense: bool = False) -> Cost:
    """Return what a linear layer takes with T rows of x.

    plain          T mn forward, 2 T mn backward; T mn if its weight is frozen; mn read
    parameterized  `WeightParameterization.cost`; `recompute` builds W again in backward, and a
                   base that is trained, beside a W that is not built, has a gradient of its own

    Args:
        layer: plain or parameterized.
        rows: T.
        dense: whether a parameterized layer is meant in a dense phase, and not after it.
    """
    if not isinstance(layer, ZooLayer):
        weight: Any = layer.weight
        products = rows * weight.numel()
        return Cost(products, (2 if weight.requires_grad else 1) * products, weight.numel())
    p = layer.parameterization
    if dense:
        products = rows * math.prod(p.shape)
        return Cost(products, 2 * products, math.prod(p.shape))
    update = layer.has_base and layer.dense_phase != "projected"
    scaled = not update and layer.scale != 1.0  # that is a product with W (`ZooLinear`)
    cost = cost_with_weight(p, rows) if scaled else p.cost(rows, update=update)
    again = p.building()[0] if layer.recompute and p.builds_weight else 0
    trained = update and any(w0.requires_grad for w0 in layer.base_parameters)
    trained = trained and not p.builds_weight and layer.dense_phase is None
    return cost._replace(backward=cost.backward + again + trained * rows * math.prod(p.shape))


def linear_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yield every linear layer once, parameterized or plain."""
    for module in model.modules():
        if is_linear(module) or (isinstance(module, ZooLayer) and module.kind == "linear"):
            yield module


def network_cost(model: nn.Module, rows: int, dense: bool = False) -> Cost:
    """Return what all linear layers of a network take together with T rows of x.

    Those that are handed a W (`zoo.layers.batched`) multiply by it, and it is built once.

    Args:
        model: the network.
        rows: T.
        dense: whether it is meant in a dense phase.
    """
    handed = {} if dense else built_together(model)
    built: set[nn.Module | None] = set()
    costs = [Cost(0, 0, 0)]
    with torch.inference_mode(False):  # where a map has no formula, W is built and counted
        for layer in linear_modules(model):
            p = handed.get(layer)
            cost = layer_cost(layer, rows, dense) if p is None else cost_with_weight(p, rows)
            if p is not None and p in built:
                forward, backward = p.building()
                cost = Cost(cost.forward - forward, cost.backward - backward, cost.read)
            built.add(p)
            costs.append(cost)
    return Cost(*map(sum, zip(*costs, strict=True)))


def checkpoint_bytes(model: nn.Module) -> int:
    """Return the bytes of all that is trained, as a checkpoint holds it after a dense phase.

    With them is every W0 that was drawn or trained here.
    """
    held: set[Tensor] = {p for p in model.parameters() if p.requires_grad}
    for layer in zoo_layers(model).values():
        space, base = layer.parameterization, layer.base_parameters
        held |= {p for name, p in space.named_parameters() if name in space.waiting}
        if layer.stores_base:
            held.update(base)
        if layer.dense_phase == "projected":
            held.difference_update(base)
    return sum(p.numel() * p.element_size() for p in held)


def number_bytes(precision: object) -> int:
    """Return the bytes of a number in a product, of a trainer's precision."""
    return BYTES.get(str(precision).partition("-")[0], 4)


def as_trained(model: nn.Module, precision: object) -> AbstractContextManager[Any]:
    """Return the context in which products have a trainer's precision, which may decide paths."""
    word, _, kind = str(precision).partition("-")
    device = next((p.device.type for p in model.parameters()), "meta")
    dtype = {"16": torch.float16, "bf16": torch.bfloat16}.get(word)
    if kind != "mixed" or dtype is None or device == "meta":
        return nullcontext()
    return torch.autocast(device, dtype)


def cost_facts(
    model: nn.Module,
    rows: int | None,
    precision: object,
    tokens: int | None = None,
    dense_tokens: int = 0,
) -> dict[str, int | None]:
    """Return the cost of a network as a run's summary states it, whole numbers by name.

    Args:
        model: the network.
        rows: T, the rows of x in a pass that trains, over which building W is spread; None if that
            is not known (`ROWS`).
        precision: of the trainer, which says how wide numbers are when a token is decoded.
        tokens: rows of x in the whole run, if it is over.
        dense_tokens: those of them in its dense phase. All else is stated for what comes after.

    Returns:
        `rows`; `forward_flops` and `training_flops`, of a row; `total_training_flops`, of all
        `tokens`; `checkpoint_bytes`; and `decode_bytes`, read to make one row without gradients.
    """
    rows = rows or ROWS
    with as_trained(model, precision):
        cost, dense = network_cost(model, rows), network_cost(model, rows, dense=True)
    total = None
    if tokens is not None:
        rest = tokens - dense_tokens
        total = 2 * (cost.training * rest + dense.training * dense_tokens) // rows
    return {
        "rows": rows,
        "forward_flops": round(2 * cost.forward / rows),
        "training_flops": round(2 * cost.training / rows),
        "total_training_flops": total,
        "checkpoint_bytes": checkpoint_bytes(model),
        "decode_bytes": cost.read * number_bytes(precision),
    }
