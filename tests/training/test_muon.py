"""Subspace Muon: torch's own for dense weights, the same in every basis, K numbers of state."""

import functools
import json

import pytest
import torch
from conftest import refused
from fits import fit

from tasks.char_lm.model import GPT
from zoo.bases.seeds import haar_matrix
from zoo.layers.convert import convert
from zoo.parameterizations import (
    DCT,
    Dense,
    Hashed,
    OrthonormalSubspace,
    RandomOrthonormal,
    RowDCT,
    Sparse,
)
from zoo.runs import checkpoints
from zoo.training.muon import SubspaceMuon, newton_schulz, spectral_norms
from zoo.training.optimizers import OptimizerConfig, build

SHAPES = [(12, 12), (24, 10), (10, 24)]


class Reversed(OrthonormalSubspace):
    """A basis that is not given by its sides."""

    def synthesize(self, plane):
        return plane.flip(0, 1)

    def analyze(self, weight):
        return weight.flip(0, 1)


def stepped(p, grads, momentum=0.95, lr=0.02, decay=0.1, scale="spectral"):
    """W after steps with these gradients in W."""
    groups = [{"params": [p.coef], "lr": lr, "weight_decay": decay, "muon": True}]
    optimizer = SubspaceMuon(groups, {p.coef: p}, lr, (0.9, 0.99), momentum, scale=scale)
    for grad in grads:
        optimizer.zero_grad()
        (p.weight() * grad).sum().backward()
        optimizer.step()
    return p.weight().detach()


