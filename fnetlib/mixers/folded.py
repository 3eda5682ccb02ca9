"""Fourier mixing folded into the output projection: the hidden axis' transform comes at no cost of its own.

    Re(F_n X F_d) G Wᵀ = (C_n X) A − (S_n X) B,    A = C_d G Wᵀ,  B = S_d G Wᵀ

with gain G and projection W (FNet's transform: Lee-Thorp 2021, equation 3). X is real, so rows k and n−k of C_n X are
equal and of S_n X opposite: half of the rows give all, and two products on half of the rows cost what the projection
alone costs on all of them. A and B are made anew in each pass, 2 d³ operations, little beside many tokens.

The sequence axis is transformed by real matrices, or by one FFT where no token is padding and sequences are long. With
a mask every example has its own length, see `fourier.py`; long masked sequences are not folded but take Bluestein's way.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .fourier import MATMUL_MAX_LENGTH, matrix_dtype


class FoldedPlan(NamedTuple):
    """The sequence axis' transform for one batch, m = n // 2 + 1 rows of it.

    cos, sin: `[batch or 1, m, seq]`, scaled; None: by FFT. index, sign: `[batch, seq, 1]`, the row that holds a token's
    sums and whether its sines count as they are (−1) or mirrored (+1); None without a mask. real: `[batch, seq, 1]`.
    scale: of the FFT.
    """

    cos: torch.Tensor | None = None
    sin: torch.Tensor | None = None
    index: torch.Tensor | None = None
    sign: torch.Tensor | None = None
    real: torch.Tensor | None = None
    scale: float = 1.0


def plan_folded(length: int, width: int, real: torch.Tensor | None, norm: str, device=None,
                dtype: torch.dtype = torch.float32) -> FoldedPlan:
    """Prepare one batch, shared by all layers. real: `[batch, seq]` bool, or None; norm: `backward` or `ortho`; dtype: of the
    matrices."""
    k = torch.arange(length // 2 + 1, device=device)
    if real is None:
        scale = (length * width) ** -0.5 if norm == "ortho" else 1.0
        if length > MATMUL_MAX_LENGTH:
            return FoldedPlan(scale=scale)
        angle = (torch.outer(k, torch.arange(length, device=device)) % length).float() * (2 * math.pi / length)
        return FoldedPlan(*((matrix[None] * scale).to(dtype) for matrix in (angle.cos(), angle.sin())))
    lengths = real.sum(1).clamp(min=1)[:, None]  # [batch, 1]
    place = real.cumsum(1) - 1  # the k-th real token has index k wherever the padding is
    angle = (k[:, None] * place[:, None, :] % lengths[..., None]).float() * (2 * math.pi / lengths[..., None])
    used = real[:, None].float()
    if norm == "ortho":
        used = used * (lengths * width).float().rsqrt()[..., None]
    mirrored = place > lengths - place
    return FoldedPlan((angle.cos() * used).to(dtype), (angle.sin() * used).to(dtype),
                      torch.where(mirrored, lengths - place, place).clamp(min=0)[..., None],
                      torch.where(mirrored, 1.0, -1.0)[..., None], real[..., None])


def folded_weights(weight: torch.Tensor, hidden_matrices: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B, `[hidden, out]` each. weight: `[out, hidden]`, times the gain; hidden_matrices: half of C_d and S_d."""
    dtype, width = matrix_dtype(weight), weight.shape[1]
    cos, sin = (matrix.to(dtype) for matrix in hidden_matrices)
    half, rest = weight[:, : width // 2 + 1], weight[:, width // 2 + 1:].flip(1)
    half = F.pad(half, (0, cos.shape[1] - half.shape[1]))
    rest = F.pad(rest, (1, cos.shape[1] - 1 - rest.shape[1]))  # column l beside column d − l
    return cos @ (half + rest).to(dtype).T, sin @ (half - rest).to(dtype).T


def folded_mix(x: torch.Tensor, plan: FoldedPlan, hidden_matrices: tuple[torch.Tensor, torch.Tensor],
               weight: torch.Tensor) -> torch.Tensor:
    """Re(FFT2) of `[batch, seq, hidden]` times `weight` transposed: `[batch, seq, out]`; padded positions are 0."""
    length, dtype = x.shape[1], matrix_dtype(x)
    a, b = folded_weights(weight, hidden_matrices)
    if plan.cos is None:
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.fft.rfft(x.float(), dim=1)
            cosines, sines = spectrum.real * plan.scale, spectrum.imag * -plan.scale
    else:
        x = x.to(dtype)
        cosines, sines = plan.cos.to(dtype) @ x, plan.sin.to(dtype) @ x
    p, q = cosines.to(dtype) @ a.to(dtype), sines.to(dtype) @ b.to(dtype)
    if plan.index is None:
        return torch.cat([p - q, (p + q)[:, 1: (length + 1) // 2].flip(1)], 1)
    index = plan.index.expand(-1, -1, p.shape[-1])
    return (p.gather(1, index) + q.gather(1, index) * plan.sign.to(q.dtype)) * plan.real
