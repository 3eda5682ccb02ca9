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

    asked: tuple[str, ...] = ("first",)  # projections that `by_query` takes

    def __init__(self, config, layer_idx: int | None = None, gates: int = 1):
        super().__init__()
        self.heads, self.longest = config.num_attention_heads, config.max_position_embeddings
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.gate = nn.Linear(config.hidden_size, self.heads * gates, bias=False)
        self.first = nn.Linear(config.hidden_size, self.heads, bias=False) if "first" in self.asked else None
        self.ends = nn.Linear(config.hidden_size, 2 * self.heads)
        self.log_filter = nn.Parameter(torch.zeros(self.heads, 2 * self.longest - 1))

    def forward(self, hidden_states: torch.Tensor, sequence: Sequence) -> torch.Tensor:
        """`[batch, seq, hidden]` -> `[batch, seq, hidden]`, before the output projection. At most `longest` tokens."""
        plan: FilterPlan = sequence.filter
        batch, length, width = hidden_states.shape
        value, gate, ends, *asked = self.projected(hidden_states)
        values = self.heads_of(value)  # [batch, heads, seq, e]
        logits = self.heads_of(gate).float() + plan.not_inner[:, None, :, None]  # last: gates
        ends = ends.float().unflatten(-1, (2, self.heads)).permute(0, 3, 1, 2)  # [batch, heads, seq, 2]
        ends = ends + plan.no_end[:, None, None]  # a lone token is not the last one
        taps = self.log_filter[:, self.longest - length: self.longest + length - 1].float()

        # Gates and taps are scaled by their largest, as in softmax: exp never overflows. Where the largest of both do not meet,
        # all may underflow: then it is next to nothing, not the logarithm of 0 (and in fp16 its inverse is finite).
        highest, peak = logits.amax(2, keepdim=True), taps.amax(-1)
        gate, taps = (logits - highest).exp(), (taps - peak[:, None]).exp()
        convolve = toeplitz if plan.backend == "matmul" else fft_convolve
        gated = gate.to(values.dtype) * values
        summed = convolve(gated, taps)
        weights = convolve(gate.to(values.dtype), taps).float()  # [batch, heads, seq, gates]
        weights = weights.clamp(min=2e-5 if values.dtype == torch.float16 else 1e-12)
        inner = weights.log() + (highest + peak[:, None, None])
        first = plan.ends[:, :1, :, None, None]  # [batch, 1, seq, 1, 1]; its row is the pooling's
        shares = torch.cat([inner[..., None], ends[..., None, :].expand(*inner.shape, 2)], -1).softmax(-1) * (1 - first)
        pooling, change = self.by_query(*asked, values, gate, gated, plan)
        few = torch.cat([pooling[:, :, None], plan.ends[:, None].expand(-1, self.heads, -1, -1)], 2).to(values.dtype) @ values
        share = torch.cat([first.expand(*inner.shape, 1), shares[..., 1:]], -1).to(values.dtype)  # of `few`, [batch, heads, 3, e]
        mixed = share[..., 0, :] @ few if share.shape[3] == 1 else (share * few.mT[:, :, None]).sum(-1)
        mixed = torch.addcmul(mixed, summed, (shares[..., 0] / weights).to(summed.dtype))
        if change is not None:
            mixed = torch.addcmul(mixed, change, shares[..., 0].to(change.dtype))
        return mixed.transpose(1, 2).reshape(batch, length, width).to(values.dtype)

    def projected(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What `value`, `gate`, `ends` and those of `asked` make of the states, each `[batch, seq, its width]`, by one product."""
        parts = [self.value, self.gate, self.ends, *(getattr(self, name) for name in self.asked)]
        shifts = [part.bias if part.bias is not None else part.weight.new_zeros(part.out_features) for part in parts]
        found = nn.functional.linear(hidden_states, torch.cat([part.weight for part in parts]), torch.cat(shifts))
        return found.split([part.out_features for part in parts], -1)

    def heads_of(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, seq, heads · e]` -> `[batch, heads, seq, e]`, copied once: every product would copy it anew."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2).contiguous()

    def by_query(self, first: torch.Tensor, values: torch.Tensor, gate: torch.Tensor, gated: torch.Tensor,
                 plan: FilterPlan) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The first token's weights, `[batch, heads, seq]`, and what a token's own query changes, see `taylor.py`: nothing.

        first: `[batch, seq, heads]`, log weights; values, gated: `[batch, heads, seq, e]`, the latter times the gates; gate:
        `[batch, heads, seq, gates]`, weights of the inner tokens.
        """
        return (first.float().transpose(1, 2) + plan.not_real[:, None]).softmax(-1), None
