"""Records: one immutable JSON file a run, written atomically, validated on write and on read.

A record is the only source of a number in this project. It holds every parameter, the seed, the data's
fingerprint, the versions, the hardware and the code's commit, so that any cell of any table can be traced.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SCHEMA_VERSION = 1

Stage = Literal["transfer", "adapt", "placement", "finetune", "efficiency", "mixing", "onnx", "fit"]
Status = Literal["finished", "diverged", "failed"]


class RecordError(RuntimeError):
    """A record is corrupt, of another schema, or would be overwritten; the message names the file."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Part):
    """Where the examples came from."""

    source: Literal["hub", "folder", "synthetic"]
    revision: str | None = Field(description="Hub revision; None for a folder or synthetic data")
    fingerprint: str = Field(description="sha256 (16 hex digits) over the columns used, of all splits used")
    sizes: dict[str, int] = Field(description="split -> examples used")
    note: str = Field("", description="what a reader must know, e.g. that a train split is a reconstruction")


class Teacher(_Part):
    name: str
    source: Literal["hub", "folder", "package", "random"]
    fingerprint: str = Field(description="sha256 (16 hex digits) of the weights")


class Adapted(_Part):
    """What was spent on the student between the swap and this run."""

    minutes: float
    method: str
    run_id: str
    own: str = Field("", exclude=True, description="what tells this student from another of the same minutes: known beside the others only")


class Headline(_Part):
    """The task's headline metric: value after the last epoch (the score) and at the best epoch (a selection)."""

    name: str
    last: float | None
    best: float | None


class Metrics(_Part):
    headline: Headline
    validation: dict[str, float | None] = Field(description="every metric after the last epoch")
    history: list[dict[str, Any]] = Field(description="one entry an epoch: epoch, step, train_loss, eval_loss, ...")
    predicted: dict[str, int] = Field({}, description="label -> times predicted after the last epoch")
    task_teacher: float | None = Field(None, description="the headline score of the fine-tuned BERT that a run's task was distilled from")
    degenerate: bool = Field(False, description="one class (or one value) was predicted for every example")
    padding: list[dict[str, Any]] = Field(
        [], description="the headline score with every example padded to at least `padded_to` tokens (0: its own length), "
                        "and how many predictions changed; see padding.py")


class Flops(_Part):
    value: float
    method: str


class Parameters(_Part):
    total: int
    trainable: int


class Code(_Part):
    commit: str
    dirty: bool | None = Field(description="None where it cannot be known")
    source: str = Field(description="sha256 (16 hex digits) over fnetlib's source files")


class Record(_Part):
    """One run. `run_id` = stage-task-model-seed-hash(params, data fingerprint, teacher, schema version)."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    stage: Stage
    status: Status
    params: dict[str, Any]
    seed: int
    task: str | None = None
    model: str | None = None
    training: str | None = Field(None, description="name of the training recipe: study, tuned, quick, custom")
    teacher: Teacher | None = None
    adapted: Adapted | None = None
    data: Data | None = None
    metrics: Metrics | None = None
    timing: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    flops: Flops | None = None
    parameters: Parameters | None = None
    transfer: dict[str, Any] | None = None
    env: dict[str, Any]
    code: Code
    started: str
    ended: str
    error: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_schema(cls, values: Any) -> Any:
        version = values.get("schema_version", SCHEMA_VERSION) if isinstance(values, dict) else SCHEMA_VERSION
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema version {version}, this code reads {SCHEMA_VERSION}")
        return values

    @property
    def identity(self) -> str:
        """The run_id that the record's own content gives; differs from `run_id` in a tampered file."""
        return make_run_id(
            self.stage, self.task, self.model, self.seed, self.params,
            self.data.fingerprint if self.data else None, self.teacher.fingerprint if self.teacher else None,
            self.adapted.run_id if self.adapted else None,
        )


