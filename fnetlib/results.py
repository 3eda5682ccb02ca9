"""A results folder, read for the report: its records, what kind of data they saw, and one row a cell of the grid."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .config import RECIPES, REPAIRS
from .params import EXTRAS, PRECISIONS, TASKS
from .plan import current
from .presets import Preset, load_preset
from .provenance import find_root
from .records import Record, RecordError, RecordStore, label, solo_minutes
from .statistics import recovery, summarise

GROUP = ["training", "teacher"]  # what one table compares: the same training recipe, from the same teacher
CELL = [*GROUP, "task", "label"]
SOLO = "solo"  # the training recipe of runs that measure speed, alone on the device; their scores mean nothing
GRID = "_grid"  # ends the name of the training recipe of runs that a grid's values are chosen by
_ORDER = ("bert", "fnet-naive", "fnet-paper", "fnet-no-projection", "fnet-no", "fnet", "fnet-calibrated", "fnet+filter",
          "fnet+gated", "fnet+aft", "fnet+taylor", "hybrid", "bound")
_TASK_TITLES = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP", "mnli": "MNLI",
                "qnli": "QNLI", "rte": "RTE", "wnli": "WNLI"}
_METRIC_TITLES = {"matthews_correlation": "MCC", "accuracy": "accuracy", "f1": "F1", "pearson": "Pearson r",
                  "spearmanr": "Spearman r", "pearson_spearman": "mean of Pearson and Spearman r"}


class ResultsError(RecordError):
    """A results folder that no report can be made of; one line, shown without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class NoRecords(ResultsError):
    pass


class MixedData(ResultsError):
    pass


def data_tag(records: Iterable[Record]) -> str:
    """`synthetic` or nothing: what every title, table and file name made of these records must say.

    Raises MixedData where synthetic and GLUE records lie together: no number may come from both.
    """
    records = [record for record in records if record.data]
    synthetic = [record for record in records if record.data.source == "synthetic"]
    real = [record for record in records if record.data.source != "synthetic"]
    if synthetic and real:
        raise MixedData(f"synthetic and GLUE records lie in one folder ({synthetic[0].run_id} beside "
                        f"{real[0].run_id}); move one kind to a folder of its own")
    return "synthetic" if synthetic else ""


def tagged(title: str, tag: str) -> str:
    """A title that says so where the data is synthetic."""
    return f"{title} ({tag.upper()} data, not GLUE)" if tag else title


