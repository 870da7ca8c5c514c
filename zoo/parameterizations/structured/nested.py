"""Maps made of maps: what a part is made by, its share of a budget, and where its buffers follow.

A part is made by a factory, as a layer's map is: a class, or a partial of one with its settings.
"""

import functools
import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.factory import factory_class
from zoo.parameterizations.fitting import rounds

BUDGETS = ("ratio", "coefficients", "lora_rank")
"""Settings that are a budget, whatever the class."""
SIZES = ("rank", "num_bases", "terms", "block", "parts", "left", "right")
"""Settings that may decide how many coefficients there are, without a budget."""
PASSES = 100
"""What a step of `descend` takes besides, in the time of multiply-adds a weight."""
FIRM = 1e-5
"""What keeps coefficients in bounds that are fitted (`descend`)."""


def class_of(factory: Any) -> Any:
    """Return the class that a factory makes, or the factory with what it binds."""
    found = factory_class(factory)
    return found if isinstance(found, type) else factory


def name_of(factory: Any) -> str:
    """Return what a factory's class is called."""
    return getattr(class_of(factory), "__name__", str(factory))


class Share:
    """A part before it is made: its factory, its shape and what it is called in messages.

    Args:
        factory: makes the part.
        shape: of the part.
        where: its place, as `parts.1` or `left`.
        seed: of the whole, for a part that has none of its own.

    Raises:
        ValueError: if the factory is none, or of a class that is abstract, no parameterization or
            one of a frozen weight.
    """

    def __init__(self, factory: Any, shape: tuple[int, int], where: str, seed: int) -> None:
        self.factory, self.shape, self.seed = factory, shape, seed
        cls, self.name = class_of(factory), f"{where} ({name_of(factory)})"
        if not callable(factory) or (
            isinstance(cls, type) and not issubclass(cls, WeightParameterization)
        ):
            raise ValueError(f"{where} must be a parameterization, got {name_of(factory)}")
        if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
            raise ValueError(f"{self.name} is abstract: define {', '.join(lacking)}")
        if getattr(cls, "needs_base", False):
            raise ValueError(
                f"{self.name} changes a frozen weight and has none of its own: give another class"
            )
        try:
            self.takes = inspect.signature(cls).parameters
        except (TypeError, ValueError):  # it says nothing of its arguments
            self.takes = {}  # type: ignore[assignment]
        self.given = {
            key
            for key, value in getattr(factory, "keywords", {}).items()
            if value is not None and (key not in self.takes or value != self.takes[key].default)
        }

    @property
    def has_budget(self) -> bool:
        """Say whether the part is given a budget of its own, or takes none."""
        if not {"coefficients", "ratio"} & set(self.takes) or self.given.intersection(BUDGETS):
            return True
        return bool(self.given.intersection(SIZES)) and "needs a" not in (self.why_not(None) or "")

    def why_not(self, count: int | None) -> str | None:
        """Say why the part cannot be made of so many coefficients, of which none are drawn."""
        try:
            with torch.device("meta"):
                self.make(count)
        except ValueError as error:
            return str(error)
        return None

    def make(self, count: int | None) -> WeightParameterization:
        """Make the part of at most `count` coefficients; None leaves it its own budget.

        Raises:
            ValueError: if it is no parameterization of the shape.
        """
        m, n = self.shape
        settings: dict[str, Any] = {}
        if "seed" in self.takes and "seed" not in self.given:
            settings["seed"] = self.seed
        if count is not None and "coefficients" in self.takes:
            settings["coefficients"] = count
        elif count is not None:
            settings["ratio"] = count / (m * n)
        part = functools.partial(self.factory, **settings)(m, n)
        if not isinstance(part, WeightParameterization) or part.shape != self.shape:
            made = f"{tuple(part.shape)}" if hasattr(part, "shape") else type(part).__name__
            raise ValueError(f"{self.name} must make a {self.shape} map, and made {made}")
        return part

    def least(self, above: int) -> int | None:
        """Find the fewest coefficients above a number that the part can be made of, if any are."""
        low, high = above, above + 1
        size = self.shape[0] * self.shape[1]
        while high < size and self.why_not(high):
            low, high = high, min(2 * high, size)
        if self.why_not(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.why_not(middle) else (low, middle)
        return high


def made_within(
    total: int | None,
    parts: Sequence[Share],
    shares: Sequence[float],
    said: str,
    most: int | None,
    given: bool = True,
) -> list[WeightParameterization]:
    """Make parts that have `total` coefficients together.

    Those with a budget of their own take that. What it leaves is split among the others by
    `shares`, and the last of these gets whatever is left, so that the count is exact where the last
    part's is.

    Args:
        total: coefficients of all; None if each part has a budget of its own.
        parts: in order.
        shares: of each part, those with a budget of their own too, whose share is passed by.
        said: the budget as it was given, in messages.
        most: coefficients that a budget may give; None if the shapes of parts follow the budget.
        given: whether a user gives shares.

    Raises:
        ValueError: if a part has no budget, all have one besides `total`, or one's share is too
            small for it; it names the part and what would work.
    """
    made: dict[int, WeightParameterization] = {}
    rest = [i for i, part in enumerate(parts) if not part.has_budget]
    for i, part in enumerate(parts):
        if i not in rest:
            made[i] = _made(part)
    if total is None and rest:
        names = ", ".join(parts[i].name for i in rest)
        raise ValueError(
            "needs a budget: give ratio, coefficients or lora_rank of the whole, or one to each "
            f"of {names}"
        )
    if total is not None and not rest:
        raise ValueError(
            f"{said} and the budgets of its parts exclude each other: each of "
            f"{', '.join(part.name for part in parts)} has one"
        )
    if total is not None:
        taken = sum(p.num_trainable for p in made.values())
        split = _Split(parts, {i: shares[i] for i in rest}, taken, most)
        if (left := total - taken) < len(rest):
            raise ValueError(
                f"{said} leaves {max(left, 0)} of {total} coefficients for "
                f"{', '.join(parts[i].name for i in rest)}, the other parts taking {taken}: "
                f"{split.advice()}"
            )
        for i in rest:
            count = max(1, split.share(i, left)) if i != rest[-1] else total - taken
            try:
                made[i] = parts[i].make(count)
            except ValueError as error:
                if (least := parts[i].least(count)) is None:
                    raise ValueError(
                        f"{parts[i].name}, of {count} coefficients, {error}"
                    ) from error
                raise ValueError(
                    f"{parts[i].name} gets {count} of {total} coefficients and needs {least}: "
                    f"{split.advice(i, left * given)}"
                ) from error
            taken += made[i].num_trainable
    return [made[i] for i in range(len(parts))]


def _made(part: Share) -> WeightParameterization:
    """Make a part that has a budget of its own."""
    try:
        return part.make(None)
    except ValueError as error:
        raise ValueError(f"{part.name} {error}") from error


class _Split:
    """How parts without a budget share what the others leave, and what would be enough for all.

    Args:
        parts: all of them.
        shares: of those without a budget, by their places.
        taken: by the others.
        most: what a budget may be; None if the shapes of parts follow it.
    """

    def __init__(
        self, parts: Sequence[Share], shares: dict[int, float], taken: int, most: int | None
    ) -> None:
        self.parts, self.shares, self.taken, self.most = parts, shares, taken, most

    def share(self, i: int, left: int) -> int:
        """Return how many coefficients of those that are left are a part's."""
        return int(left * self.shares[i] / sum(self.shares.values()))

    def advice(self, part: int = -1, left: int = 0) -> str:
        """Say what is enough for all: a budget, or another share of `left` for one part."""
        if self.most is None:
            return "give more coefficients, or a rank"
        needed, whole = {i: self.parts[i].least(0) for i in self.shares}, sum(self.shares.values())
        counts = {i: count for i, count in needed.items() if count is not None}
        if len(counts) < len(needed):
            poor = next(self.parts[i].name for i in needed if i not in counts)
            return f"{poor} needs more than there are weights: leave the layer out"
        wanted = len(counts)  # one each
        for i, count in counts.items():
            if count > 1:
                wanted = max(wanted, math.ceil(count * whole / self.shares[i]))
                wanted += self.share(i, wanted) < count  # as it is rounded
        ways = []
        if part in counts and len(counts) > 1 and counts[part] < left:
            share = math.ceil(1000 * counts[part] / left) / 1000
            rest = left * (1 - share) / (whole - self.shares[part])
            if all(int(rest * self.shares[i]) >= counts[i] for i in counts if i != part):
                ways = [f"a share of {share:g}"]
        if (total := self.taken + wanted) <= self.most:
            ways.append(f"a budget of {total} coefficients")
        if not ways:
            return f"a budget of {total} would be more than its weights: leave the layer out"
        return f"give it {' or '.join(ways)}"


class Nested(WeightParameterization):
    """A map made of other maps, its submodules.

    Each part serves a layer of a name of its own, so that positions differ between parts as they do
    between layers.
    """

    @abstractmethod
    def named_parts(self) -> dict[str, WeightParameterization]:
        """Return the parts by what stands after the layer's name in theirs."""

    @property
    def trained_dtype(self) -> torch.dtype:
        """The dtype of the coefficients; a replica of `nn.DataParallel` has them as attributes."""
        if (p := next(self.parameters(), None)) is not None:
            return p.dtype
        values = (value for part in self.modules() for value in vars(part).values())
        return next(x.dtype for x in values if isinstance(x, Tensor) and x.is_floating_point())

    def reset_buffers(self) -> None:
        """Have parts serve this layer; those that do where they are now are left alone."""
        for name, part in self.named_parts().items():
            layer = f"{self.layer}.{name}"
            if part.layer != layer or part._built_at != part._places_of_parameters():
                part.for_layer(layer)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Nested":
        for name, part in self.named_parts().items():  # which rebuild as they are moved
            part.layer = f"{self.layer}.{name}"
        super()._apply(fn, recurse)
        return self


def descend(p: WeightParameterization, target: Tensor, steps: int = 3000) -> None:
    """Bring coefficients to a stationary point of |W - T|_F^2 from where they are.

    By quasi-Newton steps (L-BFGS) in c / |c_0|, c_0 the coefficients at first, so that steps do not
    depend on how large W is, until the gradient J^T (W - T) has fallen to 1e-5 of J^T T in its
    largest entry; of a large weight it ends on the way there (`rounds`). Products of sparse factors
    may have no best coefficients, as terms that cancel fit better the larger they grow; a term of
    `FIRM` |T|^2 |c|^2 / |c_0|^2 keeps them in bounds and moves the point by as little.

    Args:
        p: a map in float64, whose coefficients change.
        target: T, (m, n), in float64.
        steps: the most that are taken.
    """
    size = target.norm().clamp_min(torch.finfo(target.dtype).tiny)
    trained = [q for q in p.parameters() if q.requires_grad]
    lengths = [q.detach().norm() for q in trained]
    lengths = [torch.where(length > 0, length, size) for length in lengths]
    free = [(q.detach() / of).requires_grad_() for q, of in zip(trained, lengths, strict=True)]

    def slope(of: Tensor) -> list[Tensor]:
        grads = torch.autograd.grad(of, trained)
        return [grad * length for grad, length in zip(grads, lengths, strict=True)]

    @torch.no_grad()
    def follow() -> None:
        for q, values, length in zip(trained, free, lengths, strict=True):
            q.copy_(values * length)

    with torch.enable_grad():
        whole = slope((p.weight() * target / size).sum() / size)
        optimizer = torch.optim.LBFGS(
            free,
            max_iter=rounds(steps, sum(p.building()) + PASSES * target.numel()),
            history_size=30,
            tolerance_grad=2e-5 * max(g.abs().max().item() for g in whole),
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def error() -> Tensor:
            follow()
            found = ((p.weight() - target) / size).square().sum()
            for values, grad in zip(free, slope(found), strict=True):
                values.grad = grad + 2 * FIRM * values.detach()
                found = found + FIRM * values.detach().square().sum()
            return found.detach()

        optimizer.step(error)  # type: ignore[arg-type]
    follow()
    p.zero_grad()


def is_reproduced(p: WeightParameterization, target: Tensor) -> bool:
    """Say whether W is the target already, to the rounding of its dtype."""
    w = p.weight().double()
    nothing = 4 * torch.finfo(next(p.parameters()).dtype).eps * target.double().norm()
    return bool((w - target.to(w)).norm() <= nothing)
