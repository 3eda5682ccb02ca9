"""Fourier mixing: the real part of a 2D discrete Fourier transform over sequence and hidden axes.

    Y = Re(F_n X F_d) = C_n X C_d − S_n X S_d        (FNet, Lee-Thorp 2021, section 3.2, equation 3)

with F_n = C_n − i S_n the n x n DFT matrix. X is real, so half of the hidden spectrum gives the rest:
Y[k, d−l] = Y[−k mod n, l]. With `padding="mask"` an example of true length L gets its own length-L transform, so
that its output does not depend on how far it is padded; padded positions come out as zero.

Two backends, same numbers: `fft` (torch.fft in float32; with a mask, Bluestein's chirp gives every example its own
length in one batched transform, O(n log n)), and `matmul` (real DFT matrices in the tensor's own dtype: no complex
numbers, so it runs in half precision and exports). When a GPU takes the whole spectrum instead of half of it, see `whole.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .base import Sequence

# What `auto` goes by, measured at width 768 by 04_efficiency, the mixing alone (at width 384 in half precision the same ways are the
# fastest, but for 8,192 tokens without a mask, where the whole spectrum by matrices takes 6% less than FFTs). In float32 with a
# mask, and folded: up to this length the sequence axis' n x n matrices cost less than Bluestein's padded FFTs on a CPU.
MATMUL_MAX_LENGTH = 512
# In half precision on an H200, 32,768 tokens a step: without a mask FFTs are faster from between 2,048 and 8,192 tokens on. With
# one, matrices still are at 16,384, but every example's own take memory that grows with the square of the length.
HALF_MAX_LENGTH = 4096


class FourierPlan(NamedTuple):
    """The sequence axis' transform for one batch. Real matrices, or Bluestein's chirp, or neither (plain FFT).

    cos, sin: `[batch or 1, seq, seq]`, scaled (backend `matmul`, half of the hidden spectrum).
    rows: `[batch or 1, seq, 2 seq]`, cosine and −sine columns in turn, and columns: `[hidden, 2 hidden]`, cosines beside
    sines (backend `matmul`, the whole of it); joined: layers take their projection joined with the columns, see `whole.py`.
    chirp: `[batch, seq]` complex, w_j = exp(−iπ j²/L); kernel: its circular convolution's transform `[batch, m]`.
    mirror: `[batch, seq]` index of −k mod L, for the mirrored half of the hidden spectrum.
    order, rank: `[batch, seq]` move real tokens to the front and back again.
    scale: `[batch or 1, 1, 1]` or a float; real: `[batch, seq, 1]` or None.
    """

    scale: torch.Tensor | float
    cos: torch.Tensor | None = None
    sin: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None
    joined: bool = False
    chirp: torch.Tensor | None = None
    kernel: torch.Tensor | None = None
    mirror: torch.Tensor | None = None
    order: torch.Tensor | None = None
    rank: torch.Tensor | None = None
    real: torch.Tensor | None = None


def hidden_dft(width: int, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """C_d and S_d for half of the hidden spectrum, float32, unscaled: `[width, width // 2 + 1]` each, and columns of zeros up
    to a multiple of 8. In half precision a GPU's fast kernels take no rows that start off 16 bytes (385 columns, say)."""
    j, half = torch.arange(width, device=device), width // 2 + 1
    angle = (torch.outer(j, j[:half]) % width).double() * (2 * math.pi / width)
    return tuple(F.pad(matrix.float(), (0, -half % 8)) for matrix in (angle.cos(), angle.sin()))


