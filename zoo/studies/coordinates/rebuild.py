"""How exactly W is rebuilt from its coefficients in float32 and in bfloat16."""

import torch
from torch import Tensor

from zoo.parameterizations import Isometry, SeparableSubspace, WeightParameterization

PATHS = {
    "float32": "W built in float32",
    "rounded": "that W rounded to bfloat16, once: under autocast",
    "module": "a module in bfloat16: coefficients rounded, W built in float32 and rounded",
    "bases": "what zoo does not do: coefficients and both bases in bfloat16, each product rounded",
}
"""How W is built, by the names of the errors."""


def rebuild_errors(parameterization: WeightParameterization) -> dict[str, float | None] | None:
    """Measure relative errors |W' - W|_F / |W|_F, W built in float64 from the same coefficients.

    Rounding to bfloat16 alone errs by

        sqrt(E[4^e] / 3 E[x^2]) 2^-8,   e = floor(log2 |x|),

    which is 0.0017 for normal x, whatever their number: of x = +-m 2^e with 1 <= m < 2 the bits
    beyond the eighth are cut, at most 2^-8 2^e off and uniformly so.

    Args:
        parameterization: in float32; it ends in bfloat16.

    Returns:
        By path; `bases` is None for a basis that is no `SeparableSubspace`. None for a
        parameterization without a fixed orthonormal basis.
    """
    if not isinstance(parameterization, Isometry):
        return None
    with torch.no_grad():
        coef = parameterization.coef.clone()
        single = parameterization.weight().clone()
        exact = parameterization.double().weight().clone()
        errors: dict[str, float | None] = {"float32": _error(single, exact)}
        errors["rounded"] = _error(single.bfloat16(), exact)
        errors["module"] = _error(parameterization.bfloat16().weight(), exact)
        errors["bases"] = None
        if isinstance(parameterization, SeparableSubspace):
            errors["bases"] = _error(_with_rounded_bases(parameterization, coef), exact)
    return errors


def _error(weight: Tensor, exact: Tensor) -> float:
    return float((weight.double() - exact).norm() / exact.norm())


def _with_rounded_bases(parameterization: SeparableSubspace, coef: Tensor) -> Tensor:
    """Return round(round(round(L)^T round(S)) round(R)), with sums in float32."""
    plane = torch.zeros(parameterization.shape)
    plane.view(-1)[parameterization.support] = coef
    weight = _round(plane)
    if (left := parameterization.side(parameterization.out_features, 0)) is not None:
        weight = _round(_round(left).mT @ weight)
    if (right := parameterization.side(parameterization.in_features, 1)) is not None:
        weight = _round(weight @ _round(right))
    return weight


def _round(x: Tensor) -> Tensor:
    return x.bfloat16().float()
