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

    asked = ("query", "key")

    def __init__(self, config, layer_idx: int | None = None):
        super().__init__(config, layer_idx)
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.mean_query = nn.Parameter(torch.zeros(config.hidden_size))
        self.slope = nn.Parameter(torch.ones(self.heads))

    def by_query(self, query: torch.Tensor, key: torch.Tensor, values: torch.Tensor, gate: torch.Tensor, gated: torch.Tensor,
                 plan: FilterPlan) -> tuple[torch.Tensor, torch.Tensor]:
        """The first token's weights, `[batch, heads, seq]`, and the term of first order of a token all of whose weight is
        inside, `[batch, heads, seq, e]`.

        query, key: `[batch, seq, hidden]`; values, gated: `[batch, heads, seq, e]`; gate: `[batch, heads, seq, 1]`.
        """
        query, keys, size = self.heads_of(query), self.heads_of(key), values.shape[-1]
        first = plan.ends[:, None, :1].to(query.dtype) @ query  # [batch, heads, 1, e]
        scores = (first @ keys.mT)[:, :, 0].float() * size**-0.5
        total = gate.sum(2, keepdim=True).clamp(min=1e-12)  # [batch, heads, 1, 1]
        means = (gate / total).to(values.dtype).mT
        covariance = keys.mT @ gated / total - (means @ keys).mT @ (means @ values)
        covariance = (covariance * (self.slope[:, None, None] * size**-0.5)).to(values.dtype)
        mean_query = self.mean_query.view(self.heads, 1, size).to(values.dtype)
        return (scores + plan.not_real[:, None]).softmax(-1), query @ covariance - mean_query @ covariance
