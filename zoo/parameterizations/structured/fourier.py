"""K real coefficients of the two-dimensional Fourier transform, W = s Re IFFT2(S).

It is FourierFT (arXiv 2405.03003); K parameters. Its full-rank twin is `Hartley`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.bases.fourier import fft_multiply_adds
from zoo.bases.seeds import generator, without_autocast
from zoo.bases.vmapped import Function
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import layer_budget


def _partners(m: int, n: int) -> Tensor:
    """Return the place (-u mod m, -v mod n) of each (u, v), which has the same cosines; (mn,)."""
    return ((-torch.arange(m) % m)[:, None] * n + -torch.arange(n) % n).flatten()


class _Cosines(Function):
    """S -> Re FFT2(S), sum_uv S_uv cos(2 pi (u i / m + v j / n)): its own adjoint.

    One real transform either way; half of it is the mirror image of the other.
    """

    @staticmethod
    def forward(plane: Tensor) -> Tensor:
        half = torch.fft.rfft2(plane).real
        mirrored = half[:, 1 : (plane.shape[1] + 1) // 2].flip(0, 1).roll(1, 0)
        return torch.cat([half, mirrored], 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Cosines.apply(grad)  # type: ignore[no-any-return]


class Fourier(WeightParameterization):
    """K real coefficients of the 2-D Fourier transform.

    W_ij = s / (mn) sum_k c_k cos(2 pi (u_k i / m + v_k j / n)), the real part of numpy's ifft2 of c
    at random places (u_k, v_k); K parameters. W takes 1.25 mn log2(mn) multiply-adds, and as many
    backward.

    There are cosines and no sines, so W_ij is W at (-i mod m, -j mod n), and the places (u, v) and
    (-u, -v) have the same cosines: of mn places there are (mn + f) / 2 matrices, f in {1, 2, 4} the
    places that are their own partner. Where both of a pair are drawn, as FourierFT does it, their
    coefficients are one number twice: of K, on average a share of K / (2 mn) is redundant.
    `Hartley` has all mn.

        >>> zoo.Fourier(8, 8, ratio=0.25).num_trainable
        16

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        ratio: K = ratio mn, rounded, ratio in (0, 1]; or
        coefficients: K, in [1, mn]; or
        lora_rank: as many as LoRA of this rank, K = r (m + n). Exactly one of the three.
        scaling: s. By default sqrt(2 mn), with which the cosines have norm 1 (sqrt(2) where a place
            is its own partner), as the coefficients of other bases do; FourierFT and peft take 100
            to 300, 0.14 of it for 150 and 768 x 768, and another rate of learning. Above 0.
        twins: whether both places of a pair may be drawn. Without them K is at most (mn + f) / 2,
            and none is redundant.
        shared: whether all layers of a size have the same places, those that peft draws for this
            seed, its `random_loc_seed`. Without twins they are ours.
        seed: of the places; together with the layer's name, unless they are shared.

    Raises:
        ValueError: for a budget out of range, given twice or not at all, or a scaling of 0 or less.
    """

    places: Tensor  # (K,), u n + v

    def __init__(
        self,
        out_features: int,
        in_features: int,
        ratio: float | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        scaling: float | None = None,
        twins: bool = True,
        shared: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        m, n = self.shape
        count = layer_budget(m, n, ratio, coefficients, lora_rank)
        most = m * n if twins else (m * n + (2 - m % 2) * (2 - n % 2)) // 2
        if count > most:
            raise ValueError(
                f"without twins there are {most} coefficients for shape {(m, n)}, "
                f"a ratio of {most / (m * n):.3g}, got {count}"
            )
        if scaling is not None and not 0 < scaling < math.inf:
            raise ValueError(f"scaling must be above 0 and finite, got {scaling}")
        self.twins = twins
        self.shared = shared
        self.scaling = math.sqrt(2 * m * n) if scaling is None else scaling
        self.fourierft_spectrum = nn.Parameter(torch.empty(count))
        self.reset_buffers()
        self.reset_parameters(in_features**-0.5)

    def reset_buffers(self) -> None:
        places = self._drawn().to(self.fourierft_spectrum.device)
        self.register_buffer("places", places, persistent=False)

    def _drawn(self) -> Tensor:
        """Draw the places."""
        m, n = self.shape
        if self.shared:
            random = torch.Generator().manual_seed(self.seed)
        else:
            random = generator(self.seed, "places", self.layer)
        places = torch.randperm(m * n, generator=random)
        if not self.twins:  # the first of each pair, row by row, before all second ones
            places = places[(_partners(m, n)[places] < places).long().argsort(stable=True)]
        return places[: len(self.fourierft_spectrum)]

    def weight(self) -> Tensor:
        c, (m, n) = self.fourierft_spectrum, self.shape
        dtype = torch.promote_types(c.dtype, torch.float32)
        with without_autocast(c.device):
            scaled = c.to(dtype) * (self.scaling / (m * n))
            plane = scaled.new_zeros(m * n).scatter(0, self.places, scaled)
            return _Cosines.apply(plane.view(m, n)).to(c.dtype)  # type: ignore[no-any-return]

    def building(self) -> tuple[int, int]:
        """Count one real Fourier transform of mn numbers, and one for the gradient."""
        transform = fft_multiply_adds(self.out_features * self.in_features)
        return transform, transform

    def _energies(self) -> Tensor:
        """Return |E_k|^2 of the cosines, s^2 / (2 mn), twice that of those without a partner."""
        (m, n), places = self.shape, self.places
        if places.is_meta:  # rates are asked for there too
            with torch.device("cpu"):
                places = self._drawn()
        with torch.device(places.device):
            alone = (_partners(m, n)[places] == places).double()
        return (1 + alone) * self.scaling**2 / (2 * m * n)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw c_k ~ N(0, std^2 mn / sum |E|^2), so that E|W|^2 = std^2 mn for these places.

        FourierFT draws c_k ~ N(0, 1) also for an update, which then does not start at 0; peft has
        0 with `init_weights`, as here for std = 0.
        """
        m, n = self.shape
        energy = 1.0 if self.places.is_meta else self._energies().sum().item()
        self.fourierft_spectrum.normal_(0, 1).mul_(std * math.sqrt(m * n / energy))

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Set c_k = <E_k, target> / |E_k|^2, halved where its twin is there: least squares.

        Different cosines are orthogonal. Of all that fit as well, these coefficients are the least.
        """
        m, n = self.shape
        t = target.to(self.places.device, torch.float64)
        along = _Cosines.apply(t).flatten()[self.places] * (self.scaling / (m * n))
        drawn = torch.zeros(m * n, dtype=torch.bool, device=t.device)
        drawn[self.places] = True
        partners = _partners(m, n).to(t.device)[self.places]
        twins = (drawn[partners] & (partners != self.places)).double()
        self.fourierft_spectrum.copy_(along / self._energies() / (1 + twins))

    @property
    def lr_mult(self) -> float:
        """mn / sum |E_k|, as orthonormal matrices have mn / K.

        By it, K moves of +-lr go as far along a gradient that cosines mix well as a dense step's
        mn: <G, dW> = lr sum_k |<E_k, G>| ~ lr sum_k |E_k| sum_ij |G_ij| / (mn).
        """
        return self.out_features * self.in_features / self._energies().sqrt().sum().item()

    def extra_repr(self) -> str:
        twins = "" if self.twins else ", twins=False"
        return f"{super().extra_repr()}, scaling={self.scaling:g}{twins}"
