"""Formulas of cost, against what torch counts and what Fourier transforms are said to take."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from every import OF_EACH_KIND, factories
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.bases.cosine import fft_pays
from zoo.bases.fourier import fft_multiply_adds
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import DCT, BlockDCT, Dense, LoRA, RandLoRA, RowDCT, Zigzag
from zoo.parameterizations.cost import counted, counter, products_of_weight
from zoo.testing import case_for

PATHS = {
    "cosines of both sides": (partial(DCT, ratio=0.1), (96, 64)),
    "FFT of both sides": (partial(DCT, ratio=0.1), (200, 300)),
    "FFT of odd sides": (partial(Zigzag, ratio=0.1), (301, 163)),
    "random sides": (partial(Zigzag, ratio=0.1, basis="random"), (200, 300)),
    "cosines of rows": (partial(RowDCT, ratio=0.1), (64, 96)),
    "FFT of rows": (partial(RowDCT, ratio=0.1), (300, 200)),
    "blocks, no W": (partial(BlockDCT, ratio=0.02), (768, 96)),
    "blocks, fewer coefficients than rows": (
        partial(BlockDCT, coefficients=5 * 9, block=32),
        (96, 96),
    ),
    "blocks, W for many rows": (partial(BlockDCT, ratio=0.9), (96, 96)),
    "full-rank bases": (partial(RandLoRA, ratio=0.2), (96, 64)),
    "few bases of low rank": (partial(RandLoRA, num_bases=2, rank=2), (64, 96)),
}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_takes_what_it_states(path):
    """For few rows, which shortcuts are for, and for many."""
    factory, shape = PATHS[path]
    p = factory(*shape)
    assert p.building() == products_of_weight(p)
    for rows in (1, 40, 3000):
        for base in (None, torch.randn(shape)):
            layer = ZooLinear(p, None, base)
            x = torch.randn(rows, shape[1], requires_grad=True)
            found = counted(partial(layer, x), [x, *p.parameters()])
            assert p.cost(rows, base is not None)[:2] == found


def test_both_paths_of_a_class_were_taken():
    """Among the ones above, what is decided by the number of rows was decided both ways."""
    few = [PATHS["full-rank bases"], PATHS["blocks, W for many rows"]]
    for factory, shape in few:
        p = factory(*shape)
        built = p.building()[0]
        each = [
            (p.cost(rows, True).forward - rows * math.prod(shape)) / built for rows in (1, 3000)
        ]
        assert each[0] < 1 and each[1] == 1
    assert fft_pays(200, 300, "cpu") and not fft_pays(96, 64, "cpu")


@pytest.mark.parametrize(
    ("transform", "reals"),
    [
        (lambda: torch.fft.rfft(torch.zeros(3, 10)), 3),
        (lambda: torch.fft.rfft(torch.zeros(3, 9)), 3),
        (lambda: torch.fft.irfft(torch.zeros(3, 6, dtype=torch.complex64), n=10), 3),
        (lambda: torch.fft.fft(torch.zeros(3, 10)), 3),
        (lambda: torch.fft.ifft(torch.zeros(3, 10, dtype=torch.complex64)), 6),
        (lambda: torch.fft.rfft(torch.zeros(3, 1)), 0),
    ],
    ids=["even", "odd", "back", "all bins", "complex", "one number"],
)
def test_a_transform_counts_by_its_length(transform, reals):
    """5/2 n log2 n operations, 5 n log2 n of complex numbers (FFTW's convention)."""
    with counter() as count:
        n = transform().shape[-1]
    n = 9 if n == 5 else 10 if n in (6, 10) else n
    assert count.get_total_flops() == 2 * round(1.25 * n * math.log2(n) * reals)


def test_a_cosine_transform_through_an_fft_is_two_passes():
    """m transforms of n numbers, and as many of m as there are real and imaginary parts."""
    m, n = 200, 301
    assert DCT(m, n, ratio=0.1).building()[0] == sum(
        round(1.25 * length * math.log2(length) * times) for length, times in ((n, m), (m, 2 * 151))
    )
    assert fft_multiply_adds(8) == 30


class Plain(LoRA):
    """States nothing, and has a product of its own."""

    def weight(self):
        return self.lora_B @ self.lora_A

    def forward(self, x, bias=None):
        return F.linear(F.linear(x, self.lora_A), self.lora_B, bias)


def test_a_class_that_states_nothing_is_run():
    stated, run = LoRA(24, 16, rank=2), Plain(24, 16, rank=2)
    assert run.building() == stated.building()
    assert run.cost(7) == stated.cost(7)  # its own path, run
    assert run.cost(7, update=True) == Dense(24, 16).cost(7)._replace(
        forward=7 * 24 * 16 + run.building()[0], backward=14 * 24 * 16 + run.building()[1]
    )  # the plainest one, with W


class Rescaled(BlockDCT):
    """Another W: nothing that the class above states of its own holds."""

    def synthesize(self, plane):
        return super().synthesize(plane) * 1.0

    def analyze(self, weight):
        return super().analyze(weight) * 1.0


def test_what_is_redefined_is_counted_anew():
    p = Rescaled(32, 48, ratio=0.1)
    assert p.building() == products_of_weight(p) != BlockDCT(32, 48, ratio=0.1).building()
    assert p.cost(3).forward == 3 * 32 * 48 + p.building()[0]


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_torch_alone_counts_the_same_where_there_is_no_fft(name):
    """Without what zoo adds to torch's counter, which in small layers is nothing."""
    p = factories()[name](64, 96)
    with FlopCounterMode(display=False) as count:
        w = p.weight()
    assert count.get_total_flops() == 2 * p.building()[0]
    assert w.shape == (64, 96)


def test_a_nested_product_is_counted():
    """Autograd refuses the hooks of torch's counter on leaves, as a part of a class gets them."""

    class Halves(LoRA):
        def __init__(self, m, n, **settings):
            super().__init__(m, n, **settings)
            self.part = nn.Identity()

        def forward(self, x, bias=None):
            return super().forward(self.part(x), bias)

    p = Halves(24, 16, rank=2)
    assert p.cost(5)[:2] == LoRA(24, 16, rank=2).cost(5)[:2]


class Boasting(LoRA):
    """Says that a step backward is free, that W is half built, and that nothing is read."""

    def building(self):
        forward, backward = super().building()
        return forward // 2, backward

    def cost(self, rows, update=False):
        return super().cost(rows, update)._replace(backward=0)


class Forgetful(DCT):
    """Has a W to keep, and says that a coefficient is read for each."""

    def cost(self, rows, update=False):
        return super().cost(rows, update)._replace(read=self.num_trainable)


def test_the_suite_says_what_it_counts():
    case = case_for(Boasting, {"rank": 2})
    with pytest.raises(
        AssertionError, match=r"is \(6144, 24576\), and torch counts \(12288, 24576\)"
    ):
        case.test_building()
    with pytest.raises(AssertionError) as error:
        case.test_cost((8, 24))
    said = "1 rows, from scratch: Cost(forward=64, backward=0, read=64), and torch counts (64, 128)"
    assert str(error.value) == said
    with pytest.raises(AssertionError, match="read=96.*and W is kept"):
        case_for(Forgetful, {"ratio": 0.5}).test_cost((8, 24))
    for stating_nothing in (Plain, Rescaled):
        case_for(stating_nothing, {"ratio": 0.5}).test_cost((8, 24))
        case_for(stating_nothing, {"ratio": 0.5}).test_building()
