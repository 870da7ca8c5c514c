"""peft's layer of a parameterization's kind and count, which `--against peft` measures beside it.

What has no neighbour in peft is compared with FourierFT of as many coefficients, since it too makes
a whole W of them: orthonormal bases, `Dense`, sums and products, BLAST, tensor trains and Fastfood.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from zoo.layers.linear import ZooLinear
from zoo.parameterizations import WeightParameterization

SHARED = "theta_d_length"
"""An option that is of all layers of a network together: UniLoRA has one vector for them."""


class Rival(NamedTuple):
    """What peft has for a layer."""

    config: str
    """The name of peft's config, less its last word."""
    options: dict[str, Any]
    shown: str
    """The option that makes its count, as its name has it."""
    called: str | None = None
    """How the method is called, if not like its config."""

    @property
    def name(self) -> str:
        """`peft LoRA r=8`."""
        return f"peft {self.called or self.config} {self.shown}"


class Layer(NamedTuple):
    """What a rival follows from."""

    m: int
    n: int
    trained: int
    """Trained numbers."""
    parameterization: WeightParameterization

    def rank(self, each: int) -> int:
        """Return how many ranks of so many numbers come nearest to the count, at least one."""
        return max(1, round(self.trained / each))


def rival(layer: ZooLinear, kind: str | None = None) -> Rival:
    """Find peft's layer of a layer's kind and count, or nearest to it; FourierFT if it has none.

    Args:
        layer: of zoo.
        kind: one of `RIVALS` in place of the layer's own class.
    """
    p = layer.parameterization
    count = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    names = (cls.__name__ for cls in type(p).__mro__)
    own = next((name for name in names if name in RIVALS), "Fourier")
    return RIVALS[kind or own](Layer(*p.shape, count, p))


def inject(network: nn.Module, rivals: Mapping[str, Rival]) -> None:
    """Put peft's layers in the places of a network's linear layers, and freeze all others.

    What peft calls an injection refuses methods whose layers share something (VeRA, UniLoRA).

    Args:
        network: changed in place.
        rivals: by the whole names of layers.

    Raises:
        ValueError: of peft, for a shape that it cannot have.
    """
    import peft

    torch.sparse.check_sparse_tensor_invariants.disable()  # as it is, or torch warns of SHiRA's
    groups: dict[str, list[str]] = {}
    for name, found in rivals.items():
        groups.setdefault(found.config if SHARED in found.options else found.name, []).append(name)
    for names in groups.values():
        first = rivals[names[0]]
        options = {**first.options, "target_modules": names}
        if SHARED in options:
            options[SHARED] = sum(rivals[name].options[SHARED] for name in names)
        config = getattr(peft, f"{first.config}Config")(**options)
        peft.PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](network, config, adapter_name="default")
        if hasattr(network, "peft_config"):
            del network.peft_config  # by which peft warns of a second time


def peft_layer(found: Rival, shape: tuple[int, int], device: torch.device) -> nn.Module:
    """Make a dense layer with peft's update.

    Raises:
        ValueError: of peft, for a shape that it cannot have.
    """
    base = nn.Sequential(OrderedDict(layer=nn.Linear(shape[1], shape[0]).to(device)))
    inject(base, {"layer": found})
    return base.get_submodule("layer").to(device)


# ---- Of each class -------------------------------------------------------------------------------


def _fourierft(layer: Layer) -> Rival:
    options = {"n_frequency": layer.trained, "init_weights": True}
    return Rival("FourierFT", options, f"{layer.trained}")


def _waveft(layer: Layer) -> Rival:
    return Rival("WaveFT", {"n_frequency": layer.trained}, f"{layer.trained}")


def _lora(layer: Layer) -> Rival:
    r = layer.rank(layer.m + layer.n)
    return Rival("Lora", {"r": r, "lora_alpha": r}, f"r={r}", "LoRA")


def _adalora(layer: Layer) -> Rival:
    r = layer.rank(layer.m + layer.n + 1)
    options = {"init_r": r, "target_r": r, "lora_alpha": r, "total_step": 1}
    return Rival("AdaLora", options, f"r={r}", "AdaLoRA")


def _dora(layer: Layer) -> Rival:
    r = max(1, round((layer.trained - layer.m) / (layer.m + layer.n)))
    return Rival("Lora", {"r": r, "lora_alpha": r, "use_dora": True}, f"r={r}", "DoRA")


def _hira(layer: Layer) -> Rival:
    r = layer.rank(layer.m + layer.n)
    return Rival("Hira", {"r": r}, f"r={r}", "HiRA")


def _oft(layer: Layer) -> Rival:
    p: Any = layer.parameterization
    options = {"r": 0, "oft_block_size": p.block, "use_cayley_neumann": p.terms > 0}
    return Rival("OFT", options, f"b={p.block}")


