"""A sum of maps, W = sum_i a_i W_i, of any parameterizations; the counts add.

Low rank and sparse is SLTrain (arXiv 2406.02214), and, as an update, RoSA (arXiv 2401.04679).
"""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases.seeds import autocast_dtype
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import layer_budget
from zoo.parameterizations.cost import Cost
from zoo.parameterizations.factory import ParameterizationFactory
from zoo.parameterizations.fitting import rounds
from zoo.parameterizations.low_rank.lora import LoRA
from zoo.parameterizations.structured.nested import (
    Nested,
    Share,
    descend,
    is_reproduced,
    made_within,
)
from zoo.parameterizations.subspaces.sparse import Sparse

DEFAULT: tuple[ParameterizationFactory, ...] = (LoRA, Sparse)
CYCLES = 20
"""Of projections on the residuals in turn, before all coefficients move together."""


class Sum(Nested):
    """A sum of maps, W = sum_i a_i W_i; by default LoRA + Sparse.

    P parts, each any parameterization of W's shape with coefficients of its own; the count is the
    sum of theirs. Part i serves the layer `NAME.i`, so that two sparse parts have other places.

    **SLTrain** is W = (alpha / r) B A + S: `parts: [LoRA, Sparse]`, `scales: [alpha / r, 1]`,
    `init: [0, 1]`, as B = 0 at its start and W is S alone. Its published defaults are alpha 32 or
    16 and S of 3% of the weights, A and S uniform in +-1/sqrt(n); here they are normal, S of the
    layer's own variance, A of 1/n instead of 1/(3n).

    Cost: parts that never build W (`LoRA`) multiply x themselves, the W of the others are summed
    and multiplied by once.

        >>> zoo.Sum(8, 8, parts=[zoo.Sparse, zoo.DCT], ratio=0.25).num_trainable
        16

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        parts: a class, or a class with its settings, for each part. Parts may have budgets of their
            own (`{class_path: LoRA, init_args: {rank: 4}}`); by default `LoRA` and `Sparse`.
        shares: of the budget, one for each part, above 0; by default equal ones. A part that has a
            budget of its own takes that, whatever its share.
        scales: a_i, one for each part, above 0; by default 1.
        init: how std^2 is split among parts, at least 0; by default evenly. A part with 0 starts
            as in an update, at W_i = 0.
        ratio: of the mn weights, for all parts that have no budget together with those that do; or
        coefficients: their number; or
        lora_rank: as many as LoRA of this rank has. Exactly one of the three, and none where each
            part has a budget of its own. The count is exact where the last part's is that has none.
        seed: of the parts that are given none.

    Raises:
        ValueError: for no parts, one that is no parameterization, lists of another length, values
            out of range, a budget too many or none, and a share that is too small for its part.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        parts: list[ParameterizationFactory] | None = None,
        shares: list[float] | None = None,
        scales: list[float] | None = None,
        init: list[float] | None = None,
        ratio: float | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        factories = list(DEFAULT if parts is None else parts)
        if not factories:
            raise ValueError("parts must be at least one parameterization, got []")
        shares = _numbers("shares", shares, len(factories), above=True)
        self.scales = _numbers("scales", scales, len(factories), above=True)
        split = _numbers("init", init, len(factories), above=False)
        self._split = [each / sum(split) for each in split]
        planned = [Share(each, self.shape, f"parts.{i}", seed) for i, each in enumerate(factories)]
        given = {"ratio": ratio, "coefficients": coefficients, "lora_rank": lora_rank}
        given = {key: value for key, value in given.items() if value is not None}
        total = None
        if given:
            total = layer_budget(*self.shape, ratio, coefficients, lora_rank, least=0)
        said = ", ".join(f"{key} {value}" for key, value in given.items())
        self.parts: Sequence[WeightParameterization] = nn.ModuleList(  # type: ignore[assignment]
            made_within(total, planned, shares, said, out_features * in_features)
        )
        self._rebuild()
        self.reset_parameters(in_features**-0.5)

    def named_parts(self) -> dict[str, WeightParameterization]:
        return {str(i): part for i, part in enumerate(self.parts)}

    def weight(self) -> Tensor:
        return self._sum(built_alone=False)

    def _sum(self, built_alone: bool) -> Tensor:
        """Return sum_i a_i W_i, of all parts or of those alone that build W anyway."""
        total = None
        for scale, part in zip(self.scales, self.parts, strict=True):
            if built_alone and not part.builds_weight:
                continue
            w = part.weight() if scale == 1 else scale * part.weight()
            total = w if total is None else total + w
        assert total is not None
        return total

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b, each part by its own path."""
        free = [i for i, part in enumerate(self.parts) if not part.builds_weight]
        if not free:
            return F.linear(x, self.weight(), bias)
        if len(free) < len(self.parts):
            return self._add(x, self._sum(built_alone=True), bias, 1.0, free)
        first, *rest = free
        if self.scales[first] == 1:
            y = self.parts[first](x, bias)
        else:
            y = self.scales[first] * self.parts[first](x)
            y = y if bias is None else y + bias.to(y.dtype)
        for i in rest:
            y = y + self.scales[i] * self.parts[i](x)
        return y

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x (W0 + s sum of the built W_i)^T + b, and what the other parts add."""
        free = [i for i, part in enumerate(self.parts) if not part.builds_weight]
        if not free:
            return super().forward_update(x, base, bias, scale)
        if len(free) < len(self.parts):
            base = (base + scale * self._sum(built_alone=True)).to(x.dtype)
        return self._add(x, base, bias, scale, free)

    def look_up(self, index: Tensor) -> Tensor:
        """Return the sum of the parts' rows."""
        rows = [part.look_up(index) for part in self.parts]
        first, *rest = (
            row if scale == 1 else scale * row for scale, row in zip(self.scales, rows, strict=True)
        )
        return sum(rest, first)

    def _add(
        self, x: Tensor, base: Tensor, bias: Tensor | None, scale: float, free: Sequence[int]
    ) -> Tensor:
        """Return x base^T + b + s times the products of the parts that build no W."""
        first, *rest = free
        y = self.parts[first].forward_update(x, base, bias, scale * self.scales[first])
        if rest:
            mixed = autocast_dtype(x.device) is not None
            x = x if mixed else x.to(self.trained_dtype)
        for i in rest:
            y = y + (scale * self.scales[i] * self.parts[i](x)).to(y.dtype)
        return y

    @property
    def builds_weight(self) -> bool:
        """Whether any part builds W: a layer may then keep the sum of all."""
        return any(part.builds_weight for part in self.parts)

    def building(self) -> tuple[int, int]:
        """Count what the parts take together."""
        forward, backward = zip(*(part.building() for part in self.parts), strict=True)
        return sum(forward), sum(backward)

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State what the parts take, those that build W together: T mn + sum b, 2 T mn + sum b'.

        A base is added to a W that is built, and takes T mn either way where none is. Read is mn
        where a part builds W, which a layer keeps, else what the parts and a base have.
        """
        (m, n), built = self.shape, [part for part in self.parts if part.builds_weight]
        costs = [part.cost(rows) for part in self.parts if not part.builds_weight]
        forward, backward, read = (sum(each) for each in zip(Cost(0, 0, 0), *costs, strict=True))
        if built:
            for there, back in (part.building() for part in built):
                forward, backward = forward + there, backward + back
            return Cost(forward + rows * m * n, backward + 2 * rows * m * n, m * n)
        base = m * n if update else 0
        return Cost(forward + rows * base, backward + rows * base, read + base)

    def reset_parameters(self, std: float) -> None:
        """Draw part i at E[W_i^2] = q_i std^2 / a_i^2, with q_i of `init` and sum q_i = 1.

        Parts are independent with mean 0, so that their variances add. For std = 0 each starts at 0
        as it does.
        """
        for share, scale, part in zip(self._split, self.scales, self.parts, strict=True):
            part.reset_parameters(std * math.sqrt(share) / scale)

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Project each part on what the others leave, in turn; then move all together.

        The first part takes the target, the next ones the residual. If the error still falls after
        `CYCLES` rounds, fewer for a large weight, all coefficients descend until the gradient
        vanishes (`descend`). W itself is left as it is.
        """
        if is_reproduced(self, target):
            return
        work = copy.deepcopy(self).double()
        t = target.to(next(work.parameters()))
        found = [torch.zeros_like(t) for _ in self.parts]
        last = math.inf
        for _ in range(rounds(CYCLES, 4 * t.numel() * min(t.shape))):  # as a decomposition takes
            for i, (scale, part) in enumerate(zip(self.scales, work.parts, strict=True)):
                others = sum(w for j, w in enumerate(found) if j != i)
                part.project_((t - others) / scale)
                found[i] = scale * part.weight()
            error = (t - sum(found)).square().sum().item()
            if last - error <= 1e-13 * t.square().sum().item():
                break
            last = error
        else:
            descend(work, t)
        for mine, fitted in zip(self.parameters(), work.parameters(), strict=True):
            mine.copy_(fitted)

    @property
    def lr_mult(self) -> dict[str, float]:
        """Each part's own, divided by a_i P^(3/4) for P parts.

        A part's own moves W_i as far as a dense step, and so a_i W_i when divided by a_i. P such
        steps that are independent are sqrt(P) times as long together, since their squares add, and
        would want P^(-1/2); along a gradient <G, dW> they add as they are, and would want 1/P. The
        factor is the geometric mean of the two.
        """
        factor = len(self.parts) ** -0.75
        return {
            f"parts.{i}.{name}": mult * factor / scale
            for i, (scale, part) in enumerate(zip(self.scales, self.parts, strict=True))
            for name, mult in part.lr_mults().items()
        }

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scales={self.scales}"


def _numbers(name: str, given: list[float] | None, count: int, above: bool) -> list[float]:
    """Return one number for each part; 1 where none are given.

    Raises:
        ValueError: for another length, and values that are not finite and above 0, or at least 0.
    """
    if given is None:
        return [1.0] * count
    if len(given) != count:
        raise ValueError(f"{name} must be {count}, one for each part, got {len(given)}: {given}")
    right = [0 < x < math.inf if above else 0 <= x < math.inf for x in given]
    if not all(right) or not any(given):
        legal = "above 0 and finite" if above else "at least 0 and finite, and not all 0"
        raise ValueError(f"{name} must be {legal}, got {given}")
    return list(map(float, given))
