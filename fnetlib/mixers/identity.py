"""No mixing: tokens do not see each other. The speed limit of any mixer, and the floor of quality."""

from __future__ import annotations

import torch
from torch import nn

from .base import Sequence


class IdentityMixer(nn.Module):
    """Returns its input (the FNet paper's FF-only ablation, section 4.1, where the projection is off)."""

    def __init__(self, config, layer_idx: int | None = None):
        super().__init__()

    def forward(self, hidden_states: torch.Tensor, sequence: Sequence) -> torch.Tensor:
        """`[batch, seq, hidden]` -> the same."""
        return hidden_states
