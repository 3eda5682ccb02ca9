"""Closed-form repair of a swapped model: refit what follows each mixer, without a gradient step.

The swap keeps BERT's output projection, which expects attention's output and gets a Fourier transform's. On a few
hundred unlabelled sentences, layer by layer from the first, each swapped layer's projection and bias become the ridge
regression (Hoerl & Kennard 1970) from the student's own mixed features to what the teacher's attention block adds
there. A gain would be a factor on those features: it folds into the projection. Filters (`mixers/filter.py`) are set to
the teacher's mean attention the same way, before any projection is refitted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .mixers.base import Sequence
from .mixers.filter import FilterMixer, FilterPlan, plan_filter
from .mixers.gated import GatedFilterMixer
from .mixers.taylor import TaylorMixer

PENALTIES = tuple(10.0**k for k in range(-4, 3))  # times the mean variance of the features; chosen on held-out sentences
GATE_PENALTY = 1e-5  # times the number of queries
HELD_OUT = 5  # every so many sentences are held out to choose the penalty


@torch.no_grad()
def calibrate(student: nn.Module, batch: dict[str, torch.Tensor], targets: list[torch.Tensor]) -> list[dict[str, Any]]:
    """Refit the output projection of every swapped layer of `student`, in place.

    batch: tokenised sentences, `[sentences, seq]` each. targets: what the teacher's attention blocks add to their
    residual streams for the same real tokens, one `[tokens, hidden]` a layer (`transfer.branches`). Layer l's features
    are the mixer's output on the student's own states, given the layers below that are refitted already. Returns one
    dict a refitted layer: `layer`, `penalty`, and `explained`, the share of the target's variance that held-out
    sentences' predictions explain (before the final fit on all sentences).
    """
    base = getattr(student, "bert", student).eval()
    real = batch["attention_mask"].bool()
    held_out = (torch.arange(len(real)) % HELD_OUT == 0)[:, None].expand_as(real)[real]
    state = base.embeddings(input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids"))
    sequence = base.encoder.sequence(state, batch["attention_mask"])
    report = []
    for number, (layer, target) in enumerate(zip(base.encoder.layer, targets, strict=True)):
        if base.config.mixers[number] != "attention":
            weight, bias, penalty, explained = ridge(layer.attention.self(state, sequence)[real], target, held_out)
            layer.attention.output.dense.weight.copy_(weight)
            layer.attention.output.dense.bias.copy_(bias)
            report.append({"layer": number, "penalty": penalty, "explained": explained})
        state = layer(state, sequence)
    return report


@torch.no_grad()
def fit_filters(reference: nn.Module, student: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """Set every filter of `student` to the mean attention weight of the teacher's head at that offset, in place.

    reference: the teacher as an FNetBert model of recipe `bert`, on whose own states attention is measured. batch:
    tokenised sentences, `[sentences, seq]` each. The means are the least-squares fit of the filter's weights to the
    attention maps of all sentences (see `mixers/filter.py` for which token pairs share a weight). Offsets and places
    that no sentence has get 0.
    """
    theirs, ours = getattr(reference, "bert", reference).eval(), getattr(student, "bert", student).eval()
    states = theirs(**batch, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    plan = plan_filter(real, "matmul")
    rows = plan.real - plan.ends[:, 0]  # every token but the first, whose weights are its own
    inner = rows[:, :, None] * plan.inner[:, None]  # [sentences, seq, seq]: pairs that share a weight by offset
    sentence, ends = torch.arange(len(real)), plan.ends.argmax(-1).unbind(1)  # where the first and the last token are
    index = torch.arange(real.shape[1])
    offset = (index[None] - index[:, None] + len(index) - 1).flatten()
    pairs = _sum_by(offset, inner.sum(0).flatten()[None], 2 * len(index) - 1)
    places = _sum_by(plan.place.flatten(), plan.real.flatten()[None], len(index))
    for attention, layer, state in zip(theirs.encoder.layer, ours.encoder.layer, states):
        mixer = layer.attention.self
        if not isinstance(mixer, FilterMixer):
            continue
        weights = attention.attention.self.weights(state, real)  # [sentences, heads, seq, seq]
        by_offset = _sum_by(offset, torch.einsum("bhij,bij->hij", weights, inner).flatten(1), 2 * len(index) - 1)
        start = mixer.longest - len(index)
        mixer.filter.zero_()[:, start: start + 2 * len(index) - 1] = by_offset / pairs.clamp(min=1)
        to_ends = torch.stack([weights[sentence, :, :, end] for end in ends], -1)  # [sentences, heads, seq, 2]
        mixer.ends.copy_(torch.einsum("bhik,bi,bk->hk", to_ends, rows, plan.ends.amax(-1)) / rows.sum())
        first = weights[sentence, :, ends[0]].transpose(0, 1).flatten(1)  # padding has weight 0
        mixer.first.zero_()[:, :len(index)] = _sum_by(plan.place.flatten(), first, len(index)) / places.clamp(min=1)


@torch.no_grad()
def fit_gates(reference: nn.Module, student: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """Set gates and filters of every gated mixer (`+gated`, `+aft`, `+taylor`) of `student` to stand for the teacher's
    attention, in place.

    reference, batch: as for `fit_filters`. The log weights are linear in what is sought (the query that replaces each
    head's own, the two keys that stand for the ends, the filter), so it is a least-squares fit to the teacher's
    attention scores, weighted by its attention: the second-order expansion of the Kullback-Leibler divergence between
    the two softmaxes around the teacher's. The filter's differences from offset to offset are penalised, so an offset
    that no sentence has gets its neighbour's weight.
    """
    theirs, ours = getattr(reference, "bert", reference).eval(), getattr(student, "bert", student).eval()
    states = theirs(**batch, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    plan = plan_filter(real, "matmul")
    for layer, attention, state in zip(ours.encoder.layer, (part.attention.self for part in theirs.encoder.layer), states):
        mixer = layer.attention.self
        if not isinstance(mixer, GatedFilterMixer):
            continue
        weights = attention.weights(state, real)  # [sentences, heads, seq, seq]
        split = (mixer.heads, attention.attention_head_size, -1)
        query, key = attention.query.weight.view(split), attention.key.weight.view(split)
        bias = attention.query.bias.view(split[:2])
        for head in range(mixer.heads):
            q = attention.query(state).view(*real.shape, *split[:2])[:, :, head]
            k = attention.key(state).view(*real.shape, *split[:2])[:, :, head]
            for_query, for_ends, taps = _fit_gate(weights[:, head], q, k, plan, mixer.longest)
            mixer.gate.weight.view(mixer.heads, -1, query.shape[-1])[head] = for_query @ key[head]  # all of its channels
            if mixer.first is not None:
                mixer.first.weight[head] = _fit_pooling(weights[:, head], k, plan) @ key[head]
            for end, (direction, offset) in enumerate(zip(for_ends[:, :-1], for_ends[:, -1])):
                mixer.ends.weight[end * mixer.heads + head] = direction @ query[head]
                mixer.ends.bias[end * mixer.heads + head] = direction @ bias[head] + offset
            mixer.log_filter[head] = taps
        if isinstance(mixer, TaylorMixer):
            _fit_slope(mixer, attention, state, weights, plan)


def _fit_slope(mixer: TaylorMixer, attention: nn.Module, state: torch.Tensor, weights: torch.Tensor, plan: FilterPlan) -> None:
    """The mean query, and each head's slope: the least-squares fit of the expansion's term, in which the output is linear,
    to what the gated filter lacks of attention's own output. weights: `[sentences, heads, seq, seq]`, of the teacher."""
    rows = (plan.real - plan.ends[:, 0]).bool()  # every token but the first, whose row is attention's own
    mixer.mean_query.copy_(mixer.query(state)[rows].mean(0))
    target = (weights @ mixer.heads_of(attention.value(state))).transpose(1, 2)[rows]  # [tokens, heads, e]

    def output(slope: float) -> torch.Tensor:
        mixer.slope.fill_(slope)
        return mixer(state, Sequence(filter=plan))[rows].unflatten(-1, (mixer.heads, -1))

    plain = output(0.0)
    change = output(1.0) - plain
    mixer.slope.copy_(((target - plain) * change).sum((0, 2)) / change.pow(2).sum((0, 2)).clamp(min=1e-12))


def _fit_gate(weights: torch.Tensor, query: torch.Tensor, key: torch.Tensor, plan: FilterPlan, longest: int,
              ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One head: the constant query `[e]`, for each end a key and a constant `[2, e + 1]`, the filter `[2 longest − 1]`.

    weights: `[sentences, seq, seq]`; query, key: `[sentences, seq, e]`. A pair's features are (key, 0, 0, offset) for
    an inner key, (0, query, 0, 0) for the first token, (0, 0, query, 0) for the last.
    """
    length, size = query.shape[1:]
    query, key = torch.cat([query, torch.ones_like(query[..., :1])], -1).double(), key.double()
    rows = plan.real - plan.ends[:, 0]  # every token but the first, whose weights are its own
    weights = (weights * rows[:, :, None]).double()
    scores = weights.clamp(min=1e-30).log()
    scores = scores - (weights * scores).sum(-1, keepdim=True)  # a row's constant does not matter: its mean is 0
    inner = weights * plan.inner[:, None]
    index, offsets = torch.arange(length), 2 * length - 1
    place = (index[None] - index[:, None] + length - 1).expand_as(inner)  # of the offset j − i
    spread = inner.new_zeros(*inner.shape[:2], offsets)
    by_query, by_key = spread.scatter(2, place, inner), spread.scatter(2, place.mT, inner.mT)
    ends = torch.einsum("bij,bkj->kbi", weights, plan.ends.double())  # [2, sentences, seq]
    ends_scores = torch.einsum("bij,bkj->kbi", weights * scores, plan.ends.double())

    means = torch.cat([inner @ key, *(ends[..., None] * query), by_query], -1)[rows.bool()]  # a row's mean feature
    moment = torch.block_diag(
        torch.einsum("bij,bjd,bje->de", inner, key, key),
        *(torch.einsum("bi,bid,bie->de", weight, query, query) for weight in ends), by_query.sum((0, 1)).diag())
    filters = len(moment) - offsets  # where the filter's entries begin
    moment[:size, filters:] = torch.einsum("bjd,bje->de", key, by_key)
    moment[filters:, :size] = moment[:size, filters:].T
    product = torch.cat([
        torch.einsum("bij,bjd->d", inner * scores, key),
        *(torch.einsum("bi,bid->d", weight, query) for weight in ends_scores),
        spread.scatter(2, place, inner * scores).sum((0, 1))])
    steps = torch.eye(offsets, dtype=torch.double).diff(dim=0)
    penalty = torch.block_diag(torch.eye(filters, dtype=torch.double), steps.T @ steps)
    found = torch.linalg.solve(moment - means.T @ means + GATE_PENALTY * rows.sum() * penalty, product).float()
    beyond = (longest - length,) * 2  # offsets that no sentence has
    taps = torch.nn.functional.pad(found[None, filters:], beyond, mode="replicate")[0]
    return found[:size], found[size:filters].view(2, -1), taps


def _fit_pooling(weights: torch.Tensor, key: torch.Tensor, plan: FilterPlan) -> torch.Tensor:
    """One head's constant query for the first token, `[e]`: the same fit to its row of the attention alone."""
    key = key.double()
    own = torch.einsum("bij,bi->bj", weights, plan.ends[:, 0]).double()  # the first token's weights, [sentences, seq]
    scores = own.clamp(min=1e-30).log()
    scores = scores - (own * scores).sum(-1, keepdim=True)
    means = torch.einsum("bj,bjd->bd", own, key)
    moment = torch.einsum("bj,bjd,bje->de", own, key, key) - means.T @ means
    penalty = GATE_PENALTY * len(key) * torch.eye(key.shape[-1], dtype=torch.double)
    return torch.linalg.solve(moment + penalty, torch.einsum("bj,bjd->d", own * scores, key)).float()


def _sum_by(index: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    """Sums of `[rows, n]` values that share an index, `[rows, size]`."""
    return values.new_zeros(len(values), size).index_add_(1, index, values)


def ridge(features: torch.Tensor, target: torch.Tensor, held_out: torch.Tensor,
          ) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """weight `[out, in]` and bias `[out]` of the regression of `[tokens, out]` on `[tokens, in]`, in float64 inside.

    The penalty is the one of PENALTIES that predicts the tokens marked `held_out` best; then all tokens are used.
    Returns weight, bias, penalty, and the share of variance explained on the held-out tokens.
    """
    x, y = features.double(), target.double()
    fits = _fit(x[~held_out], y[~held_out], PENALTIES)
    rest = y[held_out] - y[~held_out].mean(0)
    shares = [float(1 - (y[held_out] - x[held_out] @ w.T - b).pow(2).sum() / rest.pow(2).sum()) for w, b in fits]
    best = max(range(len(shares)), key=shares.__getitem__)
    (weight, bias), = _fit(x, y, PENALTIES[best:best + 1])
    return weight.to(target.dtype), bias.to(target.dtype), PENALTIES[best], shares[best]


def _fit(x: torch.Tensor, y: torch.Tensor, penalties: tuple[float, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One ridge regression a penalty, all from one eigendecomposition of the features' covariance."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    product = vectors.T @ (x.T @ y) / len(x)
    scale = values.mean()
    fits = []
    for penalty in penalties:
        weight = (vectors @ (product / (values + penalty * scale)[:, None])).T
        fits.append((weight, y_mean - weight @ x_mean))
    return fits