@pytest.mark.parametrize("shape", SHAPES)
def test_newton_schulz_moves_singular_values_to_about_one(shape):
    """NS(U S V^T) = U S' V^T with S' in [0.6, 1.3]."""
    x = torch.randn(3, *shape, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    s = u.mT @ newton_schulz(x, dtype=torch.float64) @ vh.mT
    values = s.diagonal(dim1=-2, dim2=-1)
    assert ((values > 0.6) & (values < 1.3)).all()
    assert (s - torch.diag_embed(values)).abs().max() < 1e-10
    assert newton_schulz(torch.zeros(1, 4, 4)).abs().max() == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_equivariance(shape):
    """NS(Q X P) = Q NS(X) P for orthogonal Q and P, so that no basis need be touched."""
    x = torch.randn(1, *shape, dtype=torch.float64)
    q, p = haar_matrix(shape[0], 0), haar_matrix(shape[1], 1)
    ours, theirs = (newton_schulz(y, dtype=torch.float64) for y in (q @ x @ p, x))
    torch.testing.assert_close(ours, q @ theirs @ p, rtol=0, atol=1e-10)
    for cls in (DCT, RandomOrthonormal, RowDCT):
        space = cls(*shape, ratio=0.4).double()
        c = torch.randn_like(space.coef)
        short = space.collect(newton_schulz(space.spread(c)[None], dtype=torch.float64)[0])
        long = space.gather(newton_schulz(space.expand(c)[None], dtype=torch.float64)[0])
        torch.testing.assert_close(short, long, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torchs_muon_for_dense_weights(shape):
    p, grads = Dense(*shape), torch.randn(5, *shape)
    q = torch.nn.Parameter(p.coef.detach().clone())
    torchs = torch.optim.Muon([q], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for grad in grads:
        q.grad = grad.clone()
        torchs.step()
    torch.testing.assert_close(stepped(p, grads), q.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cls", [RandomOrthonormal, DCT, Sparse, Reversed])
def test_a_full_basis_steps_as_dense_weights_do(cls):
    """W is the same in any orthonormal basis with all coefficients, up to bfloat16's roundings."""
    dense, full = Dense(24, 10), cls(24, 10, ratio=1.0)
    full.project_(dense.coef)
    start, grads = dense.coef.detach().clone(), torch.randn(5, 24, 10)
    ours, theirs = stepped(full, grads), stepped(dense, grads)
    assert (ours - theirs).norm() < 0.02 * (theirs - start).norm()


@pytest.mark.parametrize("cls", [DCT, Sparse, Reversed, Hashed])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_as_large_in_a_subspace_as_a_dense_one(cls, shape):
    """|dW| = 0.2 lr sqrt(max(m, n)), spectral, for any K, and dW is the projection's direction.

    Scaled as it was before, it is that times |O| in Frobenius' norm.
    """
    p, grad = cls(*shape, ratio=0.3), torch.randn(*shape)
    before = p.weight().detach().clone()
    with torch.no_grad():
        inside = p.expand(p.gather(grad))
        o = newton_schulz(inside[None])[0].float()
        d = p.expand(p.gather(o))
    size = 0.2 * 0.02 * max(shape) ** 0.5
    for scale, order, wanted in (("spectral", 2, 1.0), ("frobenius", "fro", o.norm().item())):
        moved = stepped(p, [grad], decay=0.0, scale=scale) - before
        norm = torch.linalg.matrix_norm(moved, order).item()
        assert norm == pytest.approx(size * wanted, rel=0.02)
        assert torch.cosine_similarity(moved.flatten(), -d.flatten(), 0).item() > 0.999
        p.coef.data.copy_(p.gather(before))


@pytest.mark.parametrize("shape", SHAPES)
def test_spectral_norms_are_the_largest_singular_values(shape):
    """From below, to 2 % of any matrix, and exactly of one that has rank one."""
    x = torch.randn(50, *shape, dtype=torch.float64)
    x[0] = torch.linalg.qr(torch.randn(max(shape), min(shape), dtype=torch.float64)).Q.reshape(
        shape
    )
    x[1:] *= torch.logspace(-12, 12, 49, dtype=torch.float64)[:, None, None]
    found, wanted = spectral_norms(x), torch.linalg.matrix_norm(x, 2)
    assert (found <= wanted * (1 + 1e-12)).all() and (found > 0.98 * wanted).all()
    one = x[:, :, :1] @ x[:, :1, :]
    torch.testing.assert_close(
        spectral_norms(one), torch.linalg.matrix_norm(one, 2), rtol=1e-3, atol=0
    )
    assert spectral_norms(torch.zeros(2, 4, 3)).tolist() == [0, 0]


def test_layers_of_one_shape_step_together_as_they_do_alone():
    together = [DCT(12, 8, ratio=0.5).for_layer(name) for name in "abc"] + [
        Dense(12, 8),
        DCT(8, 12, ratio=0.5),
    ]
    grads = [torch.randn(p.shape) for p in together]
    copies = [torch.nn.Parameter(p.coef.detach().clone()) for p in together]
    for p, copy, grad in zip(together, copies, grads, strict=True):
        before = p.coef.detach().clone()
        stepped(p, [grad])
        copy.data, p.coef.data = p.coef.data.clone(), before
        p.coef.grad = None
    subspaces = {p.coef: p for p in together}
    optimizer = SubspaceMuon(
        [{"params": [p.coef], "lr": 0.02, "weight_decay": 0.1, "muon": True} for p in together],
        subspaces,
        0.02,
        (0.9, 0.99),
    )
    sum((p.weight() * grad).sum() for p, grad in zip(together, grads, strict=True)).backward()
    optimizer.step()
    for p, copy in zip(together, copies, strict=True):
        torch.testing.assert_close(p.coef, copy, rtol=0, atol=1e-3 * copy.abs().max().item())


def test_the_state_is_k_numbers_and_the_rest_is_adamws():
    """Momentum has K numbers a matrix; embeddings, biases and norms move as in AdamW."""
    nets = [
        convert(GPT(11, 8, 2, 16, 2, 0.0), functools.partial(DCT, ratio=0.25), ["blocks.*"])
        for _ in range(2)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [
        build(net, OptimizerConfig(name=name))
        for net, name in zip(nets, ("muon", "adamw"), strict=True)
    ]
    grads = {name: torch.randn_like(p) for name, p in nets[0].named_parameters()}
    for net, optimizer in zip(nets, optimizers, strict=True):
        for name, p in net.named_parameters():
            p.grad = grads[name]
        optimizer.step()
    coefficients = 0
    for name, p in nets[0].named_parameters():
        state, other = optimizers[0].state[p], dict(nets[1].named_parameters())[name]
        if name.endswith("coef"):
            assert [value.numel() for value in state.values()] == [p.numel()]
            assert p.grad is grads[name]
            assert not torch.equal(p, other)
            coefficients += p.numel()
        else:
            assert torch.equal(p, other)
    assert coefficients == 2 * 12 * 16 * 16 / 4


def test_muon_from_the_command_line(place, small, capsys):
    """A run trains, says so, and keeps K numbers of momentum a matrix in the resume file."""
    folder = fit(*small, "--model.optimizer.name=muon", "--model.optimizer.momentum=0.9")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["optimizer"]["name"] == "muon" and summary["optimizer"]["momentum"] == 0.9
    state = checkpoints.load(folder / "checkpoints" / "last.ckpt")["optimizer_states"][0]["state"]
    momenta = [entry["momentum_buffer"] for entry in state.values() if "momentum_buffer" in entry]
    assert sum(m.numel() for m in momenta) == summary["coefficients"] and len(momenta) == 8
    assert summary["optimizer"]["muon_scale"] == "spectral"
    assert not {"momentum", "muon_scale"} & OptimizerConfig().settings().keys()


def test_muon_needs_something_to_train(place, small, capsys):
    argv = ["fit", "--config", "lora_48.yaml", *small, "--model.parameterization.rank=2"]
    refused(
        capsys,
        [*argv, "--model.optimizer.name", "muon"],
        "muon",
        "LoRA",
        "--model.optimizer.name adamw",
    )
    refused(capsys, [*argv, "--model.optimizer.name", "mon"], "mon", "adamw")
    refused(capsys, [*argv, "--model.optimizer.momentum", "1"], "optimizer.momentum")
