"""Circulant blocks against loops from C3A's formula, scipy, and peft's layer."""

import functools
from typing import ClassVar

import pytest
import scipy.linalg
import torch

from zoo.parameterizations import Circulant
from zoo.parameterizations.cost import counted
from zoo.testing import IsometryTestCase, agree

GRIDS = [(12, 12, 4), (12, 12, 3), (24, 10, 2), (10, 25, 5), (6, 6, 6), (5, 7, 1)]
"""m, n, b: square, tall, wide, one block, dense."""


class TestCirculant(IsometryTestCase):
    parameterization = Circulant
    arguments: ClassVar = {"block": 2}
    shapes = ((16, 16), (8, 24), (24, 8), (14, 6), (2, 12))
    small = (6, 4)
    std_tolerance = 0.03


class TestCirculantByFFT(TestCirculant):
    """The same without W, which at these sizes is faster to build."""

    arguments: ClassVar = {"ratio": 0.34}
    shapes = ((16, 16), (8, 24), (24, 8), (9, 6))  # blocks of 4, and of 3
    small = (6, 3)

    @pytest.fixture(autouse=True)
    def _never_built(self, monkeypatch):
        monkeypatch.setattr(Circulant, "_pays", lambda *_: True)


@pytest.mark.parametrize(("m", "n", "b"), GRIDS)
def test_every_block_is_circulant(m, n, b):
    """W[I b + r, J b + s] = c_IJ[(s - r) mod b] / sqrt(b), written out and by scipy."""
    p = Circulant(m, n, block=b).double()
    c, w = p.coef.detach().view(m // b, n // b, b), p.weight().detach()
    assert p.num_trainable == m * n // b
    wanted = torch.zeros(m, n, dtype=torch.float64)
    for i in range(m):
        for j in range(n):
            wanted[i, j] = c[i // b, j // b, (j - i) % b] / b**0.5
    agree(w, wanted, 1e-12)
    rows = scipy.linalg.circulant(c[0, -1].numpy()).T  # scipy's has c for its first column
    agree(w[:b, -b:], torch.from_numpy(rows) / b**0.5, 1e-12)


@pytest.mark.parametrize(("m", "n", "b"), GRIDS)
def test_a_projection_is_the_mean_of_each_wrapped_diagonal(m, n, b):
    p, target = Circulant(m, n, block=b).double(), torch.randn(m, n, dtype=torch.float64)
    p.project_(target)
    w = p.weight().detach()
    for i in range(0, m, b):
        for j in range(0, n, b):
            for d in range(b):
                on = [target[i + r, j + (r + d) % b] for r in range(b)]
                agree(w[i, j + d], torch.stack(on).mean(), 1e-9)


@pytest.mark.parametrize(("m", "n", "b"), [(768, 768, 12), (768, 384, 16), (390, 780, 13)])
def test_what_the_fft_takes(m, n, b, monkeypatch):
    """cost() is what torch counts of products by the FFT, alone and beside W0."""
    monkeypatch.setattr(Circulant, "_pays", lambda *_: True)
    p, base = Circulant(m, n, block=b), torch.randn(m, n)
    for rows, update in ((70, False), (7, True)):
        x = torch.randn(rows, n, requires_grad=True)
        path = functools.partial(p.forward_update, base=base) if update else p.forward
        cost = p.cost(rows, update)
        assert cost[:2] == counted(lambda path=path, x=x: path(x.clone()), [x, p.coef])
        assert cost.forward < rows * m * n * (1.3 if update else 0.3) and cost.read == m * n


@pytest.mark.parametrize(
    ("m", "n", "b", "scratch", "update"),
    [
        (384, 384, 8, False, False),
        (384, 384, 12, True, False),
        (768, 768, 64, True, False),
        (3072, 3072, 12, True, True),
        (128, 512, 64, False, False),
    ],
)
def test_where_the_fft_pays(m, n, b, scratch, update):
    p = Circulant(m, n, block=b)
    assert (p._pays(False), p._pays(True)) == (scratch, update)
    cost = p.cost(100)
    assert (cost.training < 300 * m * n) == scratch


@pytest.mark.parametrize(
    ("shape", "budget", "b"),
    [
        ((768, 768), {"ratio": 0.1}, 12),
        ((768, 768), {"ratio": 0.125}, 8),
        ((768, 3072), {"lora_rank": 8}, 96),
        ((24, 10), {"coefficients": 120}, 2),
        ((24, 10), {"coefficients": 239}, 2),
        ((13, 7), {"ratio": 1.0}, 1),
        ((768, 768), {"block": 64}, 64),
    ],
)
def test_the_smallest_block_that_a_budget_holds(shape, budget, b):
    p = Circulant(*shape, **budget)
    assert (p.block, p.num_trainable) == (b, shape[0] * shape[1] // b)


@pytest.mark.parametrize(
    ("shape", "arguments", "says"),
    [
        (
            (13, 7),
            {"ratio": 0.5},
            r"ratio 0.5 buys .* shape \(13, 7\): the largest, 1 x 1, need 91 .* ratio of 1",
        ),
        ((24, 10), {"coefficients": 119}, "the largest, 2 x 2, need 120 .* ratio of 0.5"),
        ((24, 16), {"block": 5}, r"block must divide both sides of \(24, 16\): 4 or 8, got 5"),
        ((24, 16), {"block": 0}, "both sides of .*: 1, got 0"),
        ((24, 16), {"block": 4, "ratio": 0.5}, "one of block and ratio, got 4 and 0.5"),
        ((24, 16), {}, "one of block and ratio, got neither"),
        ((24, 16), {"ratio": 1.5}, r"ratio must lie in \(0, 1\], got 1.5"),
        ((0, 16), {"block": 4}, "at least one row"),
    ],
)
def test_bad_arguments_say_what_would_work(shape, arguments, says):
    with pytest.raises(ValueError, match=says):
        Circulant(*shape, **arguments)


@pytest.mark.parametrize(("m", "n", "b"), [(12, 12, 4), (24, 8, 8), (8, 24, 2)])
def test_the_weight_of_c3a(m, n, b):
    """peft's dW of w is W of c = w sqrt(b) / n; from as many numbers, and the FFT's product too."""
    peft = pytest.importorskip("peft")
    from peft.tuners.c3a.utils import get_circulant_fast

    net = torch.nn.Sequential(torch.nn.Linear(n, m, bias=False))
    config = peft.C3AConfig(block_size=b, target_modules=["0"], init_weights="gaussian")
    theirs = peft.get_peft_model(net, config)
    layer = theirs.base_model.model[0]
    kernel = layer.c3a_kernel["default"].detach()
    ours = Circulant(m, n, block=b).double()
    with torch.no_grad():
        ours.coef.copy_(kernel.double().flatten() * b**0.5 / n)
    agree(ours.weight(), get_circulant_fast(kernel.double()) / n, 1e-12)
    agree(ours.weight(), layer.get_delta_weight("default"), 1e-6)
    trained = sum(q.numel() for q in theirs.parameters() if q.requires_grad)
    assert ours.num_trainable == trained
    x = torch.randn(5, n)
    agree(x.double() @ ours.weight().T, theirs(x) - x @ layer.get_base_layer().weight.T, 1e-5)
