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

    def weights(self, hidden_states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The attention weights, softmax(Q Kᵀ / √e), `[batch, heads, seq, seq]`; 0 for keys that are padding."""
        shape = (*hidden_states.shape[:2], self.num_attention_heads, self.attention_head_size)
        query = self.query(hidden_states).view(shape).transpose(1, 2)
        key = self.key(hidden_states).view(shape).transpose(1, 2)
        scores = query @ key.transpose(-1, -2) * self.scaling
        return scores.masked_fill(~real[:, None, None], float("-inf")).softmax(-1)
