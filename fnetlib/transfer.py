"""Which weights go from a teacher to a student: one table of rules that accounts for every tensor on both sides.

The student keeps BERT's parameter names, so a shared tensor is copied to its own name; what has no counterpart is
`dropped` (teacher) or `new` (student). Components can be selected, as in XATL's ablation (Choi 2024, section 4).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from .calibrate import calibrate, fit_filters, fit_gates
from .config import CALIBRATED, student_config
from .modeling import (
    FNetBertForMaskedLM, FNetBertForSequenceClassification, FNetBertModel, FNetBertPreTrainedModel, MixingSublayer,
)
from .params import ParameterError, TransferParams
from .provenance import code, environment, find_root, now
from .records import Record, RecordStore, make_run_id
from .tasks import TaskData, results_folder
from .teacher import Teacher

_LAYER = r"bert\.encoder\.layer\.\d+\."
_FILTERS = r"((log_)?filter|mean_query|slope|((output_)?gate|first|ends)(\.(weight|bias))?)"

# component group -> the tensors it names
GROUPS: dict[str, str] = {
    "embeddings": r"bert\.embeddings\.(word|position|token_type)_embeddings\.weight",
    "norms": r"bert\.(embeddings|encoder\.layer\.\d+\.(attention\.)?output)\.LayerNorm\.(weight|bias)",
    "feed_forward": _LAYER + r"(intermediate|output)\.dense\.(weight|bias)",
    "output_projection": _LAYER + r"attention\.output\.dense\.(weight|bias)",
    "attention": _LAYER + rf"attention\.self\.((query|key|value)\.(weight|bias)|{_FILTERS})",  # the mixer's own
    "gain": _LAYER + r"attention\.gain",
    "pooler": r"bert\.pooler\.dense\.(weight|bias)",
    "mlm_head": r"cls\.predictions\..*",
    "nsp_head": r"cls\.seq_relationship\.(weight|bias)",
    "classifier": r"classifier\.(weight|bias)",
    "other_head": r"(?!bert\.|cls\.).*",  # question answering, tagging, ...
}
# A classifier belongs to its task: it is never taken over unasked.
DEFAULT_GROUPS = tuple(group for group in GROUPS if group not in ("classifier", "other_head"))


@dataclass(frozen=True)
class Transfer:
    """What went where: one row a tensor."""

    rows: tuple[dict[str, Any], ...]
    groups: tuple[str, ...]
    calibration: list[dict[str, Any]] = field(default_factory=list)  # one dict a refitted layer, see calibrate.py

    def table(self) -> pd.DataFrame:
        """Columns: tensor, group, fate (copied, dropped, new), why, shape, size."""
        return pd.DataFrame(list(self.rows))

    def by_group(self) -> pd.DataFrame:
        """Parameters per component group and fate."""
        return self.table().pivot_table(index="group", columns="fate", values="size", aggfunc="sum", sort=False,
                                        fill_value=0)

    def record(self) -> dict[str, Any]:
        """Short form for a record: groups selected, and tensors and parameters of each fate."""
        table = self.table()
        fates = {fate: {"tensors": int(len(part)), "parameters": int(part["size"].sum())}
                 for fate, part in table.groupby("fate")}
        return {"groups": list(self.groups), **fates, **({"calibration": self.calibration} if self.calibration else {})}


def group_of(name: str) -> str:
    """The component group of a tensor. Raises ValueError for a tensor that the table does not know."""
    for group, pattern in GROUPS.items():
        if re.fullmatch(pattern, name):
            return group
    raise ValueError(f"transfer: no rule for tensor {name!r}; add it to fnetlib.transfer.GROUPS")


def parse_groups(text: str) -> tuple[str, ...]:
    """`all`, `none` (a student from scratch) or a comma list of component groups. Raises ParameterError naming these."""
    if text in ("all", "none"):
        return DEFAULT_GROUPS if text == "all" else ()
    groups = tuple(part.strip() for part in text.split(",") if part.strip())
    for group in groups:
        if group not in GROUPS:
            raise ParameterError(f"groups: {group!r} is not one of: all, none, {', '.join(GROUPS)}")
    return groups


@torch.no_grad()
def transfer(teacher: dict[str, torch.Tensor], student: nn.Module,
             groups: tuple[str, ...] = DEFAULT_GROUPS) -> Transfer:
    """Copy what teacher and student share, of the selected component groups, into the student in place.

    teacher: weights by name, the encoder's starting with `bert.`. Raises ValueError where a shared tensor has another
    shape (classifiers excepted), or where a tensor fits no rule.
    """
    prefix = "bert." if isinstance(student, FNetBertModel) else ""
    own = {prefix + name: tensor for name, tensor in student.state_dict().items()}
    rows = []
    for name, target in own.items():
        group, source = group_of(name), teacher.get(name)
        if source is None:
            measured = group == "gain" or re.search(rf"\.self\.{_FILTERS}$", name)
            fate, why = "new", "measured" if measured else "the teacher has none"
        elif group not in groups:
            fate, why = "new", "group not selected"
        elif source.shape != target.shape:
            if group != "classifier":
                raise ValueError(f"transfer: {name} is {tuple(source.shape)} in the teacher, {tuple(target.shape)} here")
            fate, why = "new", "other number of labels"
        else:
            target.copy_(source)
            fate, why = "copied", ""
        rows.append(_row(name, group, fate, why, target))
    for name, source in teacher.items():
        if name not in own:
            group = group_of(name)
            rows.append(_row(name, group, "dropped", "the student has none", source))
        elif group_of(name) not in groups:
            rows.append(_row(name, group_of(name), "dropped", "group not selected", source))
    return Transfer(tuple(rows), tuple(groups))


def _row(name: str, group: str, fate: str, why: str, tensor: torch.Tensor) -> dict[str, Any]:
    return {"tensor": name, "group": group, "fate": fate, "why": why, "shape": tuple(tensor.shape),
            "size": tensor.numel()}


HEADS = {"none": FNetBertModel, "mlm": FNetBertForMaskedLM, "classification": FNetBertForSequenceClassification}


def build_student(
    teacher: Teacher, recipe: str, head: str = "classification", groups: tuple[str, ...] = DEFAULT_GROUPS,
    batch: dict[str, torch.Tensor] | None = None, seed: int | None = None, layers: int = 0, **overrides: Any,
) -> tuple[FNetBertPreTrainedModel, Transfer]:
    """A student of a teacher: recipe's architecture, shared weights copied, gain or projections measured on `batch`.

    head: `none`, `mlm` or `classification`. batch: tokenised sentences (`input_ids`, `attention_mask`, ...
    `[batch, seq]`); needed where the recipe has a gain, whose start is 1 without it, filters, whose start is random
    without it, or is `-calibrated`. seed: of what is new; None leaves the random state alone. layers: the depth, the teacher's first
    so many layers; 0: as many as it has. overrides: config choices (`num_labels=3`, `fourier_norm="backward"`, ...).
    """
    if seed is not None:
        torch.manual_seed(seed)
    if layers > teacher.config.num_hidden_layers and groups:
        raise ParameterError(f"layers: {layers} are more than the {teacher.config.num_hidden_layers} of teacher {teacher.name!r}; only a student from "
                             "scratch (groups none) may be deeper")
    depth = {"num_hidden_layers": layers} if layers else {}
    student = HEADS[head](student_config(teacher.config, recipe, **depth, **overrides))
    report = transfer(teacher.state, student, groups)
    fates = {(row["group"], row["fate"], row["why"]) for row in report.rows}
    if groups and ("attention", "new", "the teacher has none") in fates:
        raise ParameterError(f"model: {recipe!r} keeps attention in layers where teacher {teacher.name!r} has none")
    measured = ("attention", "new", "measured") in fates and "attention" in groups
    for mixer, fit in (("filter", fit_filters), ("gated", fit_gates), ("aft", fit_gates), ("taylor", fit_gates)):
        if batch is not None and measured and mixer in student.config.mixers:
            fit(build_student(teacher, "bert", head="none")[0], student, batch)
    if recipe.endswith(CALIBRATED):
        if batch is None:
            raise ParameterError(f"model: {recipe!r} is refitted on sentences, and none are given")
        attention = branches(build_student(teacher, "bert", head="none")[0], batch)
        report = replace(report, calibration=calibrate(student, batch, [part["branch"] for part in attention[:student.config.num_hidden_layers]]))
    elif batch is not None and student.config.gain and "gain" in groups and ("gain", "copied", "") not in fates:
        set_gain(teacher, student, batch)
    student.eval()
    return student, report


@torch.no_grad()
def branches(model: nn.Module, batch: dict[str, torch.Tensor], states: list[torch.Tensor] | None = None,
             ) -> list[dict[str, torch.Tensor]]:
    """What each block's mixing sub-layer adds to its residual stream, for real tokens.

    states: each block's input `[batch, seq, hidden]`; by default the model's own, else e.g. the teacher's, so that
    layers are compared on the same input. Returns one dict a layer, each entry `[tokens, hidden]`: `residual` (the
    sub-layer's input), `branch` (what is added to it), `unbiased` (the branch before the projection's bias: the part
    that a gain scales).
    """
    base = getattr(model, "bert", model).eval()
    batch = {k: v.to(base.device) for k, v in batch.items()}
    real = batch["attention_mask"].bool()
    if states is None:
        states = base(**batch, output_hidden_states=True).hidden_states
    sequence = base.encoder.sequence(states[0], batch["attention_mask"])
    found = []
    for layer, state in zip(base.encoder.layer, states):
        sublayer: MixingSublayer = layer.attention
        mixed = sublayer.self(state, sequence)
        if sublayer.gain is not None:
            mixed = mixed * sublayer.gain
        dense = getattr(sublayer.output, "dense", None)
        unbiased = mixed @ dense.weight.T if dense is not None else mixed
        branch = unbiased + dense.bias if dense is not None else mixed
        found.append({"residual": state[real], "unbiased": unbiased[real], "branch": branch[real]})
    return found


def rms(x: torch.Tensor) -> float:
    """Root mean square over all elements."""
    return float(x.double().pow(2).mean().sqrt())


@torch.no_grad()
def set_gain(teacher: Teacher, student: FNetBertPreTrainedModel, batch: dict[str, torch.Tensor]) -> list[float]:
    """Start each gain so that the mixing branch has the RMS of the teacher's attention branch, layer by layer.

    Both are measured before the projection's bias, on the teacher's own states (what the copied weights are used to).
    Returns the gains set, one a layer with a gain.
    """
    reference, _ = build_student(teacher, "bert", head="none")
    base = getattr(student, "bert", student)
    states = reference(**batch, output_hidden_states=True).hidden_states
    gains = []
    for layer, theirs, ours in zip(base.encoder.layer, branches(reference, batch, states),
                                   branches(base, batch, states)):
        if layer.attention.gain is not None:
            layer.attention.gain.mul_(rms(theirs["unbiased"]) / rms(ours["unbiased"]))
            gains.append(float(layer.attention.gain.mean()))
    return gains


def sentence_batch(teacher: Teacher, data: TaskData, count: int, max_length: int = 512) -> dict[str, torch.Tensor]:
    """The first `count` training examples, tokenised and padded: `[count, seq]` each. Labels are not used."""
    return tokenised(teacher, [list(data.train[:count][column]) for column in data.task.columns], max_length)


def tokenised(teacher: Teacher, texts: list[list[str]], max_length: int = 512) -> dict[str, torch.Tensor]:
    """Sentences, or pairs in two lists, as a batch: `[sentences, seq]` each, padded to the longest."""
    max_length = min(max_length, teacher.config.max_position_embeddings)
    return dict(teacher.tokenizer(*texts, truncation=True, max_length=max_length, padding=True, return_tensors="pt"))


def verify(teacher: Teacher, student: nn.Module, report: Transfer) -> dict[str, int]:
    """Compare every copied tensor with the teacher's, bit by bit, and both models' tensors with the table.

    Returns counts. Raises RuntimeError if a copy differs or a tensor has no fate or several.
    """
    theirs, ours = teacher.state, student.state_dict()
    table = report.table()
    copied = list(table[table["fate"] == "copied"]["tensor"])
    unequal = [name for name in copied if not torch.equal(theirs[name], ours[name])]
    if unequal:
        raise RuntimeError(f"transfer: {len(unequal)} copies differ, the first is {unequal[0]}")
    in_student = table[table["fate"].isin(["copied", "new"])]["tensor"]
    in_teacher = table[(table["fate"] != "new") | table["tensor"].isin(theirs)]["tensor"].drop_duplicates()
    if sorted(in_student) != sorted(ours) or sorted(in_teacher) != sorted(theirs):
        raise RuntimeError("transfer: the table does not account for every tensor once")
    return {"copied": len(copied), "equal": len(copied), "student": len(ours), "teacher": len(theirs)}


def save(student: nn.Module, teacher: Teacher, folder: str) -> None:
    """The student and its tokenizer, for `from_pretrained`; a relative folder is one of the project's root."""
    student.save_pretrained(find_root() / folder)
    teacher.tokenizer.save_pretrained(find_root() / folder)


def write_record(params: TransferParams, teacher: Teacher, data: TaskData, report: Transfer,
                 effects: pd.DataFrame) -> Path:
    """A record of stage `transfer`: what went where, and what the swap did to the hidden states."""
    decisive = {"groups": list(report.groups), "sentences": params.sentences,
                "effects": list(dict.fromkeys(effects["model"]))}
    run_id = make_run_id("transfer", params.task, params.model, params.seed, decisive, data.record.fingerprint,
                         teacher.fingerprint)
    store = RecordStore(results_folder(params.results, data.record.source))
    if store.get(run_id) is None:
        time = now()
        store.write(Record(
            run_id=run_id, stage="transfer", status="finished", params=decisive, seed=params.seed, task=params.task,
            model=params.model, teacher=teacher.record(), data=data.record, code=code(), env=environment("cpu", "fp32"),
            transfer={**report.record(), "effects": effects.to_dict("records")}, started=time, ended=time))
    return store.path(run_id)
