"""Products with a weight that is built, and without: of BlockDCT, its kernel, RandLoRA and LoRA."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from results.gpu.cases.floors import Counts, floor
from results.gpu.cases.pairs import Case, Inputs, Pair, Shape, with_constant
from results.gpu.frame.clock import Call, Ceilings
from zoo.bases import block_products
from zoo.bases.kernels import floors
from zoo.parameterizations import BlockDCT, LoRA, RandLoRA
from zoo.parameterizations.low_rank.products import add_product

SHARES, BLOCKS = (0.5, 0.1), (16, 32)
FLUSH_BYTES = 256 * 2**20
"""Bytes of weights that few tokens go through in turn: more than caches hold, as in a network."""


def product(shape: Shape, tokens: int, dtype: str, device: str) -> Case:
    """Compare BlockDCT by its products with W built, each beside a dense layer."""
    (m, n), each = shape, [(share, block) for share in SHARES for block in BLOCKS]

    def make() -> dict[str, Call]:
        inputs = Inputs(shape, tokens, getattr(torch, dtype), device)
        dense = nn.Linear(n, m, bias=False).to(device)
        calls = {"dense": inputs.passes(dense, dense)}
        for share, block in each:
            p = BlockDCT(m, n, ratio=share, block=block).to(device)
            calls[f"product {share} {block}"] = inputs.passes(p._product, p)
            built = lambda x, p=p: F.linear(x, p.weight())  # noqa: E731
            calls[f"built {share} {block}"] = inputs.passes(built, p)
        return calls

    def least(pair: Pair, rates: Ceilings) -> float:
        k = int(float(pair.share) * m * n)
        counts = Counts(shape, k, 0, adds=(k, 3 * k) if pair.first == "product" else None)
        return floor(counts, tokens, True, rates)

    pairs = [
        Pair(way, "dense", tokens, str(share), str(block))
        for share, block in each
        for way in ("product", "built")
    ]
    return Case("product_pays", shape, tokens, dtype, "called", pairs, make, least)


def factors(shape: Shape, times: float, device: str) -> Case:
    """Compare RandLoRA of full rank as an update by its factors with W built.

    `times` is over the tokens for which both ways take as many operations.
    """
    wide, d = max(shape), min(shape)
    k = 8 * -(-d // 8)
    equal = 4 * wide * k * d / (k * (4 * wide + 6 * d) - 2 * wide * d)
    tokens = max(1, round(times * equal))
    size = tokens * k * (4 * wide + 6 * d) / (4 * wide * k * d + 2 * tokens * wide * d)

    counts = Counts(
        shape,
        k + d * k // 8,
        shape[0] * shape[1] + wide * k + 8 * d,
        2 * wide * k * d,
        (k * (wide + d), k * (2 * wide + 3 * d)),
        True,
    )

    def multiply(p: Any, x: Tensor, base: Tensor) -> Tensor:
        return add_product(x, base, None, *p._factors())

    # Under autocast `weight` would give W in float32, which the layer does not ask for.
    return _update("factors", RandLoRA, counts, tokens, size, multiply, RandLoRA._weight, device)


def lora(shape: Shape, tokens: int, device: str) -> Case:
    """Compare LoRA of rank 8 as an update, which never builds W, with W built."""
    k = 8 * sum(shape)
    counts = Counts(shape, k, shape[0] * shape[1], adds=(k, 3 * k), update=True)
    kind = partial(LoRA, rank=8)
    return _update("LoRA", kind, counts, tokens, tokens, LoRA.forward_update, LoRA.weight, device)


def _update(
    threshold: str,
    kind: Callable[..., Any],
    counts: Counts,
    tokens: int,
    size: float,
    multiply: Callable[[Any, Tensor, Tensor], Tensor],
    build: Callable[[Any], Tensor],
    device: str,
) -> Case:
    """Compare an update by its factors with W built.

    Args:
        threshold: what the case is called.
        kind: makes the parameterization of m and n.
        counts: of the layer.
        tokens: inputs at once.
        size: by which the threshold goes.
        multiply: of the parameterization, x and W0, without W.
        build: of the parameterization.
        device: "cuda" or "cpu".
    """

    def make() -> dict[str, Call]:
        inputs = Inputs(counts.shape, tokens, torch.bfloat16, device)
        p, base = kind(*counts.shape).to(device), torch.randn(counts.shape, device=device)
        return {
            "factors": inputs.passes(lambda x: multiply(p, x, base), p),
            "built": inputs.passes(lambda x: F.linear(x, (base + build(p)).to(x.dtype)), p),
        }

    pairs = [Pair("factors", "built", size)]
    least = partial(_floor_of, counts, tokens)
    return Case(threshold, counts.shape, tokens, "bfloat16", "called", pairs, make, least)


def _floor_of(counts: Counts, tokens: int, pair: Pair, rates: Ceilings) -> float:
    """Return the least seconds of both passes of a layer, whichever the pair."""
    return floor(counts, tokens, True, rates)


# ---- Ways within BlockDCT's product, and its kernel ----------------------------------------------


def one_by_one(shape: Shape, tokens: int, device: str) -> Case:
    """Compare all positions of a row of a block as one product with one after another."""

    def make() -> dict[str, Call]:
        call, constants = _half(shape, tokens, device), block_products.ONE_BY_ONE_ABOVE
        return {
            "one by one": with_constant(constants, device, -1, call),
            "as one": with_constant(constants, device, float("inf"), call),
        }

    return Case(
        "one by one",
        shape,
        tokens,
        "bfloat16",
        "called",
        [Pair("one by one", "as one", tokens)],
        make,
        _half_floor(shape, tokens),
    )


def chunks(shape: Shape, tokens: int, device: str) -> Case:
    """Compare some bytes of x at a time with all at once."""
    powers = (23, 25, 40)

    def make() -> dict[str, Call]:
        call, constants = _half(shape, tokens, device), block_products.CHUNK_BYTES
        return {
            f"1 << {power}": with_constant(constants, device, 1 << power, call) for power in powers
        }

    pairs = [Pair(f"1 << {power}", "1 << 40", tokens) for power in powers[:-1]]
    return Case(
        "chunks", shape, tokens, "bfloat16", "called", pairs, make, _half_floor(shape, tokens)
    )


def _half(shape: Shape, tokens: int, device: str) -> Call:
    """Make both passes of a BlockDCT with half of the coefficients, without W."""
    p = BlockDCT(*shape, ratio=0.5, block=16).to(device)
    return Inputs(shape, tokens, torch.bfloat16, device).passes(p._product, p)


def _half_floor(shape: Shape, tokens: int) -> Callable[[Pair, Ceilings], float]:
    k = shape[0] * shape[1] // 2
    return partial(_floor_of, Counts(shape, k, 0, adds=(k, 3 * k)), tokens)


def kernel(shape: Shape, share: float, tokens: int, launch: str, device: str) -> Case:
    """Compare the kernel, the product and the kept W for inference in bfloat16.

    It goes through as many layers as caches do not hold.
    """
    (m, n), k = shape, int(share * shape[0] * shape[1])
    layers = 1 if device == "cpu" else FLUSH_BYTES // (2 * k)

    def make() -> dict[str, Call]:
        from zoo.bases.kernels import block_linear

        p = BlockDCT(m, n, ratio=share, block=16).to(device, torch.bfloat16)
        layout, x = p.arrangement, torch.randn(tokens, n, device=device, dtype=torch.bfloat16)
        tables = block_linear.kernel_tables(layout, x.device, x.dtype)
        left, right = p.tables.left.to(x.dtype), p.tables.right.to(x.dtype)
        coefs = [p.coef.detach().clone() for _ in range(layers)]
        weights = _weights(shape, layers, device)
        ways: dict[str, list[Call]] = {
            "kernel": [
                partial(block_linear.block_linear, x, coef, layout, tables) for coef in coefs
            ],
            "product": [
                partial(block_products.BlockProduct.apply, x, coef, None, left, right, layout)
                for coef in coefs
            ],
            "kept": [partial(F.linear, x, weight) for weight in weights],
        }
        return {name: partial(_all, calls) for name, calls in ways.items()}

    def least(pair: Pair, rates: Ceilings) -> float:
        return layers * max(
            2 * (k + tokens * (m + n)) / rates.bandwidth, 2 * tokens * k / rates.products
        )

    pairs = [Pair("kernel", other, tokens, str(share)) for other in ("product", "kept")]
    return Case("kernel", shape, tokens, "bfloat16", launch, pairs, make, least)


def row_kernel(shape: Shape, share: float, tokens: int, launch: str, device: str) -> Case:
    """Compare RowDCT's kernel with the kept W for inference in bfloat16.

    The size is how many times the kernel's floor W's is.
    """
    (m, n), k = shape, int(share * shape[0] * shape[1])
    layers = 1 if device == "cpu" else FLUSH_BYTES // (4 * k)

    def make() -> dict[str, Call]:
        from zoo.bases.kernels.row_linear import row_linear, row_tables

        support = torch.randperm(m * n, device=device)[:k].sort().values.cpu()
        tables, x = (
            row_tables(support, m, n, device),
            torch.randn(tokens, n, device=device, dtype=torch.bfloat16),
        )
        coefs = [torch.randn(k, device=device, dtype=x.dtype) for _ in range(layers)]
        ways: dict[str, list[Call]] = {
            "kernel": [partial(row_linear, x, coef, tables) for coef in coefs],
            "kept": [partial(F.linear, x, weight) for weight in _weights(shape, layers, device)],
        }
        return {name: partial(_all, calls) for name, calls in ways.items()}

    def least(pair: Pair, rates: Ceilings) -> float:
        return layers * max(
            (4 * k + 2 * tokens * (m + n)) / rates.bandwidth, 2 * tokens * k / rates.products
        )

    dense, rows = floors.dense(m, n, tokens), floors.row_product(m, n, k, tokens, "int16")
    pair = Pair("kernel", "kept", floors.seconds(dense) / floors.seconds(rows), str(share))
    return Case("row kernel", shape, tokens, "bfloat16", launch, [pair], make, least)


def _weights(shape: Shape, layers: int, device: str) -> list[torch.Tensor]:
    """Make a weight for each layer, no more different ones than caches do not hold."""
    different = [
        torch.randn(shape, device=device, dtype=torch.bfloat16)
        for _ in range(min(layers, max(2, FLUSH_BYTES // (2 * shape[0] * shape[1]))))
    ]
    return [different[i % len(different)] for i in range(layers)]


@torch.no_grad()
def _all(calls: list[Call]) -> None:
    for call in calls:
        call()
