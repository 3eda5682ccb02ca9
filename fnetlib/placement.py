"""Which layers should keep attention? Measured on an aligned student: attention is restored where it helps most.

The student's swapped layers have learned to stand for the teacher's (`distill.py`); one layer at a time gets the teacher's
attention sub-layer back, without training, and the one that brings the states nearest to the teacher's is kept: the last layer's,
or all layers' on average. FNet
compares fixed placements instead (Lee-Thorp 2021, section 4.3: attention in the top layers is best there).
"""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import torch
from torch import nn

from .config import FNetBertConfig, recipe
from .distill import layer_errors
from .finetune import adaptations
from .modeling import FNetBertModel
from .params import ParameterError, PlaceParams
from .provenance import code, environment, find_root, now
from .records import Record, RecordStore, make_run_id
from .tasks import load_task, results_folder
from .teacher import Teacher, load_teacher
from .transfer import build_student, sentence_batch


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
def place(teacher: Teacher, student: nn.Module, batch: dict[str, torch.Tensor], keep: int, by: str = "last") -> pd.DataFrame:
    """Choose `keep` layers greedily. Columns: round, layer, error (of the last states, see `layer_errors`), mean_error (over all
    layers), chosen: the least of either, `by` is last or mean.

    student: an adapted student without attention; batch: tokenised sentences, `[batch, seq]` each. The recipe of the
    choice is `recipe_name`. Raises ParameterError if `keep` is not from 1 to the number of layers.
    """
    base = getattr(student, "bert", student).eval()
    layers = range(base.config.num_hidden_layers)
    if not 1 <= keep <= len(layers):
        raise ParameterError(f"keep: {keep} is not from 1 to {len(layers)}, the layers of the student")
    reference = build_student(teacher, "bert", head="none")[0].to(base.device)
    batch = {name: tensor.to(base.device) for name, tensor in batch.items()}
    real, targets = batch["attention_mask"].bool(), _states(reference, batch)
    rows, kept = [], []
    for number in range(1, keep + 1):
        found: list[dict[str, Any]] = []
        for layer in layers:
            if layer not in kept:
                errors = layer_errors(_states(restored(base, reference, [*kept, layer]).to(base.device), batch), targets, real)
                found.append({"round": number, "layer": layer, "error": float(errors[-1]), "mean_error": float(errors.mean())})
        best = min(found, key=lambda row: row["mean_error" if by == "mean" else "error"])
        kept.append(best["layer"])
        rows += [{**row, "chosen": row is best} for row in found]
    return pd.DataFrame(rows)


def _states(model: FNetBertModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return model(**batch, output_hidden_states=True).hidden_states[1:]


def search(params: PlaceParams) -> Record:
    """`place` on a task's training sentences (labels are not used), and its record, with the seconds that it took.

    A search whose record exists is not repeated. Raises ParameterError where the student has attention already, is of
    another teacher, or has no record.
    """
    teacher = load_teacher(params.teacher)
    data = load_task(params.task, params.data, train_size=params.sentences, eval_size=1)
    store = RecordStore(results_folder(params.results, data.record.source))
    adapted, = adaptations([params.student], store)
    if adapted.teacher.fingerprint != teacher.fingerprint:
        raise ParameterError(f"student: {params.student!r} is of teacher {adapted.teacher.name!r}, not of {teacher.name!r}")
    if "attention" in recipe(adapted.model, teacher.config.num_hidden_layers)["mixers"]:
        raise ParameterError(f"student: {params.student!r} is {adapted.model!r}, which has attention already")
    decisive = {"student": adapted.run_id, "keep": params.keep, "sentences": params.sentences}
    decisive |= {"by": params.by} if params.by != "last" else {}  # earlier searches went by the last states and did not say so
    run_id = make_run_id("placement", params.task, adapted.model, 0, decisive, data.record.fingerprint, teacher.fingerprint)
    if existing := store.get(run_id):
        return existing
    started, device = now(), "cuda" if torch.cuda.is_available() else "cpu"
    student = FNetBertModel.from_pretrained(find_root() / params.student, add_pooling_layer=False).to(device)
    start = time.perf_counter()
    found = place(teacher, student, sentence_batch(teacher, data, params.sentences), params.keep, params.by)
    seconds = time.perf_counter() - start
    record = Record(
        run_id=run_id, stage="placement", task=params.task, model=adapted.model, seed=0, status="finished", params=decisive,
        teacher=teacher.record(), data=data.record, timing={"seconds": seconds}, env=environment(device, "fp32"), code=code(),
        transfer={"placement": found.to_dict("records"), "recipe": recipe_name(found)}, started=started, ended=now())
    store.write(record)
    return record


def recipe_name(placement: pd.DataFrame) -> str:
    """`hybrid-at-I-J-...` with the chosen layers, lowest first."""
    return "hybrid-at-" + "-".join(map(str, sorted(placement[placement["chosen"]]["layer"])))
