"""A product of maps is L R, and three published methods are settings of it."""

from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch

from zoo.bases.cosine import dct_matrix
from zoo.parameterizations import DCT, Dense, LoRA, Product, RandomOrthonormal, Sparse
from zoo.testing import ParameterizationTestCase, agree

INNER = partial(Product, fixed="right", rank=4, left=partial(LoRA, rank=2))
"""W = (B A) R with a fixed R (4, n)."""
SHAPES = [(16, 16), (12, 20), (20, 12)]


class TestProduct(ParameterizationTestCase):
    parameterization = Product
    arguments: ClassVar = {"ratio": 0.2}


class TestProductOfFixed(ParameterizationTestCase):
    parameterization = Product
    arguments: ClassVar = {"fixed": "left", "rank": 3, "right": INNER}
    shapes = ((16, 16), (8, 24), (24, 8), (13, 7))
    std_tolerance = 0.5  # of products of 22 numbers


@pytest.mark.parametrize("shape", SHAPES)
def test_dense_factors_are_lora(shape):
    p, q = Product(*shape, left=Dense, right=Dense, rank=3), LoRA(*shape, rank=3)
    with torch.no_grad():
        q.lora_B.copy_(p.left.coef)
        q.lora_A.copy_(p.right.coef)
    agree(p.weight(), q.weight(), 1e-6)
    assert p.cost(7) == q.cost(7) and p.cost(7, update=True) == q.cost(7, update=True)
    p.reset_parameters(0.02)
    q.reset_parameters(0.02)
    assert list(p.lr_mults().values()) == pytest.approx([q.lr_mult] * 2, rel=0.2)
    p.reset_parameters(0.0)
    q.reset_parameters(0.0)
    assert list(p.lr_mults().values()) == pytest.approx([q.lr_mult] * 2)
    target = torch.randn(shape).double()
    p.double().project_(target)
    q.double().project_(target)
    agree(p.weight(), q.weight(), 1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_nola(shape):
    """W = (sum_i a_i A_i)(sum_j b_j B_j) with fixed random matrices; k + l numbers (eq. 1)."""
    m, n = shape
    p = Product(m, n, left=RandomOrthonormal, right=RandomOrthonormal, rank=4, coefficients=40)
    p = p.double()
    factors = []
    for factor in (p.left, p.right):
        alpha, matrices = factor.coef.detach().clone(), []
        for i in range(len(alpha)):
            with torch.no_grad():
                factor.coef.zero_()[i] = 1.0
            matrices.append(factor.weight().detach().numpy())
        with torch.no_grad():
            factor.coef.copy_(alpha)
        factors.append(np.einsum("k,kij->ij", alpha.numpy(), np.stack(matrices)))
        assert min(np.abs(each).max() for each in matrices) > 0
    agree(p.weight().detach(), torch.from_numpy(factors[0] @ factors[1]), 1e-12)
    assert p.num_trainable == 40


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("frame", ["random", "cosine"])
def test_lora_mini_and_scora(shape, frame):
    """W = A_aux A_train B_train B_aux, of which the inner two are trained; r (a + b) numbers.

    With cosines outside it is sum_j u_j v_j^T, u_j = C_m^T beta_j and v_j = C_n^T alpha_j with beta
    and alpha at fixed frequencies.
    """
    m, n = shape
    inner = partial(Product, fixed="right", rank=6, left=partial(LoRA, rank=2), frame=frame)
    p = Product(m, n, fixed="left", rank=5, frame=frame, right=inner).double().for_layer("a")
    core = p.right.left
    train_a, train_b = core.lora_B.detach().numpy(), core.lora_A.detach().numpy()
    aux_a, aux_b = p.frame.numpy(), p.right.frame.mT.numpy()
    dense = np.einsum("ia,ar,rb,bj->ij", aux_a, train_a, train_b, aux_b)
    agree(p.weight().detach(), torch.from_numpy(dense), 1e-12)
    assert p.num_trainable == 2 * (5 + 6)
    assert list(p.state_dict()) == ["right.left.lora_A", "right.left.lora_B"]
    for outer, rows in ((p.frame, m), (p.right.frame, n)):
        agree(outer.mT @ outer, torch.eye(outer.shape[1]).double(), 1e-12)
        if frame == "cosine":
            spectra = dct_matrix(rows) @ outer
            assert ((spectra.abs() > 1e-9).sum(0) == 1).all()
    assert not torch.equal(p.frame[:5, :5], p.right.frame[:5, :5])
    target = torch.randn(shape).double()
    p.project_(target)
    u, s, v = np.linalg.svd(aux_a.T @ target.numpy() @ aux_b.T)
    best = aux_a @ (u[:, :2] * s[:2]) @ v[:2] @ aux_b
    agree(p.weight().detach(), torch.from_numpy(best), 1e-9)


def test_sparse_spectra_by_default_of_an_exact_budget():
    for ratio in (0.05, 0.31, 0.5):
        p = Product(48, 32, ratio=ratio)
        assert p.num_trainable == round(ratio * 48 * 32)
        assert isinstance(p.left, DCT) and isinstance(p.right, DCT)
        assert p.left.num_trainable / p.right.num_trainable == pytest.approx(1.5, rel=0.1)
    assert torch.linalg.matrix_rank(Product(48, 32, rank=5, ratio=0.1).weight()) == 5


def test_low_passes_that_prefer_the_same_components_have_their_deviation():
    low = partial(DCT, selection="lowpass")
    p = Product(64, 48, left=low, right=low, rank=24, ratio=0.1).double()
    energies = []
    for _ in range(20):
        p.reset_parameters(0.1)
        energies.append(p.weight().detach().square().mean())
    assert torch.stack(energies).mean().sqrt() == pytest.approx(0.1, rel=0.1)


def test_two_products_serve_where_they_take_less():
    p = Product(32, 32, rank=4, left=Sparse, right=Sparse, ratio=0.1)
    assert p.cost(10).forward == 10 * 4 * 64 and p.builds_weight
    assert p.needs_no_weight(torch.randn(10, 32))
    wide = Product(32, 32, rank=20, left=Sparse, right=Sparse, ratio=0.5)
    assert wide.cost(10).forward == 10 * 32 * 32 + 20 * 32 * 32
    assert not wide.needs_no_weight(torch.randn(10, 32))
    free = Product(32, 32, rank=4, left=Dense, right=Dense)
    assert not free.builds_weight and free.cost(1).read == 256


MISTAKES = {
    "needs a rank or a budget": {},
    "lora_rank of the whole, or one to each of left (DCT), right (DCT)": {"rank": 3},
    "rank must lie in [1, 16] for shape (24, 16), got 17": {"rank": 17, "ratio": 0.1},
    "rank 1 holds at most 40 coefficients for shape (24, 16), got 115: rank 3": {
        "rank": 1,
        "ratio": 0.3,
    },
    "fixed must be None or left or right, got 'both'": {"fixed": "both", "ratio": 0.1},
    "frame must be random or cosine": {"frame": "dct", "ratio": 0.1},
    "left and fixed left exclude each other": {"fixed": "left", "left": DCT, "ratio": 0.1},
    "right must be a parameterization, got int": {"right": int, "ratio": 0.1},
    "exclude each other: each of left (Dense), right (Dense) has one": {
        "left": Dense,
        "right": Dense,
        "ratio": 0.1,
        "rank": 2,
    },
    "leaves 0 of 38 coefficients for right (DCT), the other parts taking 48: give it a budget of "
    "49": {
        "left": Dense,
        "ratio": 0.1,
        "rank": 2,
    },
    "left (LoRA) gets 22 of 38 coefficients and needs 26: give it a budget of 44": {
        "left": LoRA,
        "ratio": 0.1,
        "rank": 2,
    },
    "ratio 0.001 leaves 0 of 0 coefficients for left (DCT), right (DCT), the other parts taking "
    "0: give more coefficients, or a rank": {"ratio": 0.001},
    "rank 4 leaves left and right no component in common, so that W is 0: give a smaller one": {
        "coefficients": 2,
        "rank": 4,
    },
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(words):
    with pytest.raises(ValueError) as error:
        Product(24, 16, **MISTAKES[words])
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("fixed", ["left", "right"])
def test_a_fixed_factor_may_have_one_column(fixed):
    """Which QR lays out as no other matrix."""
    p = Product(24, 16, fixed=fixed, rank=1, coefficients=8)
    assert torch.linalg.matrix_rank(p.weight()) == 1


def test_an_update_with_a_gradient_has_components_in_common():
    """Places change with the layer's name, and W is 0 at the start of an update either way."""
    for i in range(20):
        try:
            p = Product(24, 16, coefficients=3, rank=2).for_layer(f"layer.{i}")
            p.reset_parameters(0.0)
        except ValueError as error:
            assert "no component in common" in str(error)
            continue
        p.weight().square().sum().backward() if p.weight().any() else p.weight().sum().backward()
        assert p.left.coef.grad.any()
