"""Places go into bytes and back exactly, close to the entropy; damaged bytes are refused."""

import math

import numpy as np
import pytest
import torch

from zoo.bases.encoding import Places, decode, encode, random_places, seeded
from zoo.bases.selection import zigzag_order

DENSITIES = [0.001, 0.01, 0.02, 0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.99, 0.999]
COUNT = 384 * 384


def least(count, kept):
    """Bytes that number all choices of K of N: log2 of N over K, exact."""
    return (
        (math.lgamma(count + 1) - math.lgamma(kept + 1) - math.lgamma(count - kept + 1))
        / math.log(2)
        / 8
    )


def draw(count, kept, seed=0):
    """K of N places by numpy, ascending."""
    return torch.from_numpy(np.sort(np.random.default_rng(seed).choice(count, kept, replace=False)))


# --- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("density", DENSITIES)
def test_random_places_come_back_in_near_the_least_bytes(density):
    """5 % over the entropy and 3 bytes, at any density; a bitmap alone is 23 % over it at 25 %."""
    kept = round(density * COUNT)
    places = draw(COUNT, kept)
    code = encode(places, COUNT)
    assert torch.equal(decode(code, COUNT, kept), places)
    assert least(COUNT, kept) * 0.99 < len(code.data) <= least(COUNT, kept) * 1.05 + 3
    assert code.encoding == ("bitmap" if 0.4 <= density <= 0.6 else "rice")


