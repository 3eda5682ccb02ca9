"""Gated filter mixing: attention weights that factor into a gate on the key and a filter over the offset.

    Y_i = sum_j w(i, j) V x_j / sum_j w(i, j),   w(i, j) = exp(K x_j + F(j − i))       per head, K x_j a single number

Both sums are convolutions of gated values, so products in the Fourier domain: O(n log n), one projection and a few
numbers a head where attention has three projections and n x n scores. This is attention with each head's query
replaced by a constant and what depends on the offset learned apart (after AFT-conv: Zhai 2021, An Attention Free
Transformer, section 3; with BERT's value projection kept, one gate a head and none on the output, see `aft.py`; `taylor.py` lets the query back
in). Two
tokens are treated apart, as BERT's heads do: what the first and the last token ([CLS], [SEP]) give to token i depends on
i (w = exp(Q x_i)), and the first token pools all others by a gate of its own. `calibrate.fit_gates` sets all of it from
a teacher in closed form.
"""

from __future__ import annotations

import torch
from torch import nn

from .base import Sequence
from .filter import FilterPlan, fft_convolve, toeplitz


class GatedFilterMixer(nn.Module):
    """`gate`: `[hidden]` -> `[heads · gates]`, a token's log weights, of `gates` 1; `log_filter`: `[heads, 2 · longest − 1]`, log weight by offset
    j − i from −(longest − 1); `ends`: -> `[2 · heads]`, log weight of the first and of the last token for token i;
    `first`: -> `[heads]`, a token's log weight for the first token.
    """

    pools = True  # whether the first token's weights are gates

    def __init__(self, config, layer_idx: int | None = None, gates: int = 1):
        super().__init__()
        self.heads, self.longest = config.num_attention_heads, config.max_position_embeddings
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.gate = nn.Linear(config.hidden_size, self.heads * gates, bias=False)
        self.first = nn.Linear(config.hidden_size, self.heads, bias=False) if self.pools else None
        self.ends = nn.Linear(config.hidden_size, 2 * self.heads)
        self.log_filter = nn.Parameter(torch.zeros(self.heads, 2 * self.longest - 1))

    def forward(self, hidden_states: torch.Tensor, sequence: Sequence) -> torch.Tensor:
        """`[batch, seq, hidden]` -> `[batch, seq, hidden]`, before the output projection. At most `longest` tokens."""
        plan: FilterPlan = sequence.filter
        batch, length, width = hidden_states.shape
        values = self.heads_of(self.value(hidden_states))  # [batch, heads, seq, e]
        logits = self.heads_of(self.gate(hidden_states).float())  # last: gates
        ends = self.ends(hidden_states).float().view(batch, length, 2, self.heads).permute(0, 3, 1, 2)
        ends = ends.masked_fill(plan.ends.amax(-1)[:, None, None] == 0, -torch.inf)  # a lone token is not the last one
        taps = self.log_filter[:, self.longest - length: self.longest + length - 1].float()

        # Every sum is scaled by its largest term, as in softmax: exp never overflows.
        inner = plan.inner[:, None, :, None]
        highest = logits.masked_fill(inner == 0, -torch.inf).amax(2, keepdim=True)
        highest = highest.masked_fill(highest.isinf(), 0)  # no inner token at all
        peak = taps.amax(-1)[:, None, None]
        scale = torch.maximum(highest + peak, ends.amax(-1, keepdim=True))  # [batch, heads, seq, gates]
        gate = (logits - highest).clamp(max=0).exp() * inner
        convolve = toeplitz if plan.backend == "matmul" else fft_convolve
        summed = convolve(torch.cat([gate.to(values.dtype) * values, gate.to(values.dtype)], -1), (taps - peak[..., 0]).exp())
        ends = (ends[..., None, :] - scale[..., None]).exp()  # [batch, heads, seq, gates, 2]
        at_ends = torch.einsum("bks,bhse->bhke", plan.ends.to(values.dtype), values)
        # What every sum is weighed with is small, as large as the gates, and stays float32.
        weight = (highest + peak - scale).exp()
        split = (values.shape[-1], gate.shape[-1])
        summed, weights = summed.split(split, -1)
        # The largest gate and the largest filter weight may not meet: what all underflows is 0, not 0/0.
        total = (weights.float() * weight + ends.sum(-1)).clamp(min=1e-12)
        mixed, share = summed * (weight / total).to(summed.dtype), (ends / total[..., None]).to(values.dtype)
        mixed = mixed + (share[..., 0, :] @ at_ends if split[1] == 1 else (share * at_ends.mT[:, :, None]).sum(-1))
        pooled, change = self.by_query(hidden_states, values, gate, plan)
        if change is not None:
            mixed = mixed + (weights.float() * weight / total).to(change.dtype) * change
        mixed = torch.where(plan.ends[:, :1, :, None].bool(), pooled[:, :, None].to(mixed.dtype), mixed)
        return mixed.transpose(1, 2).reshape(batch, length, width).to(values.dtype)

    def heads_of(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, seq, heads · e]` -> `[batch, heads, seq, e]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def by_query(self, hidden_states: torch.Tensor, values: torch.Tensor, gate: torch.Tensor, plan: FilterPlan,
                 ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the first token takes, `[batch, heads, e]`, and what a token's own query changes, see `taylor.py`: nothing.

        values: `[batch, heads, seq, e]`; gate: `[batch, heads, seq, gates]`, weights of the inner tokens.
        """
        pooling = self.first(hidden_states).float().transpose(1, 2).masked_fill(plan.real[:, None] == 0, -torch.inf)
        return torch.einsum("bhs,bhse->bhe", pooling.softmax(-1).to(values.dtype), values), None
