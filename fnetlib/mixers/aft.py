"""Attention-free mixing (after AFT-conv: Zhai 2021, An Attention Free Transformer, section 3): gates by key and query.

    Y_i = 2 sigmoid(Q x_i) * sum_j w(i, j) * V x_j / sum_j w(i, j),   w(i, j) = exp(K x_j + F(j − i))   per channel

The gated filter of `gated.py` with a gate on the key for every channel, not every head, so that a channel can be about
some tokens only, and with the query back, as a gate on the output: the product of what a token asks for and what the
others hold. The first and the last token are treated as there. Still convolutions of gated values, O(n log n). It starts
as the gated filter that `calibrate.fit_gates` finds, each channel with its head's gate and the output's gates open (Q = 0,
hence the 2).
"""

from __future__ import annotations

import torch
from torch import nn

from .base import Sequence
from .gated import GatedFilterMixer


class AttentionFreeMixer(GatedFilterMixer):
    """`gate`: `[hidden]` -> `[hidden]`, K; `output_gate`: `[hidden]` -> `[hidden]`, Q with a bias."""

    def __init__(self, config, layer_idx: int | None = None):
        super().__init__(config, layer_idx, gates=config.hidden_size // config.num_attention_heads)
        self.output_gate = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, sequence: Sequence) -> torch.Tensor:
        """`[batch, seq, hidden]` -> `[batch, seq, hidden]`, before the output projection. At most `longest` tokens."""
        mixed = super().forward(hidden_states, sequence)
        return mixed * (2 * self.output_gate(hidden_states).sigmoid()).to(mixed.dtype)