def _hra(layer: Layer) -> Rival:
    r = layer.rank(layer.n)
    return Rival("HRA", {"r": r}, f"r={r}")


def _ia3(layer: Layer) -> Rival:
    p: Any = layer.parameterization
    options = {"feedforward_modules": ["layer"] if p.side == "in" else []}
    return Rival("IA3", options, p.side)


def _randlora(layer: Layer) -> Rival:
    r: Any = layer.parameterization.rank
    return Rival("RandLora", {"r": r, "randlora_alpha": 20 * r}, f"r={r}", "RandLoRA")


def _loha(layer: Layer) -> Rival:
    r = layer.rank(2 * (layer.m + layer.n))
    return Rival("LoHa", {"r": r, "alpha": r}, f"r={r}")


def _vera(layer: Layer) -> Rival:
    r = max(1, layer.trained - layer.m)
    return Rival("Vera", {"r": r}, f"r={r}", "VeRA")


def _miss(layer: Layer) -> Rival:
    q: Any = layer.parameterization.mini_r
    if q is None or q == layer.m:
        return Rival("Miss", {"r": layer.rank(layer.m)}, f"r={layer.rank(layer.m)}", "MiSS")
    options = {"r": layer.rank(q), "mini_r": q, "init_weights": "mini"}
    return Rival("Miss", options, f"r={layer.rank(q)} mini_r={q}", "MiSS")


def _gralora(layer: Layer) -> Rival:
    grid: Any = layer.parameterization.grid
    k = math.gcd(*grid)
    r = k * layer.rank(k * (layer.m + layer.n))
    options = {"r": r, "gralora_k": k, "alpha": r}
    return Rival("Gralora", options, f"r={r} k={k}", "GraLoRA")


def _shira(layer: Layer) -> Rival:
    each = layer.m + layer.n
    r = min(layer.rank(each), layer.m * layer.n // each)
    return Rival("Shira", {"r": r}, f"r={r}", "SHiRA")


def _unilora(layer: Layer) -> Rival:
    """Return one whose factors have at least as many places as there are values, and rank 4."""
    r = max(4, -(-layer.trained // (layer.m + layer.n)))
    options = {"r": r, SHARED: layer.trained}
    return Rival("UniLora", options, f"{layer.trained}", "UniLoRA")


def _c3a(layer: Layer) -> Rival:
    most = math.gcd(layer.m, layer.n)
    sizes = [b for b in range(1, most + 1) if most % b == 0]
    weights = layer.m * layer.n
    b = min(sizes, key=lambda b: abs(weights // b - layer.trained))
    return Rival("C3A", {"block_size": b}, f"b={b}")


def _lokr(layer: Layer) -> Rival:
    """Return the one term, of a full or a low-rank second factor, that is nearest in count."""
    from peft.tuners.lokr.layer import factorization

    m, n, count, p = layer
    sizes: Any = p.sizes  # type: ignore[attr-defined]
    own = sizes["lokr_w1"]
    factors = dict.fromkeys(
        [-1, *own, *(f for f in range(2, max(m, n)) if m % f == 0 or n % f == 0)]
    )
    found: list[tuple[int, bool, int, int, int]] = []
    for factor in factors:
        (m1, m2), (n1, n2) = factorization(m, factor), factorization(n, factor)
        r = max(1, round((count - m1 * n1) / (m2 + n2)))
        full = -(-max(m2, n2) // 2)  # peft has a whole factor from this rank on
        for rank in {full, min(r, full)}:
            numbers = m1 * n1 + (m2 * n2 if rank == full else rank * (m2 + n2))
            found.append((abs(numbers - count), (m1, n1) != own, len(found), factor, rank))
    *_, factor, r = min(found)
    options = {"r": r, "alpha": r, "decompose_factor": factor}
    return Rival("LoKr", options, f"factor={factor} r={r}")


RIVALS: dict[str, Callable[[Layer], Rival]] = {
    "AdaLoRA": _adalora,
    "BlockLowRank": _gralora,
    "DoRA": _dora,
    "HiRA": _hira,
    "Householder": _hra,
    "IA3": _ia3,
    "OFT": _oft,
    "PiSSA": _lora,
    "Circulant": _c3a,
    "Fourier": _fourierft,
    "Hashed": _unilora,
    "Kronecker": _lokr,
    "LoHa": _loha,
    "LoRA": _lora,
    "MiSS": _miss,
    "RandLoRA": _randlora,
    "Sparse": _shira,
    "VeRA": _vera,
    "Wavelet": _waveft,
}
"""Of classes that peft has a method for, by their names; subclasses have that of their base."""
