"""Starts and rates that transfer: tune a small network, and train a large one at the same rate.

The small network is the **base**, of width n0 and depth L0; rho = n / n0 of a layer's columns, and
lam the times that there are more of a layer. By the spectral condition (Yang, Simon and Bernstein,
arXiv 2310.17813) W and a step dW, (m, n), are both to be of spectral norm sqrt(m / n). A step of
+-lr an entry moves W by at most lr sqrt(mn), one of Muon by 0.2 lr sqrt(max(m, n)), so that

    matrix              drawn with        AdamW's rate     Muon's rate
    hidden              std rho^-1/2      lr / rho         lr M / M0, M = sqrt(m / n / max(m, n))
    last of a branch    the same / lam    the same / lam   the same / lam
    head                std / rho         lr / rho         lr M / M0

The head is what has the base's rows and more columns; what has the base's columns, as embeddings
have, and biases and norms are left as they are, but for the bias of a branch's last layer, whose
rate is lr / lam. The factor 1 / lam of a residual branch (CompleteP, arXiv 2505.01618, alpha = 1)
is in the start and the rate of its last layer, so that no forward pass has a new factor and merged,
exported and saved networks are what they were. Weight decay shrinks W by the same share a step, and
AdamW's eps falls as the gradient does, as 1 / (rho lam).

One rule serves every map: `lr_mult` makes its step as large in W as a dense one, and what is drawn
has the root-mean-square of the weight that it replaces.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.layers.kinds import matrix_shape, outside
from zoo.layers.layer import ZooLayer
from zoo.layers.names import folded, matches, summary
from zoo.layers.plain import CONV, is_linear

Drawn = Literal["constant", "fan_in"]
"""How the std of a start follows the width by itself: not at all, or as n^-1/2."""
ATTRIBUTE = "transfer"
"""Of a layer: its `Factors`. A layer in its place takes it over."""


@dataclass(frozen=True)
class BaseSizes:
    """Sizes of the base: the network whose rates and starts were tuned.

    Args:
        width: n0, features per position.
        layers: L0, number of blocks.
        head: d0, features of an attention head, if heads grow with the width: scores are then
            q k^T sqrt(d0) / d. Left out, heads are as large as in the base, or are to be scaled by
            1 / sqrt(d) as ever.
    """

    width: int
    layers: int
    head: int | None = None

    def __post_init__(self) -> None:
        """Raises UserError for a size below 1."""
        for name in ("width", "layers", "head"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise UserError(f"base_sizes.{name} must be at least 1, got {size}")


class Factors(NamedTuple):
    """What the rates of a layer are multiplied by.

    Args:
        adamw: of its matrix, or the coefficients of it, by AdamW.
        muon: of the same, by Muon.
        bias: of its bias.
        eps: what AdamW's eps of its matrix is multiplied by.
    """

    adamw: float
    muon: float
    bias: float
    eps: float


SAME = Factors(1.0, 1.0, 1.0, 1.0)


def scale_from_base_(
    network: nn.Module,
    base: nn.Module,
    residual: Sequence[str] = (),
    drawn: Drawn = "constant",
    logits: str | None = None,
) -> dict[str, Factors]:
    """Scale a network's start in place, and have its rates be those of a smaller one.

    At the base's own sizes nothing changes. Call it before layers get maps, which take over what it
    sets.

        >>> def net(width):
        ...     sizes = [(4, width), (width, width), (width, 2)]
        ...     return torch.nn.Sequential(*(torch.nn.Linear(*size) for size in sizes))
        >>> with torch.device("meta"):
        ...     base = net(64)
        >>> wide = net(256)
        >>> factors = zoo.scale_from_base_(wide, base, drawn="fan_in")
        >>> {name: factor.adamw for name, factor in factors.items()}
        {'0': 1.0, '1': 0.25, '2': 0.25}
        >>> groups = zoo.param_groups(wide, lr=1e-3)

    Args:
        network: with its weights drawn, on any device.
        base: the same with the sizes that were tuned; it may be on the meta device, since nothing
            but its shapes is looked at.
        residual: globs of the last layers of residual branches, as `*proj`.
        drawn: whether the network draws W with the same std at every width, as GPT-2 does, or with
            one that falls as n^-1/2, as torch does by itself. A std that follows the depth, as
            GPT-2's of residual projections, is to be that of the base's depth.
        logits: the attribute of the network by which its forward multiplies the logits. A head that
            shares its weight with an embedding needs it: the weight keeps the start and the rate
            of an embedding, and the attribute is multiplied by 1 / rho.

    Returns:
        The factors of each linear and convolutional layer, by its name.

    Raises:
        UserError: if a layer is not in the base, or is smaller than there; if the network is deeper
            and no layer is `residual`, or has parameterized layers; if its head shares the weight
            of an embedding and no `logits` are named; or if a matrix that grows is in no such
            layer. Nothing is changed then.
    """
    found, tuned = _layers(network), _layers(base)
    counts, counts_base = (Counter(map(folded, names)) for names in (found, tuned))
    embedded = {each.weight for each in network.modules() if isinstance(each, nn.Embedding)}
    factors: dict[str, Factors] = {}
    stds: dict[str, float] = {}
    multiplier = 1.0
    for name, layer in found.items():
        shape, tuned_shape = matrix_shape(layer), _counterpart(name, tuned)
        lam = counts[folded(name)] / counts_base[folded(name)]
        _check_sizes(name, shape, tuned_shape, lam)
        if _is_head(shape, tuned_shape) and layer.weight in embedded:
            if not isinstance(getattr(network, logits or "", None), int | float):
                raise UserError(
                    f"{name} shares its weight with an embedding, and cannot have the start and "
                    "the rate of both: multiply the logits by a number that is an attribute of the "
                    "network, and name it, as logits='logit_scale'; or untie them"
                )
            factors[name], stds[name], multiplier = SAME, 1.0, tuned_shape[1] / shape[1]
            continue
        last = any(matches(name, glob) for glob in residual)
        factors[name], stds[name] = _rule(shape, tuned_shape, lam, last, drawn)
    deeper = [name for name in found if counts[folded(name)] > counts_base[folded(name)]]
    if deeper and not any(matches(name, glob) for name in deeper for glob in residual):
        raise UserError(
            "the network is deeper than its base: name the last layers of its residual branches, "
            f"as residual=['*proj']; it has {summary(deeper)}"
        )
    _check_rest(network, base, found)
    _check_shared(found, factors)
    scaled: set[object] = set()
    with torch.no_grad():
        for name, layer in found.items():
            setattr(layer, ATTRIBUTE, factors[name])
            for tensor, factor in ((layer.weight, stds[name]), (layer.bias, factors[name].bias)):
                if isinstance(tensor, Tensor) and factor != 1 and tensor not in scaled:
                    tensor.mul_(factor)
                    scaled.add(tensor)
    if multiplier != 1:
        assert logits is not None
        setattr(network, logits, multiplier * getattr(network, logits))
    return factors


def rates_of(
    model: nn.Module, muon: Container[nn.Parameter] = ()
) -> dict[nn.Parameter, tuple[float, float]]:
    """Find by what the rate of a parameter, and AdamW's eps of it, are multiplied.

    Args:
        model: whose layers have factors, in or without a map.
        muon: those that Muon moves.
    """
    found: dict[nn.Parameter, tuple[float, float]] = {}
    for module in model.modules():
        factors = vars(module).get(ATTRIBUTE)
        if not isinstance(factors, Factors):
            continue
        if isinstance(module, ZooLayer):
            weights = [*module.parameterization.parameters(), *module.base_parameters]
        else:
            weights = [module.weight]  # type: ignore[list-item]
        for p in weights:
            found[p] = factors.muon if p in muon else factors.adamw, factors.eps
        if (bias := getattr(module, "bias", None)) is not None:
            found[bias] = factors.bias, 1.0
    return found


# ---- The rule ------------------------------------------------------------------------------------


def _rule(
    shape: tuple[int, int], base: tuple[int, int], lam: float, last: bool, drawn: Drawn
) -> tuple[Factors, float]:
    """Return what rates of a layer are multiplied by, and the std of its start.

    Args:
        shape: (m, n) of its matrix.
        base: (m0, n0), that of its counterpart in the base.
        lam: how many times more such layers there are.
        last: whether it ends a residual branch.
        drawn: how its std follows the width by itself.
    """
    rho, is_head = shape[1] / base[1], _is_head(shape, base)
    branch = 1 / lam if last else 1.0
    factors = Factors(
        adamw=branch / rho,
        muon=branch * _muons(*shape) / _muons(*base),
        bias=branch,
        eps=1.0 if is_head else 1 / (rho * lam),
    )
    std = branch * (1 / rho if is_head else rho**-0.5)
    return factors, std * (rho**0.5 if drawn == "fan_in" else 1.0)


def _is_head(shape: tuple[int, int], base: tuple[int, int]) -> bool:
    return shape[0] == base[0] and shape[1] > base[1]


def _muons(m: int, n: int) -> float:
    """Return the rate at which a step of Muon has the spectral norm sqrt(m / n), over lr."""
    return (m / n / max(m, n)) ** 0.5


# ---- The network and its base --------------------------------------------------------------------


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    """Find the layers that multiply by a matrix, by name."""
    return {
        name: module
        for name, module in outside(network).items()
        if is_linear(module) or isinstance(module, CONV)
    }


def _counterpart(name: str, tuned: Mapping[str, nn.Module]) -> tuple[int, int]:
    """Return the shape of a layer in the base: of the same name, or of the same in another block.

    Raises:
        UserError: if there is none, or the blocks have several.
    """
    if name in tuned:
        return matrix_shape(tuned[name])
    shapes = {matrix_shape(each) for key, each in tuned.items() if folded(key) == folded(name)}
    if len(shapes) != 1:
        why = "is not in the base" if not shapes else "has several shapes in the base"
        raise UserError(
            f"{name} {why}, whose layers must have the network's names: it has {summary(tuned)}"
        )
    return shapes.pop()


def _check_sizes(name: str, shape: tuple[int, int], base: tuple[int, int], lam: float) -> None:
    """Refuse a base that is wider or deeper than the network."""
    (m, n), (m0, n0) = shape, base
    if m < m0 or n < n0:
        raise UserError(
            f"{name} is {m} x {n}, and {m0} x {n0} in the base, which must not be wider: give a "
            "base of less width"
        )
    if lam < 1:
        raise UserError(
            f"the base has {1 / lam:g} times as many layers {folded(name)}, and must not be "
            "deeper: give a base of fewer layers"
        )


def _check_rest(network: nn.Module, base: nn.Module, found: Mapping[str, nn.Module]) -> None:
    """Refuse a matrix that grows both ways, and is in no layer whose factors are known."""
    if any(isinstance(module, ZooLayer) for module in network.modules()):
        raise UserError("the network has parameterized layers: scale it before they get maps")
    known = {p for layer in found.values() for p in layer.parameters()}
    shapes = {name: p.shape for name, p in base.named_parameters()}
    alike = {folded(name): shape for name, shape in shapes.items()}
    for name, p in network.named_parameters():
        theirs = shapes.get(name, alike.get(folded(name)))
        if p in known or p.dim() < 2 or theirs is None or len(theirs) != p.dim():
            continue
        if sum(size != other for size, other in zip(p.shape, theirs, strict=True)) > 1:
            raise UserError(
                f"{name} grows in its rows and columns, and is in no linear or convolutional "
                "layer, of which alone the rates are known: use an nn.Linear"
            )


def _check_shared(found: Mapping[str, nn.Module], factors: Mapping[str, Factors]) -> None:
    """Refuse layers with one weight whose rates would differ."""
    first: dict[object, str] = {}
    for name, layer in found.items():
        other = first.setdefault(layer.weight, name)
        if factors[other] != factors[name]:
            raise UserError(
                f"{name} shares its weight with {other}, whose rates are to be others: untie them"
            )