def test_the_bytes_that_the_module_states():
    """Bits a place, measured once more."""
    stated = {
        0.01: 8.11,
        0.02: 7.10,
        0.05: 5.79,
        0.1: 4.76,
        0.25: 3.29,
        0.5: 2.0,
        0.75: 1.10,
        0.9: 0.53,
    }
    for density, bits in stated.items():
        kept = round(density * COUNT)
        assert 8 * len(encode(draw(COUNT, kept), COUNT).data) / kept == pytest.approx(
            bits, rel=0.01, abs=0.005
        )


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 16, 17, 33])
def test_every_number_of_places_of_small_matrices(count):
    for kept in range(1, count + 1):
        for seed in range(5):
            places = draw(count, kept, seed)
            code = encode(places, count)
            assert torch.equal(decode(code, count, kept), places)
            assert len(code.data) <= -(-count // 8)
            assert (code.encoding == "all") == (kept == count)


@pytest.mark.parametrize(
    "places",
    [
        [0],
        [COUNT - 1],
        [0, COUNT - 1],
        range(1000),
        range(COUNT - 1000, COUNT),
        range(0, COUNT, 7),
        range(1, COUNT),
        range(COUNT * 2 // 5),
        range(COUNT // 2),
    ],
    ids=["first", "last", "both", "front", "back", "even", "all-but-first", "two-fifths", "half"],
)
def test_uneven_places(places):
    places = torch.tensor(list(places))
    code = encode(places, COUNT)
    assert code.encoding == "rice"
    assert torch.equal(decode(code, COUNT, len(places)), places)


def test_a_rice_code_by_hand():
    """Places 2, 3, 9: gaps 2 0 5. b = 1: remainders 0 0 1; quotients 1 0 2, unary 01 1 001. b = 0
    takes a bit more.
    """
    assert decode(Places("rice", bytes([1, 0b00100000, 0b01100100])), 64, 3).tolist() == [2, 3, 9]
    assert encode(torch.tensor([2, 3, 9]), 64) == Places("rice", bytes([1, 0b00100000, 0b01100100]))
    assert encode(torch.tensor([0, 9]), 16) == Places("bitmap", bytes([0b10000000, 0b01000000]))


def test_the_places_dropped_are_listed_where_they_are_fewer():
    """So 90 % cost what 10 % do."""
    dropped = draw(COUNT, COUNT // 10)
    mask = torch.ones(COUNT, dtype=torch.bool)
    mask[dropped] = False
    assert encode(mask.nonzero().flatten(), COUNT) == encode(dropped, COUNT)


# --- places that follow a rule --------------------------------------------------------------------


def test_rules_cost_next_to_nothing():
    order = zigzag_order(12, 20)
    assert encode(torch.arange(240), 240) == Places("all", b"")
    assert decode(Places("all"), 240, 240).tolist() == list(range(240))
    assert decode(Places("prefix"), 240, 6, order).tolist() == sorted([0, 1, 20, 40, 21, 2])
    assert len(seeded(7).data) == 8
    for seed in (0, 7, 2**64 - 1):
        assert torch.equal(decode(seeded(seed), 240, 30), random_places(240, 30, seed))


def test_random_places_are_uniform():
    """Each of 20 places is one of 5 in a quarter of 2000 draws: standard error 0.01."""
    draws = [random_places(20, 5, seed) for seed in range(2000)]
    assert all(len(places) == 5 and (places.diff() > 0).all() for places in draws)
    assert torch.allclose(
        torch.cat(draws).bincount(minlength=20) / 2000, torch.tensor(0.25), atol=0.045
    )


# --- mistakes and damage --------------------------------------------------------------------------


@pytest.mark.parametrize("places", [[], [3, 2], [2, 2], [-1, 4], [4, 10]])
def test_places_that_cannot_be_encoded(places):
    with pytest.raises(ValueError, match=r"places must ascend in \[0, 10\)"):
        encode(torch.tensor(places, dtype=torch.int64), 10)


@pytest.mark.parametrize(
    "code, kept, message",
    [
        (Places("all"), 9, "are not 9 of 20"),
        (Places("all", b"0"), 20, "must be 0 bytes, got 1"),
        (Places("prefix"), 3, "need an order of all 20"),
        (Places("prefix", b"0"), 3, "must be 0 bytes, got 1"),
        (Places("seed", b"1234567"), 3, "must be 8 bytes, got 7"),
        (Places("bitmap", bytes([1, 1])), 2, "must be 3 bytes, got 2"),
        (Places("bitmap", bytes([1, 1, 0])), 3, "are not 3 of 20"),
        # The last bit stands for place 23.
        (Places("bitmap", bytes([1, 1, 1])), 3, "are not 3 of 20"),
        (Places("zip"), 3, "encoding must be all, prefix, seed, bitmap or rice, got 'zip'"),
        (Places("all"), 0, r"kept must be in \[1, 20\], got 0"),
        (Places("all"), 21, r"kept must be in \[1, 20\], got 21"),
        (Places("rice", b""), 3, "damaged rice"),
        (Places("rice", b"\x00\xe0"), 20, "damaged rice"),
        (Places("rice", b"\x05"), 3, "damaged rice"),
        # 2^200 is no int64.
        (Places("rice", bytes([200]) + bytes(25) + b"\x80"), 1, "damaged rice"),
    ],
)
def test_bytes_that_are_no_places(code, kept, message):
    with pytest.raises(ValueError, match=message):
        decode(code, 20, kept)


def test_an_order_of_another_size():
    with pytest.raises(ValueError, match="need an order of all 20"):
        decode(Places("prefix"), 20, 3, torch.arange(19))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_beyond_8_bytes(seed):
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\^64\)"):
        seeded(seed)


def test_damaged_rice_codes_are_refused_or_are_places():
    """Cut, extended, of another K or N: refused. Any bit flipped: refused, or K of N other places,
    never the same.
    """
    count, kept = 1000, 60
    places = draw(count, kept)
    data = encode(places, count).data
    for bad in (data[:-1], data + b"\0", data + b"\x80", data[1:], b"\xff" + data[1:]):
        with pytest.raises(ValueError, match="damaged rice"):
            decode(Places("rice", bad), count, kept)
    for wrong in (kept - 1, kept + 1, count - kept - 1):
        with pytest.raises(ValueError, match="damaged rice"):
            decode(Places("rice", data), count, wrong)
    with pytest.raises(ValueError, match="damaged rice"):
        decode(Places("rice", data), int(places[-1]), kept)
    refused = 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            other = decode(Places("rice", bytes(flipped)), count, kept)
        except ValueError as error:
            assert "damaged rice" in str(error)
            refused += 1
        else:
            assert (
                len(other) == kept
                and (other.diff() > 0).all()
                and other[0] >= 0
                and other[-1] < count
            )
            assert not torch.equal(other, places)
    assert refused > 100  # the whole of the unary half, where a bit changes the number of places
