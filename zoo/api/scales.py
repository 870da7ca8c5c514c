"""What s of y = x (W0 + s W)^T + b is: a number, or follows from alpha and the rank of each map."""

import math
from collections.abc import Callable

from zoo.api.arguments import finite
from zoo.errors import UserError
from zoo.parameterizations import WeightParameterization


def scale_rule(
    scale: float = 1.0, alpha: float | None = None, rslora: bool = False, place: str = ""
) -> Callable[[WeightParameterization], float]:
    """Return what finds s of a layer's map; it raises ValueError for an alpha without a rank.

    Args:
        scale: s; or
        alpha: s = alpha / r, with the rank r of the map.
        rslora: s = alpha / sqrt(r) (rsLoRA, arXiv 2312.03732).
        place: what a message has before the names of these, such as `tuning.`.

    Raises:
        UserError: if scale and alpha are both given, or one is out of range.
    """
    if (scale := finite(f"{place}scale", scale)) == 0:
        raise UserError(f"{place}scale must be a finite number other than 0, got {scale}")
    if alpha is None:
        if rslora:
            raise UserError(
                f"{place}rslora divides an alpha by the root of the rank: give {place}alpha"
            )
        return lambda _: scale
    if scale != 1.0:
        raise UserError(f"{place}scale and {place}alpha both say what s is: drop one of them")
    if (divided := finite(f"{place}alpha", alpha)) <= 0:
        raise UserError(f"{place}alpha must be above 0 and finite, got {alpha}")

    def of(space: WeightParameterization) -> float:
        if type(rank := getattr(space, "rank", None)) is not int:
            raise ValueError(
                f"has no rank that {place}alpha could be divided by: give {place}scale"
            )
        return divided / (math.sqrt(rank) if rslora else rank)

    return of
