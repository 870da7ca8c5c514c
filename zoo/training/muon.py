"""Muon inside a subspace: momentum on K coefficients, orthogonalized as W and projected back.

    b <- b + (1 - mu) (g - b)                     g, b in R^K: the state is K numbers a matrix
    U  = synthesize(scatter(g + mu (b - g)))      Nesterov's look-ahead as an (m, n) matrix
    O  = NS(U),  NS(U S V^T) ~ U V^T              Newton-Schulz
    d  = scatter^T(analyze(O))                    the projection back on the subspace
    c <- (1 - lr decay) c - 0.2 lr sqrt(max(m, n)) d / |W(d)|_2

Muon is Keller Jordan's (kellerjordan.github.io/posts/muon), the factor 0.2 sqrt(max(m, n)), with
which AdamW's rates serve, that of "Muon is Scalable for LLM Training" (arXiv 2502.16982). With as
many coefficients as weights d = O, of spectral norm about 1 already, and is taken as it is: this is
`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`. Newton-Schulz commutes with rotations,
NS(L^T S R) = L^T NS(S) R, so that with one orthogonal matrix per side d is
scatter^T(NS(scatter(.))) and no basis is touched.

What is projected is orthogonal no more: of a masked gradient of low rank d has few large singular
values. Scaled to |O|_F, as zoo did before, it moves W by a spectral norm that grows as sqrt(n)
beside a dense step's, and no rate transfers over width; `scale: frobenius` is that still.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.parameterizations import Dense, Isometry

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""(a, b, c) of Jordan's quintic a x + b x^3 + c x^5.

Its iterates take singular values to about 1, within 0.7 to 1.2.
"""
Subspace = Dense | Isometry
StepScale = Literal["spectral", "frobenius"]
"""Which norm of a projected step is made that of an orthogonal matrix of W's shape."""


@torch.no_grad()
def newton_schulz(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Move the singular values of each matrix to about 1; (b, m, n), computed in `dtype`."""
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


@torch.no_grad()
def spectral_norms(matrices: Tensor) -> Tensor:
    """Return the largest singular value of each matrix X, from below; (b, m, n) to (b,).

    (X X^T)^16, or of X^T X where that is smaller, is 16 steps of power iteration from every unit
    vector at once. The one that has grown most along itself is v, and sigma = |X^T v| / |v| in the
    dtype of X: bfloat16, which the powers are computed in, decides how near v is, and not how exact
    its length.
    """
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    x = (wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-30)).bfloat16()
    power = x @ x.mT
    # The largest eigenvalue is then within m^(-1/4) and m^(1/4), and its 16th power in bfloat16's
    # range: no square has to be scaled again.
    size = power.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-30)
    power = power * (power.shape[-1] ** 0.25 / size)
    for _ in range(4):
        power = power @ power
    most = power.diagonal(dim1=-2, dim2=-1).argmax(-1)
    v = power[torch.arange(len(power), device=power.device), most].to(matrices.dtype)
    v = v / v.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    return (v[:, None] @ wide).norm(dim=(-2, -1))


class SubspaceMuon(torch.optim.AdamW):
    """Muon for the coefficients of dense and orthonormal weights, AdamW for every other parameter.

    Args:
        groups: parameter groups; those with `"muon": True` hold coefficients only.
        subspaces: whose coefficients those are.
        lr: of groups without their own.
        betas: AdamW's.
        momentum: mu, in [0, 1).
        fused: AdamW's.
        scale: which norm of a step in a subspace is that of a dense one.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        subspaces: Mapping[nn.Parameter, Subspace],
        lr: float,
        betas: tuple[float, float],
        momentum: float = 0.95,
        fused: bool | None = None,
        scale: StepScale = "spectral",
    ) -> None:
        super().__init__(groups, lr=lr, betas=betas, fused=fused)
        self.subspaces, self.momentum, self.scale = subspaces, momentum, scale

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore state as every optimizer does: AdamW would look for step counts in Muon's."""
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step of Muon and of AdamW."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        taken = []
        for group in self.param_groups:
            if group.get("muon"):
                grads = [(p, p.grad) for p in group["params"] if p.grad is not None]
                taken += [(group, p, grad) for p, grad in grads]
                for p, _ in grads:
                    p.grad = None  # AdamW passes over what has no gradient
        super().step()
        for _, p, grad in taken:
            p.grad = grad
        for _, alike in groupby(
            sorted(taken, key=_shape(self.subspaces)), key=_shape(self.subspaces)
        ):
            self._muon(list(alike))
        return loss

    def _muon(self, alike: list[tuple[dict[str, Any], nn.Parameter, Tensor]]) -> None:
        """Make a step of matrices of one shape, orthogonalized together."""
        groups, params, grads = zip(*alike, strict=True)
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - self.momentum)
        ahead = torch._foreach_lerp(grads, momenta, self.momentum)
        spaces = [self.subspaces[p] for p in params]
        matrices = torch.stack([space.spread(u) for space, u in zip(spaces, ahead, strict=True)])
        orthogonal = newton_schulz(matrices).to(matrices.dtype)
        updates = [space.collect(matrix) for space, matrix in zip(spaces, orthogonal, strict=True)]
        size = 0.2 * max(matrices.shape[1:]) ** 0.5
        lengths = self._lengths(spaces, orthogonal, updates)
        for group, p, update, length in zip(groups, params, updates, lengths, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.sub_(update.to(p.dtype) * (group["lr"] * size * length))

    def _lengths(
        self, spaces: list[Subspace], orthogonal: Tensor, updates: list[Tensor]
    ) -> list[Tensor | float]:
        """Return what each step is multiplied by, to be of the size that `scale` says."""
        if self.scale == "frobenius":
            pairs = zip(orthogonal, updates, strict=True)
            return [matrix.norm() / update.norm().clamp(min=1e-12) for matrix, update in pairs]
        inside = [i for i, update in enumerate(updates) if update.numel() < orthogonal[i].numel()]
        lengths: list[Tensor | float] = [1.0] * len(spaces)
        if inside:
            steps = torch.stack([spaces[i].spread(updates[i]) for i in inside])
            norms = spectral_norms(steps).clamp(min=1e-12)
            for i, norm in zip(inside, norms, strict=True):
                lengths[i] = 1 / norm
        return lengths


def _shape(
    subspaces: Mapping[nn.Parameter, Subspace],
) -> Callable[[tuple[Any, nn.Parameter, Any]], tuple[int, int]]:
    return lambda item: subspaces[item[1]].shape