@dataclass
class Results:
    """`finetune`: one row a run, see RecordStore.frame; models that differ in a setting have different labels.

    `transfer` and `adapt` are the records of 02_transfer: swaps as they are, and models trained on with text.
    """

    folder: Path
    name: str
    preset: Preset
    finetune: pd.DataFrame
    efficiency: list[Record]
    tag: str
    transfer: list[Record] = field(default_factory=list)
    adapt: list[Record] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    earlier: int = 0  # runs from earlier weights of a teacher that has been trained again since

    @functools.cached_property
    def scored(self) -> pd.DataFrame:
        """The rows of `finetune` whose scores are results.

        Not those of runs that measure speed or choose among a grid's points, nor of a BERT that was run only to judge
        the refreshed teacher it comes from: tables of their own show them.
        """
        runs = where(self.finetune, lambda r: r.training != SOLO and not is_grid(r.training))
        refreshed = {refreshed_fingerprint(record) for record in self.adapt}
        models: dict[tuple, set[str]] = {}
        for r in runs.itertuples():
            models.setdefault((r.training, r.teacher), set()).add(r.model)
        return where(runs, lambda r: models[r.training, r.teacher] != {"bert"} or not r.record.teacher
                     or r.record.teacher.fingerprint not in refreshed)

    @functools.cached_property
    def reported(self) -> pd.DataFrame:
        """The rows of `scored` that the tables about quality compare: without the ablation's points between recipes."""
        return where(self.scored, lambda r: not is_ablation(r.record))

    @functools.cached_property
    def primary(self) -> pd.DataFrame:
        """The rows of `reported` without those that repeat a recipe in another precision."""
        return one_precision(self.reported)

    @property
    def runs(self) -> list[Record]:
        """The records for the curves."""
        return list(self.primary.record)

    def stage(self, name: str) -> list[Record]:
        """The records of another stage: what 04_efficiency measures beside whole models (`mixing`, `fit`, `onnx`), `placement`."""
        return RecordStore(self.folder).all(name)

    def keep(self, item: Any, name: str = "") -> Any:
        """Write a table (.md, and .csv unless nothing was measured) or a figure (.png) where the report looks for it; returns it to be shown.

        The file is called synthetic exactly where the title says so: speed is measured on no data set.
        """
        is_figure = hasattr(item, "savefig")
        title = item.get_suptitle() if is_figure else item.title
        stem = (name or item.name) + (f"-{self.tag}" if self.tag and self.tag.upper() in title else "")
        if is_figure:
            path = self.folder / "figures" / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            item.savefig(path, dpi=150, metadata={"Software": None})
            item.set_layout_engine("none")  # laid out by now: showing it does not do that again
            paths = [path]
        else:
            texts = {".md": item.markdown()} | ({".csv": item.data.to_csv(index=False)} if len(item.data.columns) else {})
            paths = [write_text(self.folder / "tables" / f"{stem}{end}", text) for end, text in texts.items()]
        self.written += [path for path in paths if path not in self.written]
        return item


