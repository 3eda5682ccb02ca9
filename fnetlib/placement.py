"""Which layers should keep attention? Measured on an aligned student: attention is restored where it helps most.

The student's swapped layers have learned to stand for the teacher's (`distill.py`); one layer at a time gets the teacher's
attention sub-layer back, without training, and the one that brings the last states nearest to the teacher's is kept. FNet
compares fixed placements instead (Lee-Thorp 2021, section 4.3: attention in the top layers is best there).
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import nn

from .config import FNetBertConfig
from .distill import layer_errors
from .modeling import FNetBertModel
from .params import ParameterError
from .teacher import Teacher
from .transfer import build_student


def restored(student: FNetBertModel, teacher: FNetBertModel, layers: list[int]) -> FNetBertModel:
    """A copy of `student` whose `layers` (from 0) have the teacher's whole attention sub-layer, its norm included."""
    choices = {k: v for k, v in student.config.to_dict().items() if k not in ("model_type", "transformers_version")}
    mixers = ["attention" if i in layers else mixer for i, mixer in enumerate(student.config.mixers)]
    copy = FNetBertModel(FNetBertConfig(**{**choices, "mixers": mixers}), add_pooling_layer=False)
    state = {name: tensor for name, tensor in student.state_dict().items() if not name.startswith("pooler.")}
    theirs = teacher.state_dict()
    for layer in layers:
        prefix = f"encoder.layer.{layer}.attention."
        state = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
        state |= {name: tensor for name, tensor in theirs.items() if name.startswith(prefix)}
    copy.load_state_dict(state)
    return copy.eval()


@torch.no_grad()
def place(teacher: Teacher, student: nn.Module, batch: dict[str, torch.Tensor], keep: int) -> pd.DataFrame:
    """Choose `keep` layers greedily. Columns: round, layer, error (of the last states, see `layer_errors`), chosen.

    student: an adapted student without attention; batch: tokenised sentences, `[batch, seq]` each. The recipe of the
    choice is `recipe_name`. Raises ParameterError if `keep` is not from 1 to the number of layers.
    """
    base = getattr(student, "bert", student).eval()
    layers = range(base.config.num_hidden_layers)
    if not 1 <= keep <= len(layers):
        raise ParameterError(f"keep: {keep} is not from 1 to {len(layers)}, the layers of the student")
    reference = build_student(teacher, "bert", head="none")[0].to(base.device)
    batch = {name: tensor.to(base.device) for name, tensor in batch.items()}
    target, real = reference(**batch).last_hidden_state, batch["attention_mask"].bool()
    rows, kept = [], []
    for number in range(1, keep + 1):
        found: list[dict[str, Any]] = []
        for layer in layers:
            if layer not in kept:
                state = restored(base, reference, [*kept, layer]).to(base.device)(**batch).last_hidden_state
                found.append({"round": number, "layer": layer, "error": float(layer_errors([state], [target], real)[0])})
        best = min(found, key=lambda row: row["error"])
        kept.append(best["layer"])
        rows += [{**row, "chosen": row is best} for row in found]
    return pd.DataFrame(rows)


def recipe_name(placement: pd.DataFrame) -> str:
    """`hybrid-at-I-J-...` with the chosen layers, lowest first."""
    return "hybrid-at-" + "-".join(map(str, sorted(placement[placement["chosen"]]["layer"])))
