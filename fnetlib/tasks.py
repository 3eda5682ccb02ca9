"""The nine GLUE tasks (Wang 2018) from one table, and where their examples come from."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from datasets import Dataset
from huggingface_hub import constants, snapshot_download

from . import records, synthetic
from .hub import banner, from_hub
from .params import ParameterError
from .provenance import find_root

HUB_NAME = "nyu-mll/glue"
HUB_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
FOLDER_VARIABLE = "FNETLIB_GLUE_DIR"
SOURCES = f"auto, hub, glue, synthetic, or a folder of <task>/<split>.parquet ({FOLDER_VARIABLE} sets it too)"

# Train splits that stand in for official ones in a data folder: <folder>/<name>/train.parquet.
RECONSTRUCTIONS = {
    "qnli": ("qnli_squad", "trained on a reconstruction of QNLI's train split from SQuAD 1.1, evaluated on the "
                           "official validation split"),
}


@dataclass(frozen=True)
class Task:
    """columns: the one or two texts. labels: names in the Hub's integer order; empty for regression.

    metrics: what is computed, the headline metric first. validation: split names, the headline's first.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    validation: tuple[str, ...] = ("validation",)

    @property
    def headline(self) -> str:
        return self.metrics[0]

    @property
    def regression(self) -> bool:
        return not self.labels

    @property
    def num_labels(self) -> int:
        return max(len(self.labels), 1)


