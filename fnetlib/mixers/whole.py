"""Fourier mixing by the whole hidden spectrum: two products and nothing else, for a GPU that waits for launches.

    Re(F_n X F_d) = [C_n, −S_n] [X C_d; X S_d]        (FNet: Lee-Thorp 2021, equation 3)

Half of the spectrum, see `fourier.py`, takes half of the work and more kernels. The whole of it is sooner done where tokens are few, each
kernel costing its launch, and in half precision up to some thousand tokens. Where they are few

- cosines and sines are looked up, not computed: a batch has lengths that others have had;
- the projection (and gain) W is within the hidden axis' product, of all layers at once: C_d W beside S_d W. That is 2 d³
  multiplications a layer for the d² n batch ones that it saves.
"""

from __future__ import annotations

import functools
import math

import torch

from .fourier import FourierPlan, hidden_dft, is_traced, plan_fourier

# In half precision on an H200 the whole of the hidden spectrum in two large products is sooner done than half of it in more of
# them, up to this length.
WHOLE_MAX_LENGTH = 2048
# So many multiplications that half of the spectrum would save, or fewer: a GPU is done sooner with the whole of it.
WHOLE_MAX_EXTRA = 1e9
# So many multiplications to make a layer's joined projection, or fewer. Width 384 takes 1.1e8; of wider models nothing was measured.
JOINED_MAX_EXTRA = 2e8
# Cosines of all lengths up to here are kept, 8 MB in float32: they grow with the square of the longest.
KEPT_MAX_LENGTH = 1024


def whole_hidden_dft(hidden_matrices: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """C_d beside S_d, `[width, 2 width]`, from half of each: column d − l is column l, of S_d its negative."""
    width = hidden_matrices[0].shape[0]
    half = [matrix[:, : width // 2 + 1] for matrix in hidden_matrices]
    rest = [matrix[:, 1: (width + 1) // 2].flip(1) for matrix in hidden_matrices]
    return torch.cat([half[0], rest[0], half[1], -rest[1]], 1)


def with_whole_spectrum(plan: FourierPlan, hidden_matrices: tuple[torch.Tensor, torch.Tensor]) -> FourierPlan:
    """A plan of real matrices for the whole hidden spectrum at once: [C_n, −S_n] times [X C_d; X S_d]."""
    rows = torch.stack([plan.cos, -plan.sin], -1).flatten(2)
    return FourierPlan(plan.scale, rows=rows, columns=whole_hidden_dft(hidden_matrices).to(rows.dtype))


def few_tokens(batch: int, length: int, width: int) -> bool:
    """Whether a GPU's work is so little that the number of kernels decides."""
    return batch * length * width * (length + width) <= WHOLE_MAX_EXTRA


def takes_whole_spectrum(x: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether real matrices transform `[batch, seq, hidden]` by the whole hidden spectrum; dtype: the matrices'. (FLOPs are
    counted for half of it all the same.)"""
    return x.is_cuda and (few_tokens(*x.shape) or dtype != torch.float32 and x.shape[1] <= WHOLE_MAX_LENGTH)


def plan_whole(shape: tuple[int, int, int], real: torch.Tensor | None, norm: str, hidden_matrices: tuple[torch.Tensor, torch.Tensor],
               device: torch.device, dtype: torch.dtype, projects: bool) -> FourierPlan:
    """Prepare the transform of a batch `[batch, seq, hidden]` of this shape, shared by all layers.

    real: `[batch, seq]` bool, or None; norm: `backward` or `ortho`; device: of the batch (where a model is split, the matrices may be on
    another); dtype: of the matrices; projects: whether there is a projection.
    """
    (_, length, width), few = shape, few_tokens(*shape)
    joined = few and projects and 2 * width**3 <= JOINED_MAX_EXTRA
    if not few or length > KEPT_MAX_LENGTH or is_traced():
        plan = plan_fourier(length, width, real, norm, "matmul", device, dtype)
        return with_whole_spectrum(plan, hidden_matrices)._replace(joined=joined)
    waves = waves_of_all_lengths(1 << (length - 1).bit_length(), width, norm, device, dtype)
    if real is None:
        place = torch.arange(length, device=device)[None]
        rows = waves[length][place[..., None] * place % length]
    else:  # the k-th real token has place k wherever the padding is
        counted = real.cumsum(1)
        lengths, place = counted[:, -1:, None].clamp(min=1), counted - 1
        rows = waves[lengths, place[..., None] * place[:, None] % lengths] * (real[..., None] & real[:, None])[..., None]
    return FourierPlan(1.0, rows=rows.flatten(2), columns=columns_of(width, device, dtype), joined=joined)


@functools.lru_cache(maxsize=16)
def waves_of_all_lengths(longest: int, width: int, norm: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """cos and −sin of 2π m / n, scaled, at [n, m], for n up to `longest`: `[longest + 1, longest, 2]`. Normal tensors whoever asks
    first, see `folded.matrices_of`."""
    with torch.inference_mode(False), torch.no_grad():
        n = torch.arange(longest + 1, device=device)[:, None].clamp(min=1)
        angle = (torch.arange(longest, device=device) % n).float() * (2 * math.pi / n)
        scale = (n * width).float().rsqrt() if norm == "ortho" else 1.0
        return torch.stack([angle.cos() * scale, -angle.sin() * scale], -1).to(dtype)


@functools.lru_cache(maxsize=16)
def columns_of(width: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """`whole_hidden_dft`, kept."""
    with torch.inference_mode(False), torch.no_grad():
        return whole_hidden_dft(hidden_dft(width, device)).to(dtype)


def join_projections(weights: torch.Tensor, plan: FourierPlan) -> torch.Tensor:
    """C_d W beside S_d W for each projection W, in the dtype of the plan: `[layers, hidden, 2 out]`.

    weights: `[layers, out, hidden]`, times the gain.
    """
    width, (layers, out, _) = plan.columns.shape[0], weights.shape
    with torch.autocast(weights.device.type, enabled=False):
        joined = weights.to(plan.columns.dtype) @ plan.columns.view(2 * width, width).T  # gradients come in the weights' own layout
        return joined.mT.reshape(layers, width, 2 * out)


def joined_mix(x: torch.Tensor, plan: FourierPlan, projection: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Re(FFT2) of `[batch, seq, hidden]`, projected: `[batch, seq, out]`. projection: of `join_projections`, this layer's; bias: `[out]`."""
    x = x.to(projection.dtype) @ projection  # a token's two rows follow each other
    return torch.baddbmm(bias.to(x.dtype), plan.rows.expand(x.shape[0], -1, -1), x.view(x.shape[0], -1, bias.shape[0]))
