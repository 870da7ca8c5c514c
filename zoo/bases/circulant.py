"""Matrices of circulant blocks, and products with them by the FFT. Pure functions of torch.

A block has b numbers, its first row; each later row is the one above it, rolled by one to the
right. b x b blocks make a grid of I down and J across, (I b, J b), from (I, J, b) numbers.
"""

import torch
from torch import Tensor


def circulants(rows: Tensor) -> Tensor:
    """Return the matrix of blocks with these first rows; (I, J, b) to (I b, J b)."""
    down, across, b = rows.shape
    # Row r begins b - 1 - r places from the left of the numbers 1, ..., b - 1, 0, 1, ..., b - 1.
    windows = torch.cat([rows[..., 1:], rows], -1).unfold(-1, b, 1)
    return windows.transpose(1, 2).flip(1).reshape(down * b, across * b)


def wrapped_sums(matrix: Tensor, b: int) -> Tensor:
    """Return the sum of each wrapped diagonal of each block, the adjoint of `circulants`.

    (I b, J b) to (I, J, b).
    """
    down, across = len(matrix) // b, matrix.shape[1] // b
    blocks = matrix.reshape(down, b, across, b)
    twice = torch.cat([blocks, blocks], -1)
    skewed = (across * 2 * b + 1, 2 * b, 1)  # from row to row one place further
    return twice.as_strided((down, b, across, b), (b * across * 2 * b, *skewed)).sum(1)


def _spectrum(x: Tensor) -> Tensor:
    """Return the non-negative frequencies of the last axis; (..., b) to (..., b // 2 + 1, 2)."""
    return torch.view_as_real(torch.fft.rfft(x))


def circulant_product(x: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x circulants(rows)^T, without the matrix; (T, J b) and (I, J, b) to (T, I b).

    At each frequency f of b // 2 + 1 the spectrum of y is that of x times the conjugate ones of
    blocks, conj(C) X: one product of (T, 2 J) by (2 J, 2 I) real numbers. Transforms are in the
    dtype of `rows`, these products in `dtype`, and y is in the former.
    """
    down, across, b = rows.shape
    x_hat = _spectrum(x.reshape(-1, across, b).to(rows.dtype)).permute(2, 0, 1, 3)
    real, imaginary = _spectrum(rows).permute(3, 2, 1, 0)  # (b // 2 + 1, J, I) each
    to_real = torch.stack([real, imaginary], 2).flatten(1, 2)
    to_imaginary = torch.stack([-imaginary, real], 2).flatten(1, 2)
    mixed = torch.stack([to_real, to_imaginary], -1).flatten(2)
    y_hat = torch.bmm(x_hat.flatten(2).to(dtype), mixed.to(dtype)).to(rows.dtype)
    y_hat = y_hat.unflatten(2, (down, 2)).permute(1, 2, 0, 3).contiguous()
    return torch.fft.irfft(torch.view_as_complex(y_hat), n=b).flatten(1)
