"""Attention expanded in the query to first order: a gated filter, and what the query changes of it.

    Y_i = Y⁰_i + s_i Cov_g(V x, K x) · a (Q x_i − q̄) / √e                                       per head

Y⁰ is the gated filter of `gated.py`, attention with one query for all tokens (fitted, so not quite the mean q̄). The
derivative of softmax attention by its query is the covariance of values and keys under the attention weights; that is the
second term, with the gates g (whatever the offset) as weights, s_i the share of token i's weight that is not at the ends,
and a slope a. It takes one e x e matrix a head for all tokens, made in one pass, so O(n) beside the filter's O(n log n):
how linear attention reads its memory (Katharopoulos 2020, Transformers are RNNs), but without features that must be positive, since a covariance leaves the weights' sum alone.
(Second-order expansions around zero as a feature map: Arora 2024, Based.) The first token's row is softmax attention
itself: one query costs O(n). Queries, keys and values are BERT's own; `calibrate.fit_gates` sets all else in closed form.
"""

from __future__ import annotations

import torch
from torch import nn

from .filter import FilterPlan
from .gated import GatedFilterMixer


class TaylorMixer(GatedFilterMixer):
    """`query`, `key`: BERT's; `mean_query`: `[hidden]`, q̄ of all heads; `slope`: `[heads]`, a."""

    pools = False

    def __init__(self, config, layer_idx: int | None = None):
        super().__init__(config, layer_idx)
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.mean_query = nn.Parameter(torch.zeros(config.hidden_size))
        self.slope = nn.Parameter(torch.ones(self.heads))

    def by_query(self, hidden_states: torch.Tensor, values: torch.Tensor, gate: torch.Tensor, plan: FilterPlan,
                 ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the first token takes, `[batch, heads, e]`, and the term of first order of a token all of whose weight is
        inside, `[batch, heads, seq, e]`. values: `[batch, heads, seq, e]`; gate: `[batch, heads, seq, 1]`."""
        keys, size = self.heads_of(self.key(hidden_states)).to(values.dtype), values.shape[-1]
        query = self.heads_of(self.query(hidden_states))
        first = torch.einsum("bs,bhse->bhe", plan.ends[:, 0].to(query.dtype), query).to(values.dtype)
        scores = (keys @ first[..., None])[..., 0].float() * size**-0.5
        own = scores.masked_fill(plan.real[:, None] == 0, -torch.inf).softmax(-1).to(values.dtype)
        pooled = torch.einsum("bhs,bhse->bhe", own, values)

        gate = (gate / gate.sum(2, keepdim=True).clamp(min=1e-12)).to(values.dtype)
        covariance = (gate * keys).mT @ values - (gate.mT @ keys).mT @ (gate.mT @ values)
        query = (query - self.mean_query.view(self.heads, 1, size)) * (self.slope[:, None, None] * size**-0.5)
        return pooled, query.to(values.dtype) @ covariance
