"""Distillation of hidden states: a student's blocks learn to give what the teacher's blocks give, on unlabelled text.

Two stages. Block-wise: every block is given the teacher's state below it and matched to the teacher's state above it,
so that no block waits for those below (the attention transfer of Zhang 2024, Hedgehog, section 4.2, for whole blocks: an
unparametrised mixer has no weights to learn with, the feed-forward must). Then end to end: the student runs on its own
states, as in TinyBERT (Jiao 2020, section 3.1; equal widths, so without its projections), if asked also matched to the
teacher's masked-LM predictions. Errors are shares: squared distance over the teacher's variance, 0 is a match.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from .callbacks import CountedTrainer


def layer_errors(states: Sequence[torch.Tensor], targets: Sequence[torch.Tensor],
                 real: torch.Tensor | None = None) -> torch.Tensor:
    """One error a layer: |student - teacher|² over |teacher - its mean over tokens|², in float32.

    states, targets: `[batch, seq, hidden]` a layer, without the embeddings' output; real: `[batch, seq]` bool, the
    tokens that count; None: all of them.
    """
    errors = []
    for state, target in zip(states, targets, strict=True):
        state, target = (x.float()[real] if real is not None else x.float().flatten(0, 1) for x in (state, target))
        errors.append((state - target).pow(2).sum() / (target - target.mean(0)).pow(2).sum())
    return torch.stack(errors)


def prediction_error(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of the student's predictions from the teacher's, nats; both `[n, classes]`."""
    return F.kl_div(logits.float().log_softmax(-1), targets.float().log_softmax(-1), reduction="batchmean", log_target=True)


class DistillationTrainer(CountedTrainer):
    """The Trainer whose loss is the distance to a teacher's states; evaluates the masked-LM loss and every layer's error.

    teacher, student: FNetBert models with a masked-LM head, of one shape; model: the student, or its encoder where
    logits_weight is 0. blockwise: steps of the block-wise stage. logits_weight: of `prediction_error` at the masked
    tokens, in the second stage.
    """

    def __init__(self, *, teacher: PreTrainedModel, student: PreTrainedModel, blockwise: int, logits_weight: float, **kwargs):
        super().__init__(**kwargs)
        self.student = student.to(self.args.device)
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.blockwise, self.logits_weight = blockwise, logits_weight
        self._seen: list[torch.Tensor] = []  # layer errors of the evaluation that is running

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs):
        labels = inputs.pop("labels", None)
        whole = self.logits_weight > 0
        with torch.no_grad():
            target = (self.teacher if whole else self.teacher.bert)(**inputs, output_hidden_states=True)
        if blockwise := self.state.global_step < self.blockwise:
            inputs["block_inputs"] = target.hidden_states[:-1]
        # Without the head there is no product with the vocabulary, half of a small model's work.
        found = model(**inputs, output_hidden_states=True)
        loss = layer_errors(found.hidden_states[1:], target.hidden_states[1:]).mean()
        if whole and not blockwise:
            masked = labels != -100
            loss = loss + self.logits_weight * prediction_error(found.logits[masked], target.logits[masked])
        return (loss, found) if return_outputs else loss

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The student's masked-LM loss on the held-out tokens; its layers' errors are kept for `evaluate`, of the text as the
        student is trained on it: without masks unless predictions are matched too."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with self.compute_loss_context_manager():
            found = self.student(**inputs, labels=labels, output_hidden_states=True)
            loss = found.loss.detach()
            if not self.logits_weight:
                inputs["input_ids"] = torch.where(labels == -100, inputs["input_ids"], labels)
                found = self.student.bert(**inputs, output_hidden_states=True)
            target = self.teacher.bert(**inputs, output_hidden_states=True)
        self._seen.append(layer_errors(found.hidden_states[1:], target.hidden_states[1:]))
        return loss, None, None

    def evaluate(self, *args, **kwargs):
        self._seen = []
        metrics = super().evaluate(*args, **kwargs)
        errors = self.accelerator.gather(torch.stack(self._seen).mean(0)[None]).mean(0)
        self.log({"layer_errors": [round(float(error), 6) for error in errors]})
        return metrics