def make_run_id(
    stage: str, task: str | None, model: str | None, seed: int, params: dict[str, Any],
    data_fingerprint: str | None = None, teacher_fingerprint: str | None = None, adapted: str | None = None,
) -> str:
    """Name of a run: readable parts, then a hash of everything that decides its result.

    adapted: run_id of the adaptation that made the weights that the run starts from.
    """
    decisive = {
        "params": params, "data": data_fingerprint, "teacher": teacher_fingerprint, "schema": SCHEMA_VERSION,
        **({"adapted": adapted} if adapted else {}),  # absent otherwise, so that older runs keep their names
    }
    text = json.dumps(_finite(decisive), sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    slug = re.sub(r"[^A-Za-z0-9.@]+", "_", model or "none").strip("_")[-60:]
    return f"{stage}-{task or 'none'}-{slug}-{seed}-{digest}"


def _finite(value: Any) -> Any:
    """NaN and infinity are not JSON: a diverged loss is stored as null, its run as status `diverged`."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and not hasattr(value, "__len__"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class RecordStore:
    """The folder `<results>/runs` of records.

    Raises RecordError on a corrupt or foreign file, and where a finished record would be overwritten unasked.
    """

    def __init__(self, results: str | Path):
        self.results = Path(results)
        self.runs = self.results / "runs"

    def path(self, run_id: str) -> Path:
        return self.runs / f"{run_id}.json"

    def get(self, run_id: str) -> Record | None:
        path = self.path(run_id)
        return self.read(path) if path.exists() else None

    @staticmethod
    def read(path: str | Path) -> Record:
        path = Path(path)
        try:
            record = Record.model_validate(json.loads(path.read_text()))
        except (ValueError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise RecordError(f"{path}: not a valid record ({first}); move it away to run it again") from error
        if record.run_id != path.stem or record.run_id != record.identity:
            raise RecordError(f"{path}: content and run_id disagree (content gives {record.identity})")
        return record

    def write(self, record: Record, force: bool = False) -> Path:
        """Write to a temporary file, then publish it under its final name in one step.

        A kill at any moment leaves either no record or a whole one.
        """
        record = Record.model_validate(_finite(record.model_dump()))
        path = self.path(record.run_id)
        self.runs.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=self.runs)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(record.model_dump(mode="json"), file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            if force:
                os.replace(temporary, path)
            else:
                self._publish(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        return path

    @staticmethod
    def _publish(temporary: str, path: Path) -> None:
        try:
            os.link(temporary, path)  # fails if the name exists, also when two processes race
        except FileExistsError:
            raise RecordError(f"{path}: exists already; finished runs are kept unless forced") from None
        except OSError:  # no hard links here (Google Drive on Colab)
            if path.exists():
                raise RecordError(f"{path}: exists already; finished runs are kept unless forced") from None
            os.replace(temporary, path)

    def all(self, stage: str | None = None) -> list[Record]:
        pattern = f"{stage}-*.json" if stage else "*.json"
        return [self.read(path) for path in sorted(self.runs.glob(pattern))]

    def frame(self, stage: str | None = None) -> pd.DataFrame:
        """One row a record: flat columns for what tables and plots use, and the record itself in `record`."""
        return pd.DataFrame([_row(record) for record in self.all(stage)], columns=COLUMNS)


COLUMNS = [
    "run_id", "stage", "status", "task", "model", "label", "training", "seed", "teacher", "source", "note",
    "minutes", "metric", "last", "best", "degenerate", "parameters", "gpu", "commit", "record",
]


def choose(tried: list[Record]) -> Record | None:
    """The run with the best score after its last epoch; equal scores (all collapsed, say): the lowest evaluation loss."""
    scored = [r for r in tried if r.metrics and r.metrics.headline.last is not None]
    return max(scored, key=lambda r: (r.metrics.headline.last, -r.metrics.history[-1]["eval_loss"]), default=None)


def label(record: Record) -> str:
    """The name a model has in tables: the recipe, with its adaptation budget if it had one (`fnet@2min`), and what was distilled
    for its task beyond that, and in what it differs from another student of the same minutes (`fnet@2min+task`, `+pairs` and `+edits` with examples that nobody labelled)."""
    budget = f"@{record.adapted.minutes:g}min" if record.adapted else ""
    own = record.adapted.own if record.adapted else ""
    return f"{record.model}{budget}{''.join(f'+{part}' for part in task_distilled(record))}{own}"


def task_distilled(record: Record) -> list[str]:
    """What a run learned from a fine-tuned BERT: nothing, its `task`, or that and `pairs` and `edits`."""
    return [part for part, name in TASK_DISTILLED.items() if record.params.get(name)]


def task_minutes(record: Record, others: Iterable[Record]) -> float:
    """Minutes of task distillation, all of it: the teacher's fine-tuning, then the student's epochs on its states and on its
    predictions. 0 where nothing was distilled. By the fastest pace that was seen of its kind, alone on the device or not: sharing
    one only slows a run down, so it is an upper bound where none was alone. Models of the same layers in another order are of one
    kind: they do the same work; the teacher is one BERT whichever student it teaches, of one kind by its own batches. Of a kind
    never timed from the start: what is known."""
    if not task_distilled(record) or not record.timing or record.data is None:
        return 0.0

    def teacher(r: Record) -> list[Any]:
        return [r.task, r.env.get("device_name"), r.params.get("expert_batch_size") or r.params["batch_size"],
                *(r.params.get(name) for name in TASK_PACE)]

    def student(r: Record) -> list[Any]:
        recipe = r.params.get("recipe")
        work = {**recipe, "mixers": sorted(recipe["mixers"])} if recipe else r.model
        return [r.task, r.env.get("device_name"), r.params["batch_size"], *(r.params.get(name) for name in TASK_PACE), work, task_distilled(r)]

    parts = [("task_teacher_s", teacher, lambda r: r.params.get("expert_epochs") or r.params["epochs"]),
             ("task_states_s", student, lambda r: r.params["distill_epochs"]), ("wall_s", student, lambda r: r.params["epochs"])]
    timed = [r for r in (record, *others) if _task_timed(r)]
    total = 0.0
    for seconds, kind, epochs in parts:
        paces = [r.timing[seconds] / (epochs(r) * r.data.sizes["train"]) for r in timed if kind(r) == kind(record)]
        total += min(paces) * epochs(record) * record.data.sizes["train"] if paces else record.timing.get(seconds) or 0
    return total / 60


def _task_timed(record: Record) -> bool:
    timing = record.timing or {}
    return bool(task_distilled(record)) and record.data is not None and not timing.get("resumed") and all(
        timing.get(part) for part in ("task_teacher_s", "task_states_s", "wall_s"))


def last_errors(history: list[dict[str, Any]]) -> list[float]:
    """Every layer's error at the end of a distillation; empty where no states were matched."""
    return next((entry["layer_errors"] for entry in reversed(history) if "layer_errors" in entry), [])


TASK_DISTILLED = {"task": "distill_epochs", "pairs": "distill_pairs", "edits": "distill_edits"}
TASK_PACE = ("accumulate", "precision", "compile", "pad_to", "group_by_length", "max_length")  # what its pace depends on
PACE = ("adapt", "batch_size", "length", "shortest", "precision", "compile", "logits_weight")  # what the pace depends on


def solo_seconds(record: Record, others: Iterable[Record]) -> float | None:
    """Seconds of training that an adaptation takes alone on the device; None if no run of its kind (same model, batches and
    GPU) ever ran alone there. The pace is the fastest that was seen of its kind: sharing the device, and a start that weighs
    on a short run, only slow one down."""
    def kind(r: Record) -> list[Any]:
        return [r.model, r.env.get("device_name"), r.timing.get("processes") or 1, *(r.params.get(name) for name in PACE)]

    same = [r for r in (record, *others) if kind(r) == kind(record) and r.timing.get("steps")
            and (r is record or "freeze" not in r.params)]  # frozen weights make it faster
    if all(r.timing["shared"] for r in same):
        return None
    return record.timing["steps"] * min(r.timing["train_seconds"] / r.timing["steps"] for r in same)


def solo_minutes(record: Record, others: Iterable[Record]) -> float:
    """The budget of an adaptation in minutes: what it was given, or `solo_seconds` where that is more (a pace that was only
    reckoned) or nothing was given, to a tenth; else its own on a shared device."""
    given, alone = record.params.get("minutes", 0), solo_seconds(record, others)
    return max(given, round((alone or 0) / 60, 1)) or round(record.timing["train_seconds"] / 60, 2)


def _row(record: Record) -> dict[str, Any]:
    headline = record.metrics.headline if record.metrics else None
    return {
        "run_id": record.run_id, "stage": record.stage, "status": record.status, "task": record.task,
        "model": record.model, "label": label(record), "training": record.training, "seed": record.seed,
        "teacher": record.teacher.name if record.teacher else None,
        "source": record.data.source if record.data else None, "note": record.data.note if record.data else "",
        "minutes": record.adapted.minutes if record.adapted else 0.0,
        "metric": headline.name if headline else None, "last": headline.last if headline else None,
        "best": headline.best if headline else None,
        "degenerate": record.metrics.degenerate if record.metrics else None,
        "parameters": record.parameters.total if record.parameters else None,
        "gpu": record.env.get("device_name"), "commit": record.code.commit, "record": record,
    }
