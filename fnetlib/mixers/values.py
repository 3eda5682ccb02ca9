"""Mixing of values by a transform over the sequence axis alone: FNet's, with BERT's value projection in place of the other axis.

    Y = H_L V x,   H_L[k, j] = (cos(2π k j / L) + sin(2π k j / L)) / sqrt(L)        for an example of length L

FNet (Lee-Thorp 2021, section 3.2) transforms tokens and channels and keeps the real part. Here a channel mixes through the
teacher's own V, so only tokens are left to transform, by Hartley's real transform (Hartley 1942), its own inverse: the real part
of Fourier's would give places k and L − k the same. Like FNet's it has no weights of its own beyond V and costs O(n log n).

Two backends, same numbers, as in `fourier.py`: real matrices, or FFTs (Bluestein's with a mask).
"""

from __future__ import annotations

import torch
from torch import nn

from .base import Sequence
from .fourier import FourierPlan, bluestein, matrix_dtype


class ValueMixer(nn.Module):
    """`value`: `[hidden]` -> `[hidden]`, V with its bias. Padded positions come out as zero where padding is masked."""

    def __init__(self, config, layer_idx: int | None = None):
        super().__init__()
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, sequence: Sequence) -> torch.Tensor:
        """`[batch, seq, hidden]` -> `[batch, seq, hidden]`, before the output projection."""
        return hartley(self.value(hidden_states), sequence.tokens)


def hartley(x: torch.Tensor, plan: FourierPlan) -> torch.Tensor:
    """Each channel's transform over tokens. x: `[batch, seq, hidden]`; plan: `plan_fourier` of width 1."""
    if plan.cos is not None:
        dtype = matrix_dtype(x)
        return (plan.cos + plan.sin).to(dtype) @ x.to(dtype)
    with torch.autocast(x.device.type, enabled=False):  # complex halves do not exist on every device
        found = torch.fft.fft(x.float(), dim=1) if plan.chirp is None else bluestein(x.float(), plan)
        out = (found.real - found.imag) * plan.scale
        if plan.chirp is not None:
            out = (out * plan.real).gather(1, plan.rank[..., None].expand_as(out))
    return out.to(x.dtype)
