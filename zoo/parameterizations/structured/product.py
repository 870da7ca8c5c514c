"""A product of maps, W = L R, of any two parameterizations; the counts add.

With sparse cosine spectra as factors it is in the manner of SCoRA, with random subspaces NOLA
(arXiv 2310.02556), with fixed outer factors LoRA-Mini (arXiv 2411.15804).
"""

import copy
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.bases.cosine import dct_matrix
from zoo.bases.seeds import autocast_dtype, cached, generator, shared, without_autocast
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import layer_budget
from zoo.parameterizations.cost import Cost, cost_with_weight
from zoo.parameterizations.dense import Dense
from zoo.parameterizations.factory import ParameterizationFactory
from zoo.parameterizations.low_rank.products import add_product
from zoo.parameterizations.structured.nested import (
    Nested,
    Share,
    descend,
    is_reproduced,
    made_within,
)
from zoo.parameterizations.subspaces.dct import DCT

FULL = 2
"""How many coefficients a factor could have for each that it has, if no rank is given."""
DRAWS = 8
"""Of both factors, over which the energy of their product is averaged."""


@cached(maxsize=32)
def random_frame(rows: int, rank: int, seed: int, *labels: object) -> Tensor:
    """Return Haar-distributed orthonormal columns; (rows, rank), float64."""
    drawn = torch.randn(
        rows, rank, dtype=torch.float64, generator=generator(seed, "frame", rows, rank, *labels)
    )
    q, r = torch.linalg.qr(drawn)
    return q * r.diagonal().sign()


