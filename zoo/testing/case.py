"""What the contracts share: the class under test, its shapes, and comparisons that say why."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.parameterizations import WeightParameterization

Shape = tuple[int, int]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 4e-2}
"""Largest error accepted, relative to the largest value."""


def agree(
    actual: Tensor, expected: Tensor, tolerance: float = 1e-9, what: str = "the result"
) -> None:
    """Fail unless two tensors differ by at most `tolerance` of the largest expected value."""
    found, wanted = tuple(actual.shape), tuple(expected.shape)
    assert found == wanted, f"{what} has shape {found}, and should have {wanted}"
    if expected.numel() == 0:
        return
    error = (actual.double() - expected.double()).abs().max().item()
    scale = max(expected.double().abs().max().item(), 1e-12)
    limit = tolerance * scale
    assert error <= limit, (
        f"{what} is off by {error:.2e}, and may be by {limit:.2e}; its largest value is {scale:.2e}"
    )


def reason(error: Exception) -> str:
    """Why a contract failed, in one line."""
    text = textwrap.shorten(str(error), 300, placeholder=" ...")
    return text if text and isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"


@contextmanager
def on(path: str) -> Iterator[None]:
    """Have a failure say on which path it came about."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{path}: {reason(error)}") from error


class Case:
    """Set `parameterization` and what it needs besides a shape.

    Attributes:
        parameterization: the class under test.
        arguments: its other arguments.
        shapes: every contract is checked on each.
        small: a shape of a few weights, on which derivatives are compared with differences.
        std_tolerance: relative error of the initial standard deviation, on a 96 x 64 weight.
    """

    parameterization: type[WeightParameterization]
    arguments: ClassVar[dict[str, Any]] = {}
    shapes: ClassVar[tuple[Shape, ...]] = ((16, 16), (8, 24), (24, 8), (13, 7), (1, 12))
    small: ClassVar[Shape] = (5, 4)
    std_tolerance: ClassVar[float] = 0.2

    def make(self, shape: Shape, dtype: torch.dtype = torch.float64) -> Any:
        """Make an instance with random coefficients."""
        return self.parameterization(*shape, **self.arguments).to(dtype)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run every test on every shape, and those that want one in every dtype."""
        if "shape" in metafunc.fixturenames:
            metafunc.parametrize("shape", self.shapes, ids=lambda s: f"{s[0]}x{s[1]}")
        if "dtype" in metafunc.fixturenames:
            metafunc.parametrize(
                "dtype", list(TOLERANCE), ids=lambda d: str(d).removeprefix("torch.")
            )
