"""What the mixers of one forward pass share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Sequence(NamedTuple):
    """The batch's padding in the forms that mixers need, prepared once and shared by all layers.

    real: `[batch, seq]` bool, True where a token is not padding; None where nothing is padded.
    attention_mask: what BERT's attention takes (its form depends on the attention implementation), or None.
    fourier: the sequence axis' transform, a `FourierPlan` or `FoldedPlan`, and the hidden axis' matrices; None where no layer is a
        Fourier layer.
    filter: which tokens are inner, first and last, a `FilterPlan`; None where no layer has filters.
    tokens: the transform of the sequence axis alone, a `FourierPlan`; None where no layer mixes values by it.
    projection: not shared: this layer's, of `folded.fold_projections` or `whole.join_projections`; None: it makes its own if it needs it.
    """

    real: torch.Tensor | None = None
    attention_mask: Any = None
    fourier: Any = None
    filter: Any = None
    tokens: Any = None
    projection: torch.Tensor | None = None
