"""VeRA is peft's with peft's matrices, and takes what its count leaves."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from zoo.parameterizations import VeRA
from zoo.testing import ParameterizationTestCase, agree


class TestVeRA(ParameterizationTestCase):
    parameterization = VeRA
    arguments: ClassVar = {"rank": 3}


class TestVeRAOfHighRank(ParameterizationTestCase):
    """W is built, of more ranks than it can have."""

    parameterization = VeRA
    arguments: ClassVar = {"rank": 20, "d_initial": 0.3, "seed": 4}
    shapes = ((8, 24), (13, 7), (24, 8))


@pytest.fixture(scope="module")
def pefts():
    """A network of a square, a tall and a wide layer in peft's VeRA of rank 5, float64."""
    peft = pytest.importorskip("peft")
    layers = {"square": (12, 12), "tall": (20, 6), "wide": (7, 30)}
    net = torch.nn.ModuleDict({k: torch.nn.Linear(n, m, False) for k, (m, n) in layers.items()})
    config = peft.VeraConfig(r=5, target_modules=[*layers], init_weights=False)
    model = peft.get_peft_model(net, config).double()
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p)
    return {name: model.get_submodule(f"base_model.model.{name}") for name in layers}


@pytest.mark.parametrize("name", ["square", "tall", "wide"])
def test_vera_is_pefts_with_its_matrices_and_vectors(pefts, name):
    """peft cuts each layer's matrices from a pair as large as the largest layer, as we do."""
    layer = pefts[name]
    m, n = layer.out_features, layer.in_features
    p = VeRA(m, n, rank=5).double()
    with torch.no_grad():
        p.vera_A.copy_(layer.vera_A["default"][:, :n])
        p.vera_B.copy_(layer.vera_B["default"][:m])
        p.vera_lambda_b.copy_(layer.vera_lambda_b["default"])
        p.vera_lambda_d.copy_(layer.vera_lambda_d["default"])
    agree(p.weight().detach(), layer.get_delta_weight("default"), 1e-12)
    trained = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    assert p.num_trainable == trained == m + 5
    x = torch.randn(4, n, dtype=torch.float64)
    agree(p.forward_update(x, layer.base_layer.weight).detach(), layer(x).detach(), 1e-12)


def test_vera_starts_as_peft_does(pefts):
    peft = pytest.importorskip("peft")
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(40, 30)})
    layer = peft.get_peft_model(net, peft.VeraConfig(r=8, target_modules=["a"])).base_model.model.a
    p = VeRA(30, 40, rank=8)
    p.reset_parameters(0.0)
    agree(p.vera_lambda_d, layer.vera_lambda_d["default"], 0.0)
    agree(p.vera_lambda_b + 1, layer.vera_lambda_b["default"] + 1, 0.0)
    for ours, theirs in ((p.vera_A, layer.vera_A), (p.vera_B, layer.vera_B)):
        assert ours.shape == theirs["default"].shape
        assert ours.std().item() == pytest.approx(theirs["default"].std().item(), rel=0.15)


def test_vera_is_the_product_of_the_paper():
    p = VeRA(5, 7, rank=3).double()
    b, d = (v.detach().numpy() for v in (p.vera_lambda_b, p.vera_lambda_d))
    expected = np.diag(b) @ p.vera_B.numpy() @ np.diag(d) @ p.vera_A.numpy()
    agree(p.weight().detach(), torch.from_numpy(expected), 1e-12)


def test_matrices_are_shared_and_corners_of_one():
    p, q, larger = VeRA(12, 8, rank=4), VeRA(12, 8, rank=4).for_layer("b"), VeRA(20, 9, rank=4)
    assert p.vera_A.data_ptr() == q.vera_A.data_ptr()
    agree(p.vera_B, larger.vera_B[:12], 0.0)
    agree(p.vera_A / math.sqrt(9 / 8), larger.vera_A[:, :8], 1e-6)


def test_a_budget_is_what_the_outputs_leave():
    assert VeRA(64, 96).rank == 64 and VeRA(768, 768).rank == 256
    for coefficients in (65, 70, 127, 128):
        assert VeRA(64, 96, coefficients=coefficients).num_trainable == coefficients
    assert VeRA(64, 96, ratio=0.5).rank == 64
    assert VeRA(64, 96, lora_rank=1).num_trainable == 128


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"coefficients": 8}, "coefficients 8 buys no rank for shape .8, 6.: rank 1 needs 9"),
        ({"ratio": 0.1}, "rank 1 needs 9 coefficients, a ratio of 0.188"),
        ({"rank": 0}, r"rank must lie in \[1, 48\]"),
        ({"rank": 2, "ratio": 0.5}, "rank and ratio"),
        ({"d_initial": 0.0}, "d_initial must be finite and not 0"),
    ],
)
def test_a_bad_argument_names_what_would_do(arguments, words):
    with pytest.raises(ValueError, match=words):
        VeRA(8, 6, **arguments)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_no_vector_alone_is_better_than_the_projection(shape):
    """The least squares of either vector, the other one fixed, are where it is."""
    p, target = VeRA(*shape, rank=4).double(), torch.randn(shape, dtype=torch.float64)
    p.project_(target)
    found = (p.weight() - target).square().sum().item()
    for name in ("vera_lambda_b", "vera_lambda_d"):
        moved, columns = getattr(p, name).data, []
        kept = moved.clone()
        for i in range(len(moved)):
            moved.zero_()[i] = 1
            columns.append(p.weight().detach().flatten())
        moved.copy_(kept)
        best = torch.linalg.lstsq(torch.stack(columns, 1), target.flatten()[:, None]).solution
        error = (torch.stack(columns, 1) @ best - target.flatten()[:, None]).square().sum().item()
        assert found == pytest.approx(error, rel=1e-6)
