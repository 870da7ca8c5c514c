"""Timing and memory: known answers on a clock that only moves when told to, and bytes that are
counted by hand.
"""

import gc
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.studies.bench.timing import (
    Held,
    alternate,
    held_bytes,
    kept_for_backward,
    peak_memory,
    ratio,
)


class Clock:
    """Seconds that pass when a call says so, and a microsecond at each look."""

    def __init__(self, slower=1.0):
        self.now, self.slower = 0.0, slower

    def __call__(self):
        self.now += 1e-6
        return self.now

    def call(self, seconds):
        def wait():
            self.now += seconds * self.slower ** (self.now / 100)

        return wait


def test_ratio_is_the_median_over_neighbours():
    assert ratio([2, 9, 4, 100], [1, 3, 4, 10]) == (2.5, 1.75, 4.75)  # of 2, 3, 1, 10
    assert ratio([3, 1, 5], [1]) == (3, 3, 3)
    with pytest.raises(ValueError, match="times of both"):
        ratio([], [1])


def test_neighbours_share_a_machine_that_slows_down():
    """Threefold over the run: a ratio of medians would be the same, one of means or of first halves
    not.
    """
    clock = Clock(slower=3.0)
    times = alternate(
        {"a": clock.call(1.0), "b": clock.call(2.0)}, rounds=20, warmup=0, clock=clock
    )
    assert times["a"][-1] > 1.5 * times["a"][0]
    assert ratio(times["b"], times["a"]).median == pytest.approx(2.0, rel=0.01)


def test_every_second_round_goes_backwards():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    assert {
        name: len(times) for name, times in alternate(calls, rounds=3, warmup=2).items()
    } == dict.fromkeys("abc", 3)
    assert "".join(order) == "abcabcabccbaabc"


def test_each_call_has_its_own_seconds():
    clock = Clock()
    calls = {"quick": clock.call(0.1), "slow": clock.call(10.0)}
    times = alternate(calls, seconds=1.95, least=4, warmup=3, clock=clock)
    assert {name: len(found) for name, found in times.items()} == {"quick": 20, "slow": 4}
    # The slow one is warm at once.
    assert clock.now == pytest.approx(3 * 0.1 + 1 * 10 + 20 * 0.1 + 4 * 10, rel=1e-3)


@pytest.mark.parametrize("limits", [{}, {"seconds": 1.0, "rounds": 3}])
def test_either_seconds_or_rounds(limits):
    with pytest.raises(ValueError, match="either seconds or rounds"):
        alternate({"a": lambda: None}, **limits)


def test_the_collector_waits_and_is_let_go_after_an_error():
    seen = []
    alternate({"a": lambda: seen.append(gc.isenabled())}, rounds=1)
    with pytest.raises(ZeroDivisionError):
        alternate({"a": lambda: 1 / 0}, rounds=1)
    assert not any(seen) and gc.isenabled()


# ---- Memory --------------------------------------------------------------------------------------


def test_a_dense_layer_keeps_its_input_alone():
    layer, x = nn.Linear(16, 8), torch.randn(5, 16, requires_grad=True)
    assert kept_for_backward(lambda: layer(x), layer) == 4 * 5 * 16


def test_what_is_kept_is_counted_once_and_by_storage():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(16, 8, bias=False)
            self.b = nn.Linear(8, 8, bias=False)

        def forward(self, x):
            return self.a(x[:2]).sum() + self.b(F.relu(self.a(x))).sum()

    model, x = Twice(), torch.randn(5, 16)
    # X, its slice; relu's output, b's input.
    assert kept_for_backward(lambda: model(x), model) == 4 * (5 * 16 + 5 * 8)
    model.a.requires_grad_(False)
    assert kept_for_backward(lambda: model(x), model) == 4 * 5 * 8


def test_peak_is_of_one_time_and_not_of_all():
    def call():
        a = torch.empty(1000)
        b = torch.empty(500)
        del a, b
        torch.empty(1400)

    assert peak_memory(call) == 6000
    assert peak_memory(lambda: None) == 0


def test_held_by_a_dense_layer_with_adamw():
    layer = nn.Linear(16, 8)
    layer.bias.requires_grad_(False)
    layer.register_buffer("whole", torch.zeros(10, dtype=torch.int64))
    layer.register_buffer("part", layer.whole[2:])
    optimizer = torch.optim.AdamW([layer.weight])
    assert held_bytes(layer, optimizer) == Held(512, 32, 0, 0, 80)
    layer(torch.randn(3, 16)).sum().backward()
    optimizer.step()
    held = held_bytes(layer, optimizer)
    assert held == Held(parameters=512, frozen=32, gradients=512, optimizer=2 * 512 + 4, buffers=80)
    assert held.total == 512 + 32 + 512 + 1028 + 80


def test_a_sparse_matrix_that_is_kept_has_the_bytes_of_its_values_and_places():
    values, places = torch.randn(5, requires_grad=True), torch.arange(5).repeat(2, 1)
    layer = nn.Linear(3, 8, bias=False)

    def call():
        matrix = torch.sparse_coo_tensor(places, values * 2, (8, 8), check_invariants=False)
        torch.sparse.mm(matrix, layer.weight)

    assert kept_for_backward(call, layer) >= 5 * 4 + 2 * 5 * 8


def test_time_passes_on_the_clock_alone():
    ticks = count()
    assert alternate({"a": lambda: None}, rounds=2, warmup=0, clock=lambda: float(next(ticks))) == {
        "a": [1.0, 1.0]
    }
