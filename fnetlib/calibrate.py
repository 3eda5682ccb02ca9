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

from .mixers.filter import FilterMixer, plan_filter

PENALTIES = tuple(10.0**k for k in range(-4, 3))  # times the mean variance of the features; chosen on held-out sentences
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