def once(compute: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a Results (and of more that is hashable), computed once for each, as a cached property is: all who ask share
    what it returns, and must not change it."""
    @functools.wraps(compute)
    def shared(results: Results, *more: Any) -> Any:
        kept = vars(results).setdefault("_computed", {})
        if (compute, *more) not in kept:
            kept[compute, *more] = compute(results, *more)
        return kept[compute, *more]

    return shared


def load(preset: str, results: str | Path = "auto") -> Results:
    """Read every record of a preset's folder. Raises NoRecords, MixedData or RecordError, one line each."""
    wanted = load_preset(preset)
    root = find_root()
    folder = root / (wanted.results if str(results) == "auto" else results)
    store = RecordStore(folder)
    finetune, efficiency, transfer = store.frame("finetune"), store.all("efficiency"), store.all("transfer")
    if finetune.empty and not efficiency:
        raise NoRecords(f"{shown_paths([folder / 'runs'])}: no fine-tuning or efficiency records; "
                        f"`make report PRESET={preset}` makes them")
    adapt = store.all("adapt")
    kept = {record.run_id for record in current(finetune.record, adapt)}
    earlier = [r.record.teacher is not None and r.run_id not in kept for r in finetune.itertuples()]
    finetune = finetune.assign(teacher=[f"{r.teacher} (weights {r.record.teacher.fingerprint[:4]})" if old else r.teacher
                                        for r, old in zip(finetune.itertuples(), earlier)])
    students = {record.adapted.run_id for record in finetune.record if record.adapted}
    minutes = {record.run_id: solo_minutes(record, adapt) for record in adapt if record.run_id in students}
    counts = Counter(record.adapted.run_id for record in finetune.record if record.adapted)
    own = differences([record for record in adapt if record.run_id in students], minutes, counts)
    runs = [with_minutes(record, minutes, own) for record in finetune.record]
    finetune = finetune.assign(record=runs, minutes=[r.adapted.minutes if r.adapted else 0.0 for r in runs])
    runs = _ordered(finetune.assign(label=labels(runs, finetune.teacher), note=[data_note(record) for record in runs]))
    tag = data_tag([*runs.record, *transfer])
    return Results(folder, preset, wanted, runs, efficiency, tag, transfer, adapt, earlier=sum(earlier))


def with_minutes(record: Record, minutes: dict[str, float], own: dict[str, str]) -> Record:
    """A fine-tuning run with the minutes of its student's adaptation (run_id -> minutes) by what is known today: the pace alone on
    the device may have been measured since. own: run_id -> what tells it from another student, see `differences`."""
    if record.adapted is None or record.adapted.run_id not in minutes:
        return record
    run_id = record.adapted.run_id
    known = {"minutes": minutes[run_id], "own": own.get(run_id, "")}
    return record.model_copy(update={"adapted": record.adapted.model_copy(update=known)})


def differences(students: list[Record], minutes: dict[str, float], counts: dict[str, int]) -> dict[str, str]:
    """run_id -> ` [adapt: learning_rate=0.0001]` for adaptations that differ in more than the seed from another of the same teacher, model,
    objective and budget: they are other students. The one that most runs start from, of two the older, keeps the plain
    name."""
    main: dict[tuple, Record] = {}
    found = {}
    for record in sorted(students, key=lambda record: (-counts[record.run_id], record.started, record.run_id)):
        both = bool(record.params.get("logits_weight"))
        budget = record.params.get("minutes") or minutes[record.run_id]  # one budget is not as many minutes on every device
        first = main.setdefault((record.teacher.fingerprint, record.model, record.params["adapt"], both, budget), record)
        changed = {name: record.params.get(name) for name in {**first.params, **record.params} if record.params.get(name) != first.params.get(name)}
        if record.data and first.data and record.data.fingerprint != first.data.fingerprint:
            changed["text"] = record.data.fingerprint
        if changed:
            found[record.run_id] = f" [adapt: {', '.join(f'{name}={value}' for name, value in changed.items())}]"
    return found


def data_note(record: Record) -> str:
    """What a reader must know of the data and a title does not say: that it is synthetic, titles do."""
    return "" if record.data is None or record.data.source == "synthetic" else record.data.note


def write_text(path: Path, text: str) -> Path:
    """Write under a temporary name, then rename: a reader sees the old text or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def settings(record: Record) -> dict[str, Any]:
    """What must be equal for two runs of a model to be repetitions of one another: all but the seed."""
    return {
        **{name: value for name, value in record.params.items() if name not in ("seed", "task", "model", "training")},
        "method": record.adapted.method if record.adapted else None,
        "own": record.adapted.own if record.adapted else None,
        "data": record.data.fingerprint if record.data else None,
        "weights": record.teacher.fingerprint if record.teacher else None,
    }


def labels(records: list[Record], teachers: Iterable[Any] | None = None) -> list[str]:
    """Names for tables. Runs that differ in more than the seed are no repetitions: they get what differs.

    So `fnet` trained for 3 and for 5 epochs under one training recipe is `fnet [epochs=3]` and `fnet [epochs=5]`.
    teachers: the names that the records' teachers are shown under; None: their own.
    """
    names = [label(record) for record in records]
    groups: dict[tuple, list[int]] = {}
    teachers = list(teachers) if teachers is not None else [r.teacher.name if r.teacher else None for r in records]
    for i, (record, teacher) in enumerate(zip(records, teachers, strict=True)):
        groups.setdefault((record.training, teacher, record.task, names[i]), []).append(i)
    for indices in groups.values():
        found = {i: settings(records[i]) for i in indices}
        keys = dict.fromkeys(key for values in found.values() for key in values)
        differing = [key for key in keys if len({repr(values.get(key)) for values in found.values()}) > 1]
        for i, values in found.items():
            if differing:
                names[i] += f" [{', '.join(f'{key}={_setting(values, key)}' for key in differing)}]"
    return names


OWN_SETTINGS = {"distill_rate": "learning_rate", "expert_rate": "learning_rate", "expert_batch_size": "batch_size", "expert_epochs": "epochs"}


def _setting(values: dict[str, Any], key: str) -> Any:
    """What a parameter was; a default is no part of a record, and task distillation without settings of its own has the run's."""
    value = values.get(key, EXTRAS.get(key))
    return value or values.get(OWN_SETTINGS[key]) if key in OWN_SETTINGS else value


def where(runs: pd.DataFrame, keep: Callable[[Any], bool]) -> pd.DataFrame:
    """The rows for which `keep(row)` is true, numbered anew; an empty frame keeps its columns."""
    return runs[np.fromiter(map(keep, runs.itertuples()), bool, len(runs))].reset_index(drop=True)


def one_precision(runs: pd.DataFrame) -> pd.DataFrame:
    """Without the runs that repeat a recipe in another precision, as `study_bf16` does `study`."""
    trainings = set(runs.training)
    return where(runs, lambda r: precision_pair(r.training, trainings) is None)


def repairs(choices: dict[str, Any]) -> frozenset[str]:
    """Names of the repairs (config.REPAIRS) that a recipe's config choices have."""
    return frozenset(name for name, (choice, with_it, _) in REPAIRS.items() if choices.get(choice) == with_it)


def design(record: Record) -> frozenset[str] | None:
    """The repairs of a run whose every layer is a Fourier mixer: a point of the ablation.

    None for all else: attention somewhere, refitted projections, trained on with text, choices that are not recorded.
    """
    choices = record.params.get("recipe") or {}
    if set(choices.get("mixers", ())) != {"fourier"} or "calibration_sentences" in record.params or record.adapted:
        return None
    return repairs(choices)


NAMED_DESIGNS = {name: repairs(RECIPES[name]) for name in ("fnet-naive", "fnet-paper", "fnet")}


def is_ablation(record: Record) -> bool:
    """Whether a run is a point of the ablation that lies between the recipes with names of their own."""
    point = design(record)
    return point is not None and point not in NAMED_DESIGNS.values()


def is_grid(training: str | None) -> bool:
    return str(training).endswith(GRID)


def precision_pair(training: str | None, trainings: Iterable[str | None]) -> tuple[str, str] | None:
    """(`study`, `bf16`) for `study_bf16` where `study` is among the trainings: one recipe in another precision."""
    base, _, precision = str(training).rpartition("_")
    return (base, precision) if precision in PRECISIONS and base in set(trainings) else None


def refreshed_fingerprint(record: Record) -> str | None:
    """Of an adapt record: the fingerprint that fine-tuning runs of its outcome have as their teacher's."""
    return ((record.transfer or {}).get("result") or {}).get("fingerprint")


def recipe_of(label: str) -> str:
    """`fnet@2min [epochs=3]` -> `fnet`, `bert+task+edits` -> `bert`."""
    return re.split(r"[@ ]|\+task\b", label)[0]


def model_key(label: str) -> tuple:
    """Sorts models as the story goes: BERT, the naive swaps, the repaired ones, hybrids, the bound.

    Recipes with repairs added or left out stand with the recipe they come from, fewest repairs first.
    """
    base = recipe_of(label)
    places = [i for i, name in enumerate(_ORDER) if re.match(rf"{re.escape(name)}($|[-+])", base)]
    place = max(places, key=lambda i: len(_ORDER[i]), default=len(_ORDER))
    numbers = [float(x) for x in re.findall(r"\d+(?:\.\d+)?", label)]
    return place, base.count("+") - base.count("-no-"), base, numbers, label


def training_key(name: str | None) -> tuple:
    """Sorts training recipes: the study's, its variants, the tuned one, others."""
    known = {"study": 0, "tuned": 2}
    return known.get(str(name), 1 if str(name).startswith("study_") else 3), str(name)


def natural(name: Any) -> tuple:
    """Sorts `minilm-mlm-500` before `minilm-mlm-2000`."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(name)))


def _ordered(runs: pd.DataFrame) -> pd.DataFrame:
    keys = [(training_key(r.training), natural(r.teacher), TASKS.index(r.task), model_key(r.label), r.seed)
            for r in runs.itertuples()]
    order = sorted(range(len(runs)), key=keys.__getitem__)
    return runs.iloc[order].reset_index(drop=True)


def chance(group: pd.DataFrame) -> float | None:
    """The best constant predictor's headline value, as the runs stored it."""
    stored = [r.metrics.validation.get("chance") for r in group.record if r.metrics]
    return next((value for value in stored if value is not None), None)


def cells(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per (training, teacher, task, model): scores over seeds, recovery, and every run that went wrong.

    `n` counts the runs with a score; `runs` counts all. Collapsed runs (one class predicted) have a score and count.
    """
    rows = [_cell(dict(zip(CELL, key)), group) for key, group in runs.groupby(CELL, dropna=False, sort=False)]
    frame = pd.DataFrame(rows, columns=[*CELL, *_CELL_VALUES])
    bert = {(r.training, r.teacher, r.task, r.label): r.mean for r in frame.itertuples()}
    frame["recovery"] = [recovery(_value(r.mean), _bert(bert, r), _value(r.chance)) for r in frame.itertuples()]
    return frame


_CELL_VALUES = ["metric", "chance", "mean", "sd", "n", "low", "high", "best_mean", "best_sd", "runs", "degenerate",
                "diverged", "failed", "note"]


def _cell(key: dict[str, Any], group: pd.DataFrame) -> dict[str, Any]:
    score, best = summarise(group["last"]), summarise(group["best"])
    return {
        **key, "metric": next(iter(group.metric.dropna()), None), "chance": chance(group),
        "mean": score.mean, "sd": score.sd, "n": score.n, "low": score.low, "high": score.high,
        "best_mean": best.mean, "best_sd": best.sd, "runs": len(group),
        "degenerate": int((group.degenerate == True).sum()),  # noqa: E712 (None where a run has no metrics)
        "diverged": int((group.status == "diverged").sum()), "failed": int((group.status == "failed").sum()),
        "note": notes_of(group),
    }


def _value(number: Any) -> float | None:
    return None if number is None or pd.isna(number) else float(number)


def _bert(means: dict[tuple, Any], row: Any) -> float | None:
    """BERT's mean for a cell: with the same settings where there are several BERTs, else the only one there is."""
    suffix = row.label[row.label.index(" ["):] if " [" in row.label else ""
    group = (row.training, row.teacher, row.task)
    berts = {key[3]: value for key, value in means.items()
             if key[:3] == group and (key[3] == "bert" or key[3].startswith("bert ["))}
    if f"bert{suffix}" in berts:
        return _value(berts[f"bert{suffix}"])
    return _value(next(iter(berts.values()))) if len(berts) == 1 else None


def task_title(task: str, notes: Iterable[str] = ()) -> str:
    """`QNLI`, or `QNLI*` where a footnote must be read (a train split that is a reconstruction)."""
    return _TASK_TITLES.get(task, task) + ("*" if any(notes) else "")


def metric_title(metrics: Iterable[str | None]) -> str:
    """The first metric named, as tables call it; `score` where every run failed."""
    name = next((m for m in metrics if isinstance(m, str)), "score")
    return _METRIC_TITLES.get(name, name.replace("_", " "))


def notes_of(group: pd.DataFrame) -> str:
    """The notes that runs of a cell carry, in one line."""
    return "; ".join(sorted({note for note in group.note if note}))


def footnotes(runs: pd.DataFrame) -> list[str]:
    """`* QNLI: note` for every task whose data a reader must know something about."""
    pairs = runs[runs.note != ""][["task", "note"]].drop_duplicates()
    return [f"\\* {task_title(task)}: {note}" for task, note in sorted(zip(pairs.task, pairs.note), key=str)]


def shown_paths(paths: Iterable[Path]) -> str:
    """Paths, one a line, from the project's root where they lie under it."""
    root = find_root()
    return "\n".join(str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths)