def is_traced() -> bool:
    """Whether tensors stand for others, of a graph that is being made: they are not to be kept for the next batch."""
    made = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(torch.empty(0)) is not torch.Tensor
    return made or torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def matrix_dtype(x: torch.Tensor) -> torch.dtype:
    """What a product with x is made in: a matrix that many products share is best made in it once."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def choose_backend(backend: str, length: int, masked: bool = True, device: str = "cuda", dtype: torch.dtype = torch.float32,
                   few: bool = False) -> str:
    """How a sequence axis is transformed, `fft` or `matmul`. `folded`: by matrices up to MATMUL_MAX_LENGTH, by FFTs beyond.

    `auto`, by what 04_efficiency measured: in float32 by FFTs where no example has a length of its own (on a GPU unless
    there are few tokens, see `whole.few_tokens`), else like `folded`; in half precision on a GPU by matrices up to
    HALF_MAX_LENGTH, the tensor cores' work.
    """
    if backend in ("fft", "matmul"):
        return backend
    if backend == "auto":
        if dtype == torch.float32 and not masked and not (device == "cuda" and few):
            return "fft"
        if dtype != torch.float32 and device == "cuda":
            return "matmul" if length <= HALF_MAX_LENGTH else "fft"
    return "matmul" if length <= MATMUL_MAX_LENGTH else "fft"


def plan_fourier(
    length: int, width: int, real: torch.Tensor | None, norm: str, backend: str, device=None,
    dtype: torch.dtype = torch.float32,
) -> FourierPlan:
    """Prepare the sequence axis' transform of one batch, shared by all layers.

    real: `[batch, seq]` bool, or None to transform the whole padded length. norm: `backward` or `ortho`. dtype: of the
    real matrices.
    """
    backend = choose_backend(backend, length, real is not None, torch.device(device or "cpu").type, dtype)
    if real is None:
        scale = (length * width) ** -0.5 if norm == "ortho" else 1.0
        if backend == "fft":
            return FourierPlan(scale)
        j = torch.arange(length, device=device)
        period = j[-1] + 1  # the length as a tensor: an exported model takes any
        angle = (torch.outer(j, j) % period).float() * (2 * math.pi / period)
        factor = (period * width).float().rsqrt() if norm == "ortho" else 1.0
        return FourierPlan(scale, cos=(angle.cos() * factor)[None].to(dtype), sin=(angle.sin() * factor)[None].to(dtype))

    lengths = real.sum(1).clamp(min=1)[:, None]  # [batch, 1]
    scale = (lengths * width).float().rsqrt()[..., None] if norm == "ortho" else 1.0
    if backend == "matmul":
        # The k-th real token has index k wherever the padding is. Integers keep the angle exact.
        index = real.cumsum(1) - 1
        product = (index[:, :, None] * index[:, None, :]) % lengths[..., None]
        angle = product.float() * (2 * math.pi / lengths[..., None])
        used = (real[:, :, None] & real[:, None, :]) * scale
        return FourierPlan(scale, cos=(angle.cos() * used).to(dtype), sin=(angle.sin() * used).to(dtype))

    j = torch.arange(length, device=device)[None]
    half_turns = (j * j) % (2 * lengths)  # exact; j² alone would lose the phase in float32
    chirp = torch.polar(torch.ones_like(half_turns, dtype=torch.float32), half_turns.float() * (-math.pi / lengths))
    size = 1 << (2 * length - 1).bit_length()
    kernel = torch.zeros(real.shape[0], size, dtype=chirp.dtype, device=device)
    kernel[:, :length] = chirp.conj()
    kernel[:, size - length + 1:] = chirp[:, 1:].conj().flip(1)
    order = torch.argsort((~real).to(torch.uint8), dim=1, stable=True)
    return FourierPlan(
        scale, chirp=chirp, kernel=torch.fft.fft(kernel), mirror=(-j) % lengths, order=order,
        rank=torch.argsort(order, dim=1), real=(j < lengths)[..., None],
    )


def fourier_mix(hidden_states: torch.Tensor, plan: FourierPlan,
                hidden_matrices: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Re(FFT2) of `[batch, seq, hidden]`, same shape and dtype."""
    if plan.rows is not None:
        x = hidden_states.to(plan.rows.dtype) @ plan.columns  # [batch, seq, 2 hidden]: a token's two rows follow each other
        return plan.rows @ x.view(x.shape[0], -1, hidden_states.shape[2])
    if plan.cos is not None:
        return _by_matrices(hidden_states, plan, *hidden_matrices)
    return _by_fft(hidden_states, plan)


def _by_matrices(x: torch.Tensor, plan: FourierPlan, hidden_cos: torch.Tensor, hidden_sin: torch.Tensor):
    width, dtype = x.shape[-1], matrix_dtype(x)
    x = x.to(dtype)
    p = plan.cos.to(dtype) @ (x @ hidden_cos.to(dtype))
    q = plan.sin.to(dtype) @ (x @ hidden_sin.to(dtype))
    return torch.cat([(p - q)[..., :width // 2 + 1], (p + q)[..., 1:(width + 1) // 2].flip(-1)], dim=-1)


def _by_fft(x: torch.Tensor, plan: FourierPlan) -> torch.Tensor:
    dtype, width = x.dtype, x.shape[-1]
    with torch.autocast(x.device.type, enabled=False):  # complex halves do not exist on every device
        x = x.float()
        if plan.chirp is None:
            half = torch.fft.rfft2(x, dim=(1, 2)).real
            mirrored = torch.cat([half[:, :1], half[:, 1:].flip(1)], dim=1)
        else:
            half = bluestein(x, plan, hidden_axis=True).real
            mirrored = half.gather(1, plan.mirror[..., None].expand_as(half))
        out = torch.cat([half, mirrored[..., 1:(width + 1) // 2].flip(-1)], dim=-1) * plan.scale
        if plan.chirp is not None:
            out = (out * plan.real).gather(1, plan.rank[..., None].expand_as(out))
    return out.to(dtype)


def bluestein(x: torch.Tensor, plan: FourierPlan, hidden_axis: bool = False) -> torch.Tensor:
    """Length-L transform of every example at once: a DFT as a convolution with a chirp (Bluestein 1970). Complex, real tokens
    in front. hidden_axis: half of the hidden spectrum's first."""
    length, size = x.shape[1], plan.kernel.shape[1]
    x = x.gather(1, plan.order[..., None].expand_as(x)) * plan.real
    chirped = (torch.fft.rfft(x, dim=-1) if hidden_axis else x) * plan.chirp[..., None]
    convolved = torch.fft.ifft(torch.fft.fft(chirped, n=size, dim=1) * plan.kernel[..., None], dim=1)
    return convolved[:, :length] * plan.chirp[..., None]


class FourierMixer(nn.Module):
    """The unparametrised mixing sub-layer of FNet. The two hidden-axis matrices come from the model's buffers."""

    def __init__(self, config, layer_idx: int | None = None):
        super().__init__()

    def forward(self, hidden_states: torch.Tensor, sequence: Sequence) -> torch.Tensor:
        """`[batch, seq, hidden]` -> `[batch, seq, hidden]`; padded positions are 0 where padding is masked."""
        plan, hidden_matrices = sequence.fourier
        if not isinstance(plan, FourierPlan):  # folded into a projection, see folded.py; here there is none
            from .folded import fold_projections, folded_mix

            identity = torch.eye(hidden_states.shape[-1], dtype=hidden_states.dtype, device=hidden_states.device)
            return folded_mix(hidden_states, plan, fold_projections(identity[None], plan, hidden_matrices, matrix_dtype(hidden_states))[0])
        return fourier_mix(hidden_states, plan, hidden_matrices)
