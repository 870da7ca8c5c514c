"""What a basis computes anew for each layer is kept once, as long as a layer has it."""

import gc
import math
import weakref

import torch

from zoo.bases.seeds import shared
from zoo.layers.batched import batches
from zoo.parameterizations import RandomOrthonormal, SeparableSubspace


def test_equal_sides_are_one_tensor_whoever_makes_them():
    """Sides made anew at each call, as in README, are shared and batched; in any dtype, and not
    with others.
    """

    class Hartley(SeparableSubspace):
        def side(self, n, axis):
            angle = 2 * math.pi / n * torch.outer(torch.arange(n), torch.arange(n)).double()
            return (angle.cos() + angle.sin()) / math.sqrt(n)

    layers = [Hartley(8, 6, ratio=0.5).for_layer(name) for name in "abc"]
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float32):
        for p in layers:
            p.to(dtype)
        assert len({id(p.left) for p in layers}) == len({id(p.right) for p in layers}) == 1
        assert batches(layers) == [layers]
    other = RandomOrthonormal(8, 6, ratio=0.5)
    assert other.left is not layers[0].left


def test_shared_sides_go_with_the_last_layer():
    side = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64))[0]
    for dtype in (torch.float32, torch.float64):
        copies = [shared(side.clone(), torch.device("cpu"), dtype) for _ in range(2)]
        assert copies[0] is copies[1] and copies[0].data_ptr() != side.data_ptr()
        gone = weakref.ref(copies.pop())
        assert gone() is copies[0]
        del copies
        gc.collect()
        assert gone() is None


def test_a_side_first_made_in_inference_mode_can_be_trained_with():
    with torch.inference_mode():
        p = RandomOrthonormal(8, 6, ratio=0.5, seed=77)
    q = RandomOrthonormal(8, 6, ratio=0.5, seed=77)
    x = torch.randn(2, 6, requires_grad=True)
    (q(x) @ q.left).sum().backward()
    assert p.left is q.left and x.grad.abs().max() > 0
