"""Pairs of ways between which zoo chooses by size, on both sides of each threshold."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor

from results.gpu.cases.pairs import Case, Pair, Shape, with_constant
from results.gpu.cases.products import (
    chunks,
    factors,
    kernel,
    lora,
    one_by_one,
    product,
    row_kernel,
)
from results.gpu.frame.clock import Call, Ceilings
from zoo.bases import cosine
from zoo.bases.basis import Plan, SomeSides
from zoo.bases.cosine import dct_matrix
from zoo.layers import batched
from zoo.parameterizations import DCT, BlockDCT, OrthonormalSubspace


def cases(device: str, small: bool) -> Iterator[Case]:
    """Yield all cases in the order of their worth."""
    squares = [16, 32] if small else [256, 512, 768, 1024, 1536, 2048, 4096]
    shapes = [(n, n) for n in squares]
    yield from (_fft(shape, device) for shape in [*shapes, *([] if small else [(3072, 768)])])
    for shape in shapes[:2] if small else [(768, 768), (2048, 2048), (4096, 4096)]:
        for tokens in (4, 16) if small else (4096, 256, 16):
            yield product(shape, tokens, "bfloat16", device)
    for kind in (DCT, BlockDCT):
        for n in [8, 16] if small else [128, 256, 512, 1024, 2048]:
            yield _together(kind, n, device)
    for shape in shapes[:1] if small else [(768, 768), (2048, 2048), (4096, 4096)]:
        yield from (factors(shape, times, device) for times in (0.25, 0.5, 1, 2, 4))
    launch = "called" if small else "graph"
    for share in (0.125,) if small else (0.5, 0.125):
        for tokens in (1,) if small else (1, 4, 16, 64):
            yield kernel((32, 32) if small else (4096, 4096), share, tokens, launch, device)
    for shape in shapes[:1] if small else [(1024, 1024), (2048, 2048), (4096, 4096)]:
        yield _pieces(shape, device)
    yield from (_transpose(shape, device) for shape in (shapes[:1] if small else shapes[1:]))
    wide = 32 if small else 4096
    yield from (
        chunks((wide, wide), tokens, device) for tokens in ((8,) if small else (4096, 16384))
    )
    yield from (
        one_by_one((wide, wide), tokens, device) for tokens in ((8,) if small else (64, 1024, 8192))
    )
    for share in (0.125,) if small else (0.125, 0.02):
        for tokens in (1,) if small else (1, 4, 16):
            yield row_kernel((32, 32) if small else (4096, 4096), share, tokens, launch, device)
    yield from (
        _fft(shape, device, rows_only=True) for shape in (shapes[:1] if small else shapes[::2])
    )
    if small:
        return
    yield from (_fft(shape, device, "tf32") for shape in shapes[2:])
    yield from (_fft(shape, device, launch="graph") for shape in shapes[:6])
    yield from (product((2048, 2048), tokens, "float32", device) for tokens in (4096, 256, 16))
    yield from (lora((4096, 4096), tokens, device) for tokens in (256, 4096, 16384))


# ---- Transforms ----------------------------------------------------------------------------------


def _there_and_back(shape: Shape, device: str, rows_only: bool = False) -> dict[str, Call]:
    """Return W from its coefficients, and the coefficients of a gradient, both ways.

    The first overwrites the coefficients.
    """
    m, n = shape
    where = torch.device(device)
    left = None if rows_only else dct_matrix(m).to(where, torch.float32)
    sides = SomeSides(left, dct_matrix(n).to(where, torch.float32))
    plan = cosine.cosine_plan(m, n, where, torch.float32, rows_only)
    plane, grad = (torch.randn(m, n, device=device) for _ in range(2))
    packed = torch.randn(cosine.packed_shape(m, n, rows_only), device=device)

    def both(coefficients: Tensor, plan: Plan) -> None:
        plan.synthesize(coefficients.clone(), shape)
        plan.analyze(grad)

    return {"fft": partial(both, packed, plan), "products": partial(both, plane, sides)}


def _moved(shape: Shape) -> Callable[[Pair, Ceilings], float]:
    """Return the floor of reading coefficients and writing W, and back, in float32."""
    return lambda pair, rates: 16 * shape[0] * shape[1] / rates.bandwidth


def _fft(
    shape: Shape,
    device: str,
    dtype: str = "float32",
    launch: str = "called",
    rows_only: bool = False,
) -> Case:
    name = "fft of rows" if rows_only else "fft"
    pairs = [Pair("fft", "products", shape[0] * shape[1])]
    return Case(
        name,
        shape,
        "",
        dtype,
        launch,
        pairs,
        partial(_there_and_back, shape, device, rows_only),
        _moved(shape),
    )


def _pieces(shape: Shape, device: str) -> Case:
    def make() -> dict[str, Call]:
        fft, constants = _there_and_back(shape, device)["fft"], cosine.BLOCK
        return {
            f"1 << {power}": with_constant(constants, device, 1 << power, fft)
            for power in (18, 22, 40)
        }

    size = shape[0] * shape[1]
    pairs = [Pair(f"1 << {power}", "1 << 40", size) for power in (18, 22)]
    return Case("pieces", shape, "", "float32", "called", pairs, make, _moved(shape))


def _transpose(shape: Shape, device: str) -> Case:
    def make() -> dict[str, Call]:
        fft, constants = _there_and_back(shape, device)["fft"], cosine.BLOCKED_FROM
        return {
            "own pass": with_constant(constants, device, 0, fft),
            "strided": with_constant(constants, device, 1 << 60, fft),
        }

    pairs = [Pair("own pass", "strided", shape[0] * shape[1])]
    return Case("transpose", shape, "", "float32", "called", pairs, make, _moved(shape))


# ---- Weights built together ----------------------------------------------------------------------


def _together(kind: type[OrthonormalSubspace], n: int, device: str) -> Case:
    """Compare four weights and the gradients of their coefficients as a batch with one by one."""

    def drawn(
        seed: int,
    ) -> OrthonormalSubspace:  # places once, where they stay: of 2048 x 2048 they take seconds
        with torch.device("meta"):
            p = kind(n, n, ratio=0.5, seed=seed)
        p.to_empty(device=device)
        p.reset_parameters(n**-0.5)
        return p

    def make() -> dict[str, Call]:
        with ThreadPoolExecutor(4) as pool:
            maps = list(pool.map(drawn, range(4)))
        coefs = [p.coef for p in maps]
        grads = [torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in maps]

        def back(weights: Any) -> None:
            torch.autograd.grad(weights, coefs, grads)

        return {
            "batch": lambda: back(batched._Together.apply(maps, torch.bfloat16, *coefs)),
            "alone": lambda: back([p.weight().to(torch.bfloat16) for p in maps]),
        }

    pairs = [Pair("batch", "alone", n * n)]
    return Case(
        f"together, {kind.__name__}",
        (n, n),
        "",
        "bfloat16",
        "called",
        pairs,
        make,
        lambda pair, rates: 4 * n * n * (2 * 4 * 0.5 + 2 * 2) / rates.bandwidth,
    )
