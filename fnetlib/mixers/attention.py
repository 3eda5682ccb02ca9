"""Self-attention as a token mixer: BERT's own, under its own parameter names."""

from __future__ import annotations

import torch
from transformers.models.bert.modeling_bert import BertSelfAttention

from .base import Sequence


class AttentionMixer(BertSelfAttention):
    """Multi-head softmax attention (Vaswani 2017, section 3.2), transformers' implementation."""

    def forward(self, hidden_states: torch.Tensor, sequence: Sequence) -> torch.Tensor:
        """`[batch, seq, hidden]` -> `[batch, seq, hidden]`, before the output projection."""
        return super().forward(hidden_states, sequence.attention_mask)[0]