_ENTAILS = ("entailment", "not_entailment")
TASKS: dict[str, Task] = {task.name: task for task in (
    Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation", "accuracy")),
    Task("sst2", ("sentence",), ("negative", "positive"), ("accuracy",)),
    Task("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("f1", "accuracy")),
    Task("stsb", ("sentence1", "sentence2"), (), ("pearson", "spearmanr")),
    Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy")),
    Task("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), ("accuracy",),
         ("validation_matched", "validation_mismatched")),
    Task("qnli", ("question", "sentence"), _ENTAILS, ("accuracy",)),
    Task("rte", ("sentence1", "sentence2"), _ENTAILS, ("accuracy",)),
    Task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
)}


@dataclass(frozen=True)
class TaskData:
    """A task's examples: `train`, one data set per validation split, and what a record says about them."""

    task: Task
    train: Dataset
    validation: dict[str, Dataset]
    record: records.Data = field(repr=False)

    @property
    def title(self) -> str:
        """The task's name for titles; says so where the examples are synthetic."""
        return f"{self.task.name} ({'SYNTHETIC, not GLUE' if self.record.source == 'synthetic' else 'GLUE'})"

    def head(self, count: int = 4) -> pd.DataFrame:
        """The first training examples, labels by name."""
        shown = self.train.select(range(min(count, len(self.train)))).to_pandas()[[*self.task.columns, "label"]]
        if not self.task.regression:
            shown["label"] = [self.task.labels[int(i)] for i in shown["label"]]
        return shown


def load_task(name: str, source: str = "auto", train_size: int = 0, eval_size: int = 0) -> TaskData:
    """Examples of a GLUE task; a size of 0 means all, else the first of a fixed shuffle.

    Raises ParameterError, one line, where the task or the source is unknown or the data is not there or not right.
    """
    if name not in TASKS:
        raise ParameterError(f"task: {name!r} is not one of: {', '.join(TASKS)}")
    task, kind, folder = TASKS[name], *resolve_source(source)
    if kind == "auto":
        try:
            kind, splits, note = "hub", _from_hub(task), ""
        except ParameterError:
            banner(f"data: no {FOLDER_VARIABLE}, no Hub: {name} is SYNTHETIC here, its scores are not GLUE scores")
            kind, splits, note = "synthetic", _synthetic(task), ""
    elif kind == "hub":
        splits, note = _from_hub(task), ""
    elif kind == "synthetic":
        splits, note = _synthetic(task), "synthetic examples, not GLUE"
    else:
        splits, note = _from_folder(task, folder)
    splits = {split: _take(data, train_size if split == "train" else eval_size) for split, data in splits.items()}
    for split, data in splits.items():
        _check(task, split, data)
    record = records.Data(
        source=kind, revision=HUB_REVISION if kind == "hub" else None, fingerprint=_fingerprint(task, splits),
        sizes={split: len(data) for split, data in splits.items()},
        note="synthetic examples, not GLUE" if kind == "synthetic" else note)
    return TaskData(task, splits["train"], {s: splits[s] for s in task.validation}, record)


def resolve_source(source: str) -> tuple[str, Path | None]:
    """`auto`, `glue`, `hub`, `synthetic` or a folder -> (kind, folder). `glue` is real GLUE, wherever it is."""
    if source in ("auto", "glue"):
        folder = os.environ.get(FOLDER_VARIABLE)
        return ("folder", Path(folder)) if folder else ("auto" if source == "auto" else "hub", None)
    if source in ("hub", "synthetic"):
        return source, None
    if not Path(source).is_dir():
        raise ParameterError(f"data: {source!r} is not one of: {SOURCES}")
    return "folder", Path(source)


def _from_hub(task: Task) -> dict[str, Dataset]:
    try:
        files = from_hub(lambda: _hub_files(task), f"data {HUB_NAME!r} ({task.name})")
    except FileNotFoundError as error:
        raise ParameterError(f"{error}; accepted: {SOURCES}") from None
    return {split: _read(*paths) for split, paths in files.items()}


def _hub_files(task: Task) -> dict[str, list[Path]]:
    """The pinned revision's parquet files of a task, downloaded where the Hub answers, else as the cache has them.

    Not datasets.load_dataset: without the Hub that takes whatever revision it prepared last, and none of files that
    were only downloaded. Raises FileNotFoundError where a split is not there whole.
    """
    splits = ("train", *task.validation)
    folder = Path(snapshot_download(
        HUB_NAME, repo_type="dataset", revision=HUB_REVISION, local_files_only=constants.HF_HUB_OFFLINE,
        allow_patterns=[f"{task.name}/{split}-*.parquet" for split in splits]))
    files = {split: sorted((folder / task.name).glob(f"{split}-*.parquet")) for split in splits}
    for split, paths in files.items():
        if not paths or int(paths[0].stem.rpartition("-of-")[2]) != len(paths):
            raise FileNotFoundError(f"revision {HUB_REVISION[:10]} lacks {task.name}/{split}")
    return files


def _synthetic(task: Task) -> dict[str, Dataset]:
    return {split: Dataset.from_dict(synthetic.generate(task.name, split)) for split in ("train", *task.validation)}


def _from_folder(task: Task, folder: Path) -> tuple[dict[str, Dataset], str]:
    paths = {split: folder / task.name / f"{split}.parquet" for split in ("train", *task.validation)}
    note = ""
    if not paths["train"].is_file() and task.name in RECONSTRUCTIONS:
        stand_in, note = RECONSTRUCTIONS[task.name]
        paths["train"] = folder / stand_in / "train.parquet"
    for path in paths.values():
        if not path.is_file():
            raise ParameterError(f"data: no {path.parent.name}/{path.name} in folder {folder}")
    return {split: _read(path) for split, path in paths.items()}, note


def _read(*paths: Path) -> Dataset:
    try:
        return Dataset.from_parquet([str(path) for path in paths])
    except Exception as error:  # pyarrow's and datasets' own kinds: empty, cut short, not parquet
        raise ParameterError(f"data: {paths[0]} is empty or not a parquet file ({type(error).__name__})") from None


def _take(data: Dataset, size: int) -> Dataset:
    return data if not size or size >= len(data) else data.shuffle(seed=0).select(range(size))


def _check(task: Task, split: str, data: Dataset) -> None:
    missing = [c for c in (*task.columns, "label") if c not in data.column_names]
    if missing:
        raise ParameterError(f"data: {task.name}/{split} lacks column {missing[0]!r}; it has: {', '.join(data.column_names)}")
    if not len(data):
        raise ParameterError(f"data: {task.name}/{split} is empty")
    labels = data["label"][:]  # at once: one by one a large task takes seconds
    low, high = min(labels), max(labels)
    if task.regression and not 0 <= low <= high <= 5:
        raise ParameterError(f"data: {task.name}/{split} has scores outside 0 to 5 ({low} to {high})")
    if not task.regression and not 0 <= low <= high < task.num_labels:
        raise ParameterError(
            f"data: {task.name}/{split} has labels {low} to {high}, expected 0 to {task.num_labels - 1} "
            "(a test split without labels?)")


def _fingerprint(task: Task, splits: dict[str, Dataset]) -> str:
    """Over the columns that are used, so that other files with the same examples have the same fingerprint."""
    digest = hashlib.sha256()
    for split in sorted(splits):
        columns = [splits[split][c][:] for c in (*task.columns, "label")]
        digest.update(split.encode())
        for row in zip(*columns):
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:16]


def results_folder(results: str, source: str) -> Path:
    """The folder of a parameter `results`; synthetic data and GLUE never share one.

    Raises ParameterError where the folder holds records of the other kind.
    """
    kind = "synthetic" if source == "synthetic" else "glue"
    folder = find_root() / (f"results/local-{kind}" if results == "auto" else results)
    for other in records.RecordStore(folder).all():
        if other.data and (other.data.source == "synthetic") != (source == "synthetic"):
            raise ParameterError(f"results: {results} holds records of {other.data.source} data, this run's are {source}; "
                                 "choose another folder")
    return folder
