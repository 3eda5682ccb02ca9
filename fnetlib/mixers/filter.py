"""Filter mixing: attention whose weights depend on positions alone, applied through the spectrum.

    Y_i = sum_j w(i, j) V x_j        per head, with BERT's own value projection V

Between inner tokens w(i, j) is a filter f(j − i): a convolution, so a product in the Fourier domain, O(n log n) (a
learned filter in the spectrum: Rao 2021, GFNet, section 3.2; relative positions: Qin 2023, Toeplitz neural networks).
What the first and the last token ([CLS], [SEP]) give to all others, and what the first token takes from each position,
have weights of their own: BERT's heads treat these two apart. That attention maps can be replaced by constant ones at a
moderate loss is known (Hassid 2022, PAPA); `calibrate.fit_filters` measures these from a teacher in closed form.

Two backends, same numbers: `matmul` builds the n x n Toeplitz matrices, `fft` convolves by FFT.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from .base import Sequence
from .fourier import choose_backend

NEVER = -1e30  # a log weight: exp of it is 0, and it may be a sum's largest term without a NaN


class FilterPlan(NamedTuple):
    """Which tokens are what, for one batch; each `[batch, seq]`. Real tokens are contiguous, padding is at one end.

    inner: 1 for real tokens but the first and the last, else 0; ends: `[batch, 2, seq]` one-hot, first and last;
    place: a real token's index from the first real one; real: 1 for real tokens; backend: `matmul` or `fft`. not_inner,
    not_real, no_end `[batch, 2]`: 0, or NEVER where a log weight shall count for nothing.
    """

    inner: torch.Tensor
    ends: torch.Tensor
    place: torch.Tensor
    real: torch.Tensor
    backend: str
    not_inner: torch.Tensor
    not_real: torch.Tensor
    no_end: torch.Tensor


def plan_filter(real: torch.Tensor, backend: str, dtype: torch.dtype = torch.float32) -> FilterPlan:
    """Prepare one batch, shared by all layers. real: `[batch, seq]` bool; dtype: what products are made in.

    `auto` chooses as for Fourier layers with a mask: in half precision on a GPU matrices up to HALF_MAX_LENGTH.
    """
    count = real.cumsum(1)
    first, last = real & (count == 1), real & (count == count[:, -1:])
    ends = torch.stack([first, last & ~first], 1)
    inner = real & ~ends.any(1)
    not_inner, not_real, no_end = ((~kind).float() * NEVER for kind in (inner, real, ends.any(-1)))
    return FilterPlan(inner.float(), ends.float(), (count - 1).clamp(min=0), real.float(),
                      choose_backend(backend, real.shape[1], True, real.device.type, dtype), not_inner, not_real, no_end)


class FilterMixer(nn.Module):
    """One filter a head. `filter`: `[heads, 2 · longest − 1]`, offset j − i from −(longest − 1); `first`: `[heads,
    longest]`, what the first token takes from each place; `ends`: `[heads, 2]`, what the others take from first and last.
    """

    def __init__(self, config, layer_idx: int | None = None):
        super().__init__()
        self.heads, self.longest = config.num_attention_heads, config.max_position_embeddings
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.filter = nn.Parameter(torch.empty(self.heads, 2 * self.longest - 1))
        self.first = nn.Parameter(torch.empty(self.heads, self.longest))
        self.ends = nn.Parameter(torch.empty(self.heads, 2))

    def forward(self, hidden_states: torch.Tensor, sequence: Sequence) -> torch.Tensor:
        """`[batch, seq, hidden]` -> `[batch, seq, hidden]`, before the output projection. At most `longest` tokens."""
        plan: FilterPlan = sequence.filter
        batch, length, width = hidden_states.shape
        values = self.value(hidden_states).view(batch, length, self.heads, -1).transpose(1, 2)  # [batch, heads, seq, e]
        taps = self.filter[:, self.longest - length: self.longest + length - 1]
        convolve = toeplitz if plan.backend == "matmul" else fft_convolve
        mixed = convolve(values * plan.inner[:, None, :, None].to(values.dtype), taps)
        mixed = mixed + torch.einsum("hk,bks,bhse->bhe", self.ends, plan.ends.to(self.ends.dtype), values)[:, :, None]
        pooling = self.first[:, plan.place].transpose(0, 1) * plan.real[:, None].to(self.first.dtype)
        pooled = torch.einsum("bhs,bhse->bhe", pooling, values)
        is_first = plan.ends[:, :1, :, None].bool()
        mixed = torch.where(is_first, pooled[:, :, None].to(mixed.dtype), mixed)
        return mixed.transpose(1, 2).reshape(batch, length, width).to(values.dtype)


def toeplitz(values: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """sum_j taps[h, j − i + n − 1] values[b, h, j], by one n x n matrix a head, one product for all examples.

    values: `[batch, heads, n, e]`; taps: `[heads, 2n − 1]`.
    """
    length = values.shape[2]  # len() of a tensor would fix the length in an exported model
    # The taps laid end to end, cut into rows one longer than they are: row i begins at tap i. By index instead, the gradient
    # of each tap would be summed one by one.
    rows = taps.to(values.dtype)[:, None].expand(-1, length + 1, -1).flatten(1)[:, :2 * length * length]
    # Not `@`, which would copy the matrices for every example.
    return torch.einsum("hij,bhje->bhie", rows.view(-1, length, 2 * length)[..., :length].flip(1), values)


def fft_convolve(values: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """The same by FFTs of a power of two from 2n − 1 points, so that nothing wraps around."""
    length = values.shape[2]
    size = 1 << (2 * length - 2).bit_length()
    with torch.autocast(values.device.type, enabled=False):  # complex halves do not exist on every device
        kernel = torch.fft.rfft(taps.float().flip(-1), n=size)[..., None]
        product = torch.fft.rfft(values.float(), n=size, dim=2) * kernel
        return torch.fft.irfft(product, n=size, dim=2)[:, :, length - 1: 2 * length - 1].to(values.dtype)