class Product(Nested):
    """A product of maps, W = L R; by default two sparse spectra.

    L (m, r) and R (r, n), each any parameterization with coefficients of its own; the count is the
    sum of theirs. They serve the layers `NAME.left` and `NAME.right`. With `fixed` one of them is a
    matrix that the seed draws, with orthonormal columns (L) or rows (R), and the other is trained.

    **Sparse spectra** (SCoRA) are the default, `DCT` each. SCoRA's own factors have r columns with
    the same s and t frequencies, U (beta alpha^T) V^T: `fixed: left` and in it `fixed: right`, both
    with `frame: cosine`, around a `LoRA` of rank r; r (s + t).
    **NOLA** has sums of random matrices as factors: `RandomOrthonormal` each, whose random matrices
    are orthonormal, where NOLA's are uniform and independent; k + l.
    **LoRA-Mini** trains the inner two of four factors: as SCoRA's own, with `frame: random`;
    r (a + b) for outer factors (m, a) and (b, n).

    Cost: T r (m + n) for x R^T L^T and what the factors take to build, if that is less than mn a
    row; with a larger rank W is built, r mn.

        >>> zoo.Product(8, 8, ratio=0.5).num_trainable
        32

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        left: a class, or a class with its settings, for L; by default `DCT`.
        right: the same for R.
        rank: r, in [1, min(m, n)]; of a fixed L in [1, m], of a fixed R in [1, n]. By default as
            large as lets every factor have half of its coefficients.
        fixed: `left` or `right` is not trained, and in no state dict; or neither.
        frame: what a fixed factor's columns (L) or rows (R) are: `random`, the same in all layers
            of a size, or `cosine`, those of the DCT at r random frequencies, others in each layer.
        ratio: of the mn weights, split in proportion to the factors' sizes; or
        coefficients: their number; or
        lora_rank: as many as LoRA of this rank has. Exactly one of the three, and none where each
            factor has a budget of its own. The count is exact where the last one's is that has
            none.
        seed: of a fixed factor, and of those that are given none.

    Raises:
        ValueError: for a factor that is no parameterization, a rank out of range or too small for
            the budget, a budget too many or none, and a share that is too small for its factor.
    """

    frame: Tensor
    left: WeightParameterization
    right: WeightParameterization

    def __init__(
        self,
        out_features: int,
        in_features: int,
        left: ParameterizationFactory | None = None,
        right: ParameterizationFactory | None = None,
        rank: int | None = None,
        fixed: Literal["left", "right"] | None = None,
        frame: Literal["random", "cosine"] = "random",
        ratio: float | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        m, n = self.shape
        for name, value, legal in (
            ("fixed", fixed, (None, "left", "right")),
            ("frame", frame, ("random", "cosine")),
        ):
            if value not in legal:
                raise ValueError(f"{name} must be {' or '.join(map(str, legal))}, got {value!r}")
        factories = {"left": left, "right": right}
        if fixed is not None and factories.pop(fixed) is not None:
            raise ValueError(f"{fixed} and fixed {fixed} exclude each other: drop one")
        sizes = {name: {"left": m, "right": n}[name] for name in factories}
        given = {"ratio": ratio, "coefficients": coefficients, "lora_rank": lora_rank}
        given = {key: value for key, value in given.items() if value is not None}
        total = None
        if given:
            total = layer_budget(m, n, ratio, coefficients, lora_rank, least=0)
        most = {"left": m, "right": n, None: min(m, n)}[fixed]
        sized = m * n if rank is not None else None
        if rank is None:
            if total is None:
                raise ValueError("needs a rank or a budget: give rank, ratio or coefficients")
            rank = min(max(1, round(FULL * total / sum(sizes.values()))), most)
        if not 1 <= rank <= most:
            raise ValueError(f"rank must lie in [1, {most}] for shape {self.shape}, got {rank}")
        if total is not None and total > rank * sum(sizes.values()):
            raise ValueError(
                f"rank {rank} holds at most {rank * sum(sizes.values())} coefficients for shape "
                f"{self.shape}, got {total}: rank {-(-total // sum(sizes.values()))} holds them"
            )
        self.rank, self.fixed, self.frame_kind = rank, fixed, frame
        shapes = {"left": (m, rank), "right": (rank, n)}
        planned = [Share(f or DCT, shapes[key], key, seed) for key, f in factories.items()]
        said = ", ".join(f"{key} {value}" for key, value in given.items())
        made = made_within(total, planned, list(sizes.values()), said, sized, given=False)
        for key, part in zip(factories, made, strict=True):
            self.add_module(key, part)
        self._rebuild()
        self.reset_parameters(in_features**-0.5)

    def named_parts(self) -> dict[str, WeightParameterization]:
        return {key: part for key, part in self._modules.items()}  # type: ignore[misc]

    def reset_buffers(self) -> None:
        super().reset_buffers()
        if self.fixed is None:
            return
        rows, place = self.shape[self.fixed == "right"], next(self.parameters())
        dtype = torch.promote_types(place.dtype, torch.float32)
        if self.frame_kind == "random":
            frame = random_frame(rows, self.rank, self.seed, self.fixed)
        else:
            drawn = generator(self.seed, "frame", self.fixed, self.layer)
            frequencies = torch.randperm(rows, generator=drawn)[: self.rank].sort().values
            frame = dct_matrix(rows)[frequencies].mT.contiguous()
        self.register_buffer("frame", shared(frame, place.device, dtype), persistent=False)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """Return L and R."""
        if self.fixed == "left":
            return self.frame, self.right.weight()
        if self.fixed == "right":
            return self.left.weight(), self.frame.mT
        return self.left.weight(), self.right.weight()

    def weight(self) -> Tensor:
        left, right = self._factors()
        with without_autocast(left.device):
            wide = torch.promote_types(left.dtype, right.dtype)
            return (left.to(wide) @ right.to(wide)).to(self.trained_dtype)

    @property
    def _is_narrow(self) -> bool:
        """Whether two products take less than one with W."""
        return self.rank * (self.out_features + self.in_features) <= math.prod(self.shape)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (x R^T) L^T + b, each factor by its own path; x W^T + b if the rank is large."""
        return self._product(x, bias) if self._is_narrow else super().forward(x, bias)

    def _product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        inner = F.linear(x, self.frame.mT.to(x.dtype)) if self.fixed == "right" else self.right(x)
        if self.fixed == "left":
            return F.linear(inner, self.frame.to(inner.dtype), bias)
        y: Tensor = self.left(inner, bias)
        return y

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x W0^T + b + s (x R^T) L^T; x (W0 + s W)^T + b if the rank is large."""
        if not self._is_narrow:
            return super().forward_update(x, base, bias, scale)
        dtype = self.trained_dtype
        if all(part.builds_weight for part in self.named_parts().values()):
            left, right = (factor.to(dtype) for factor in self._factors())
            return add_product(x, base, bias, left, right, scale)
        y = F.linear(x, base, bias)
        mixed = autocast_dtype(x.device) is not None
        return y + (scale * self._product(x if mixed else x.to(dtype))).to(y.dtype)

    @property
    def builds_weight(self) -> bool:
        """Whether W or a factor is built: a layer may then keep W."""
        parts = self.named_parts().values()
        return not self._is_narrow or any(
            part.builds_weight and not isinstance(part, Dense) for part in parts
        )

    def needs_no_weight(self, x: Tensor) -> bool:
        """Say whether two products and what builds the factors take less than one with a kept W."""
        if "_building" not in self.__dict__:
            self.__dict__["_building"] = sum(p.building()[0] for p in self.named_parts().values())
        rows, (m, n) = x.shape[:-1].numel(), self.shape
        return rows * self.rank * (m + n) + self.__dict__["_building"] < rows * m * n

    def building(self) -> tuple[int, int]:
        """Count r mn for L R, as many for each trained factor's gradient, and what these take."""
        there, back = zip(*(p.building() for p in self.named_parts().values()), strict=True)
        product = self.rank * math.prod(self.shape)
        return sum(there) + product, sum(back) + len(there) * product

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State the sum of both factors' costs; T times its size, either way, of a fixed one.

        That is T r (m + n) forward and twice that backward, and what builds the factors; an update
        adds T mn for W0, either way. Read is mn where W is kept, else what the factors read.
        """
        m, n = self.shape
        if not self._is_narrow:
            return cost_with_weight(self, rows)
        parts = self.named_parts()
        costs = [part.cost(rows) for part in parts.values()]
        forward, backward, read = (sum(each) for each in zip(*costs, strict=True))
        for size in ({"left": m, "right": n}[key] for key in {"left", "right"} - {*parts}):
            size *= self.rank
            forward, backward, read = forward + rows * size, backward + rows * size, read + size
        base = m * n if update else 0
        read = m * n if self.builds_weight else read + base
        return Cost(forward + rows * base, backward + rows * base, read)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw factors of variance std / sqrt(g r) each, so that E[W_ij^2] = std^2.

        g is 1, unless both prefer the same of the r components, as two low passes do (`_gain`).
        Beside a fixed factor the other has variance std^2 m / r, or n / r. For std = 0, R is as
        LoRA's A, of variance 1 / n, and L starts at 0; or whichever is trained does.
        """
        n = self.in_features
        if self.fixed is not None:
            (part,) = self.named_parts().values()
            self._step = math.sqrt(self.rank / self.shape[self.fixed == "right"])
            part.reset_parameters(std / self._step)
            return
        gain = self._gain(DRAWS if std > 0 else 1)  # an update needs none, but one above 0
        if gain < 1e-9:
            raise ValueError(
                f"rank {self.rank} leaves left and right no component in common, so that W is 0: "
                "give a smaller one, as 1, or more coefficients"
            )
        self._gained = gain = gain if std > 0 else 1.0
        right = math.sqrt(std) * (gain * self.rank) ** -0.25 if std > 0 else n**-0.5
        left = right if std > 0 else 0.0
        self.left.reset_parameters(left)
        self.right.reset_parameters(right)
        self._step = math.sqrt(gain * self.rank * (left**2 + right**2))

    def _gain(self, draws: int) -> float:
        """Estimate g = r tr(M N) / (tr M tr N), M and N the means of L^T L and of R R^T.

        The draws are those of the seed, whatever was drawn before, so that rates are the same in a
        run that is gone on with.
        """
        if next(self.parameters()).is_meta:
            return 1.0
        m, n = torch.zeros(2, self.rank, self.rank, dtype=torch.float64)
        work = copy.deepcopy(self).cpu()
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(self.seed)
            for _ in range(draws):
                work.left.reset_parameters(1.0)
                work.right.reset_parameters(1.0)
                left, right = (factor.to(m) for factor in work._factors())
                m, n = m + left.mT @ left, n + right @ right.mT
        return (self.rank * (m * n).sum() / (m.trace() * n.trace())).item()

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Start from the singular value decomposition, and descend until the gradient vanishes.

        Both factors of it, split evenly, are projected on L and R, and all coefficients then move
        together (`descend`); sparse factors of a high rank may have no best coefficients. Beside a
        fixed L with orthonormal columns |L R - T|^2 is |R - L^T T|^2 and a constant, so that R's
        own projection of L^T T is as good as that is. W itself is left as it is. For a target of 0
        they are as at the start of an update. Rates then follow from the factors found, which may
        be larger than those that were drawn.
        """
        if not target.any():
            self.reset_parameters(0.0)
            return
        if is_reproduced(self, target):
            return
        work = copy.deepcopy(self).double()
        t = target.to(next(work.parameters()))
        if self.fixed == "left":
            self.right.project_(work.frame.mT @ t)
        elif self.fixed == "right":
            self.left.project_(t @ work.frame)
        else:
            u, s, vh = torch.linalg.svd(t, full_matrices=False)
            root = s[: self.rank].sqrt()
            work.left.project_(u[:, : self.rank] * root)
            work.right.project_(root[:, None] * vh[: self.rank])
            descend(work, t)
            for mine, fitted in zip(self.parameters(), work.parameters(), strict=True):
                mine.copy_(fitted)
            left, right = (factor.square().sum().item() for factor in work._factors())
            self._step = math.sqrt(
                self._gained * (left / self.out_features + right / self.in_features)
            )

    @property
    def lr_mult(self) -> dict[str, float]:
        """Each factor's own, over sqrt(g r (a^2 + b^2)), a and b their root-mean-squares at first.

        A factor's own moves it as far as a dense step. dW = dL R + L dR with entries of +-lr in dL
        and dR has variance lr^2 r (a^2 + b^2) per weight, as LoRA's, and g times that where both
        prefer the same components. Beside a fixed L with orthonormal columns |dW| = |dR|, which is
        lr sqrt(r n) and shall be lr sqrt(mn): times sqrt(m / r).
        """
        return {
            f"{key}.{name}": mult / self._step
            for key, part in self.named_parts().items()
            for name, mult in part.lr_mults().items()
        }

    def extra_repr(self) -> str:
        fixed = "" if self.fixed is None else f", fixed={self.fixed!r}"
        return f"{super().extra_repr()}, rank={self.rank}{fixed}"
