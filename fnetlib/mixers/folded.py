"""Fourier mixing folded into the output projection: the hidden axis' transform comes at no cost of its own.

    Re(F_n X F_d) G Wᵀ = (C_n X) A − (S_n X) B,    A = C_d G Wᵀ,  B = S_d G Wᵀ

with gain G and projection W (FNet's transform: Lee-Thorp 2021, equation 3). X is real, so rows k and n−k of C_n X are
equal and of S_n X opposite: half of the rows give all, and two products on half of the rows cost what the projection
alone costs on all of them. A and B are made anew in each pass, 4 d³ operations in one product, little beside many tokens.

The sequence axis is transformed by real matrices, or by one FFT where no token is padding and sequences are long. The
first sine row is zero: of an even length its place is taken by the cosine row n/2, so that both matrices have n/2 rows, a
power of two where n is one (a GPU's tiles of 128 rows would be half empty on n/2 + 1). With a mask every example has its
own length, see `fourier.py`; long masked sequences are not folded but take Bluestein's way.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from .fourier import MATMUL_MAX_LENGTH, matrix_dtype, whole_hidden_dft

# In half precision on a GPU sequences of full length are transformed by matrices up to here, by FFTs beyond.
FOLDED_HALF_MAX_LENGTH = 8192


def longest_by_matrices(device: str, dtype: torch.dtype) -> int:
    """The longest sequence, without a mask, that is transformed by matrices where mixing is folded."""
    return FOLDED_HALF_MAX_LENGTH if device == "cuda" and dtype != torch.float32 else MATMUL_MAX_LENGTH


def folds(backend: str, length: int, masked: bool, device: str, dtype: torch.dtype, few: bool, projects: bool) -> bool:
    """Whether Fourier layers are folded into their projections. backend: of the configuration; few: see `few_tokens`;
    projects: whether there is a projection.

    `auto` folds in half precision on a GPU where no example has a length of its own and there are not few tokens.
    """
    if backend == "folded":
        return not masked or length <= MATMUL_MAX_LENGTH
    on_tensor_cores = device == "cuda" and dtype != torch.float32 and not few
    return backend == "auto" and projects and on_tensor_cores and not masked and length <= FOLDED_HALF_MAX_LENGTH


class FoldedPlan(NamedTuple):
    """The sequence axis' transform for one batch, m = (n + 1) // 2 rows of it; with a mask m = n // 2 + 1.

    columns: `[hidden, 2 hidden]`, C_d beside S_d. cos, sin: `[batch or 1, m, seq]`, scaled; None: by FFT. Without a mask and of
    an even length, row 0 of `sin` is the cosine row n/2. index, sign: `[batch, seq, 1]`, the row that holds a token's
    sums and whether its sines count as they are (−1) or mirrored (+1); None without a mask. real: `[batch, seq, 1]`.
    scale: of the FFT.
    """

    columns: torch.Tensor
    cos: torch.Tensor | None = None
    sin: torch.Tensor | None = None
    index: torch.Tensor | None = None
    sign: torch.Tensor | None = None
    real: torch.Tensor | None = None
    scale: float = 1.0


def plan_folded(length: int, hidden_matrices: tuple[torch.Tensor, torch.Tensor], real: torch.Tensor | None, norm: str,
                dtype: torch.dtype = torch.float32, longest: int = MATMUL_MAX_LENGTH) -> FoldedPlan:
    """Prepare one batch, shared by all layers.

    hidden_matrices: half of C_d and S_d. real: `[batch, seq]` bool, or None; norm: `backward` or `ortho`; dtype: of the
    matrices; longest: without a mask, sequences beyond it are transformed by FFT.
    """
    width, device = hidden_matrices[0].shape[0], hidden_matrices[0].device
    columns = whole_hidden_dft(hidden_matrices).to(dtype)
    if real is None:
        scale = (length * width) ** -0.5 if norm == "ortho" else 1.0
        if length > longest:
            return FoldedPlan(columns, scale=scale)
        rows = torch.outer(torch.arange(length // 2 + 1, device=device), torch.arange(length, device=device)) % length
        angle = rows.float() * (2 * math.pi / length)
        cos, sin, half = angle.cos(), angle.sin(), (length + 1) // 2
        sin = torch.cat([cos[half:] if length % 2 == 0 else sin[:1], sin[1:half]])
        return FoldedPlan(columns, *((matrix[None] * scale).to(dtype) for matrix in (cos[:half], sin)))
    k = torch.arange(length // 2 + 1, device=device)
    lengths = real.sum(1).clamp(min=1)[:, None]  # [batch, 1]
    place = real.cumsum(1) - 1  # the k-th real token has index k wherever the padding is
    angle = (k[:, None] * place[:, None, :] % lengths[..., None]).float() * (2 * math.pi / lengths[..., None])
    used = real[:, None].float()
    if norm == "ortho":
        used = used * (lengths * width).float().rsqrt()[..., None]
    mirrored = place > lengths - place
    return FoldedPlan(columns, (angle.cos() * used).to(dtype), (angle.sin() * used).to(dtype),
                      torch.where(mirrored, lengths - place, place).clamp(min=0)[..., None],
                      torch.where(mirrored, 1.0, -1.0)[..., None], real[..., None])


def folded_mix(x: torch.Tensor, plan: FoldedPlan, weight: torch.Tensor) -> torch.Tensor:
    """Re(FFT2) of `[batch, seq, hidden]` times `weight` transposed: `[batch, seq, out]`; padded positions are 0.

    weight: `[out, hidden]`, times the gain.
    """
    length, width, dtype = *x.shape[1:], matrix_dtype(x)
    a, b = (plan.columns.to(dtype).T @ weight.to(dtype).T).split(width)  # [hidden, out] each
    if plan.cos is None:
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.fft.rfft(x.float(), dim=1)
            cosines, sines = (spectrum.real * plan.scale).to(dtype), (spectrum.imag * -plan.scale).to(dtype)
        p, q = cosines @ a, sines @ b
        return torch.cat([p - q, (p + q)[:, 1: (length + 1) // 2].flip(1)], 1)
    x = x.to(dtype)
    cosines, sines = plan.cos.to(dtype) @ x, plan.sin.to(dtype) @ x
    p, q = cosines @ a, sines @ b
    if plan.index is not None:
        index = plan.index.expand(-1, -1, p.shape[-1])
        return (p.gather(1, index) + q.gather(1, index) * plan.sign.to(q.dtype)) * plan.real
    middle = [sines[:, :1] @ a] if length % 2 == 0 else []
    return torch.cat([p[:, :1], p[:, 1:] - q[:, 1:], *middle, (p[:, 1:] + q[:, 1:]).flip(1)], 1)
