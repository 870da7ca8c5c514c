"""Masks keep what they say, in as many bytes as they say, and come back exactly."""

import pytest
import torch

from zoo.bases import TRANSFORMS, transform
from zoo.bases.masks import ORDERS, count, keep, pack, restore, unpack


@pytest.fixture
def weight():
    return torch.randn(24, 20)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("order", ORDERS)
def test_all_coefficients_are_the_matrix(weight, name, order):
    kept = keep(transform(name).forward(weight), (24, 20), name, order, 1.0)
    assert kept.places == ("all", b"")
    assert torch.allclose(restore(kept), weight, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_magnitude_is_the_best_of_its_size(weight, name):
    """Parseval: the error is the energy of the dropped coefficients, and no other K drop less."""
    t = transform(name)
    plane = t.forward(weight)
    kept = keep(plane, (24, 20), name, "magnitude", 0.1)
    dropped = plane.flatten().square().sort().values[: plane.numel() - len(kept.values)].sum()
    assert len(kept.values) == count(0.1, plane.numel())
    assert kept.values.square().sum().item() == pytest.approx(
        (plane.square().sum() - dropped).item(), rel=1e-5
    )
    if t.rotates(24, 20) or name == "fourier":
        assert (restore(kept) - weight).square().sum().item() == pytest.approx(
            dropped.item(), rel=1e-4
        )


def test_frequency_keeps_the_lowest():
    t = transform("dct")
    kept = keep(
        t.forward(torch.ones(8, 8) + 0.1 * torch.randn(8, 8)), (8, 8), "dct", "frequency", 1 / 64
    )
    found = restore(kept)
    assert found.std().item() == pytest.approx(0, abs=1e-6)
    assert found.mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_frequency_is_the_order_of_the_transform(weight, name):
    t = transform(name)
    plane = t.forward(weight)
    kept = keep(plane, (24, 20), name, "frequency", 0.05)
    lowest = t.order(24, 20)[:24].sort().values
    assert (kept.places, len(kept.values)) == (("prefix", b""), 24)
    assert torch.equal(kept.values, plane.flatten()[lowest])
    masked = torch.zeros_like(plane).flatten().index_copy(0, lowest, kept.values).view_as(plane)
    assert torch.allclose(restore(kept), t.inverse(masked, (24, 20)), atol=1e-6)


def test_how_many_are_kept():
    assert [count(share, 480) for share in (1e-6, 0.01, 0.25, 0.999, 1)] == [1, 5, 120, 480, 480]


def test_random_is_the_choice_of_its_seed(weight):
    plane = transform("dct").forward(weight)
    one, same, other = (keep(plane, (24, 20), "dct", "random", 0.3, seed) for seed in (1, 1, 2))
    assert torch.equal(restore(one), restore(same))
    assert not torch.equal(restore(one), restore(other))
    assert len(one.places.data) == 8
    shares = [
        keep(plane, (24, 20), "dct", "random", 0.3, s).values.square().sum() for s in range(200)
    ]
    assert torch.stack(shares).mean().item() == pytest.approx(
        0.3 * plane.square().sum().item(), rel=0.02
    )


@pytest.mark.parametrize("order", ORDERS)
def test_unpack_inverts_pack(weight, order):
    kept = keep(transform("haar").forward(weight), (24, 20), "haar", order, 0.2)
    other = torch.randn(3)
    tensors, about = pack({"layer.coef": kept})
    rest, masked = unpack({**tensors, "head": other}, about)
    assert set(rest) == {"head"} and set(masked) == {"layer.coef"}
    assert torch.equal(restore(masked["layer.coef"]), restore(kept))
    assert torch.equal(rest["head"], other)


def test_damage_is_an_error(weight):
    tensors, about = pack(
        {"w": keep(transform("dct").forward(weight), (24, 20), "dct", "magnitude", 0.2)}
    )
    with pytest.raises(ValueError, match="damaged"):
        restore(unpack({**tensors, "w.values": torch.zeros(30)}, about)[1]["w"])
    with pytest.raises(KeyError):
        unpack({}, about)


@pytest.mark.parametrize(
    "change", [{"shape": [-24, -20]}, {"shape": [24.0, 20]}, {"transform": "x"}], ids=str
)
def test_what_no_matrix_has_is_an_error_before_one_is_built(change, weight):
    tensors, about = pack(
        {"w": keep(transform("dct").forward(weight), (24, 20), "dct", "magnitude", 0.2)}
    )
    with pytest.raises(ValueError, match="a masked matrix"):
        unpack(tensors, {"w": about["w"] | change})


def test_wrong_arguments(weight):
    with pytest.raises(ValueError, match="share must lie in"):
        keep(weight, (24, 20), "dct", "magnitude", 0.0)
    with pytest.raises(ValueError, match="order must be magnitude, frequency, random"):
        keep(weight, (24, 20), "dct", "loudest", 0.5)
