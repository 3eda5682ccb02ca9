"""The report's tables about quality: each is numbers for a .csv, and sections as a reader sees them for a .md.

The tables about speed are in `tables_speed.py`, those about the repairs and the teacher in `tables_repair.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from . import published
from .plan import lacking_cells, lacking_students
from .results import GRID, GROUP, SOLO, Results, cells, footnotes, metric_title, model_key, tagged, task_title
from .statistics import agreement, known, paired

NONE = "–"
INTERVALS = "Brackets are 95% bootstrap intervals of the mean; with three to five seeds they are too narrow."


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    data: pd.DataFrame
    sections: dict[str, pd.DataFrame]
    notes: list[str] = field(default_factory=list)

    def markdown(self, level: int = 1) -> str:
        parts = [f"{'#' * level} {self.title}"]
        for heading, frame in self.sections.items():
            parts += [f"{'#' * (level + 1)} {heading}"] * bool(heading) + [to_markdown(frame)]
        return "\n\n".join([*parts, *self.notes]) + "\n"

    def _repr_markdown_(self) -> str:
        return self.markdown(level=3)

    def __repr__(self) -> str:
        return f"Table({self.name}: {len(self.data)} rows)"


def to_markdown(frame: pd.DataFrame) -> str:
    """A GitHub table; the columns after the first are right-aligned if they hold numbers or signs of their absence."""
    text = frame.map(lambda value: NONE if _missing(value) else str(value).replace("|", "\\|").replace("\n", " "))
    rows = [list(map(str, text.columns)), ["---"] + ["--:" if _numeric(text[c]) else "---" for c in text.columns[1:]],
            *text.values.tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _numeric(column: pd.Series) -> bool:
    return all(cell[:1] in "0123456789+-−–." for cell in column)


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """`0.312`, with a real minus; a dash where there is no number."""
    if _missing(value) or pd.isna(value):
        return NONE
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return (text.lstrip("-+") if float(text) == 0 else text).replace("-", "−")


def mean_sd(mean: float | None, sd: float | None, n: int, digits: int = 3) -> str:
    """`0.312 ± 0.010 (5)`; the spread of one run is a dash."""
    return f"{number(mean, digits)} ± {number(sd, digits)} ({n})" if n else f"{NONE} (0)"


def interval(mean: float | None, low: float | None, high: float | None, n: int) -> str:
    if not n:
        return NONE
    bounds = f" [{number(low, sign=True)}, {number(high, sign=True)}]" if n > 1 else ""
    return f"{number(mean, sign=True)}{bounds} ({n})"


def heading(training: str, teacher: str, task: str = "") -> str:
    return f"{f'{task}: ' if task else ''}training recipe `{training}`, teacher `{teacher}`"


def went_wrong(cell: Any) -> str:
    """Names what went wrong with a cell's runs: `5 of 5 predict one class`, `1 diverged`, `1 failed`."""
    parts = [f"{cell.degenerate} of {cell.runs} predict one class"] * bool(cell.degenerate)
    parts += [f"{count} of {cell.runs} {word}" for word in ("diverged", "failed") if (count := getattr(cell, word))]
    return ", ".join(parts)


def bert_is_clear(group: pd.DataFrame) -> bool | None:
    """Whether BERT beats the constant prediction by two standard deviations of its seeds; None where unknown.

    Where it does not, a share of its lead means nothing.
    """
    bert = group[group.label == "bert"].dropna(subset=["mean", "sd", "chance"])
    return bool(bert["mean"].iloc[0] - bert.chance.iloc[0] > 2 * bert.sd.iloc[0]) if len(bert) else None


def quality(results: Results) -> Table:
    """Per model and task: mean ± sd (n), recovery, best epoch, and every run that went wrong."""
    runs = results.primary
    data = cells(runs)
    sections = {}
    for (training, teacher), group in data.groupby(GROUP, sort=False, dropna=False):
        sections[heading(training, teacher)] = _quality_section(group)
    notes = ["Mean ± standard deviation over seeds (n runs) of the score after the last epoch, on the validation set. "
             "Recovery = (score − chance)/(BERT − chance), chance being the best constant prediction"
             f" ({_chances(data)}); 1 is BERT. *Best epoch* is the mean of each run's best epoch, chosen on the same "
             "validation set: a selection, shown for comparison only."]
    undefined = [f"{task_title(r.task)} ({r.training})" for r in data.itertuples()
                 if r.label == "bert" and r.n and pd.isna(r.recovery)]
    if undefined:
        notes.append(f"Recovery is undefined where BERT does not beat chance: {', '.join(undefined)}.")
    if (runs["minutes"] > 0).any():
        notes.append("*model@N min*: after at most N minutes of adaptation; the recovery table says how they are counted. Rows "
                     "with n = 1 compare objectives and are no scores to quote.")
    return Table("quality", tagged("Quality", results.tag), data, sections, notes + footnotes(runs))


def _chances(data: pd.DataFrame) -> str:
    found = data.dropna(subset="chance").drop_duplicates(["task", "chance"])
    return ", ".join(f"{task_title(r.task)} {number(r.chance)}" for r in found.itertuples()) or "not recorded"


def _quality_section(group: pd.DataFrame) -> pd.DataFrame:
    rows: dict[str, dict[str, str]] = {label: {"Model": label} for label in sorted(set(group.label), key=model_key)}
    wrong: dict[str, list[str]] = {label: [] for label in group.label}
    for task, part in group.groupby("task", sort=False):
        name = task_title(task, part.note)
        metric = metric_title(part.metric)
        for cell in part.itertuples():
            rows[cell.label] |= {f"{name} {metric}": mean_sd(cell.mean, cell.sd, cell.n),
                                 f"{name} recovery": number(cell.recovery, 2),
                                 f"{name} best epoch": number(cell.best_mean)}
            wrong[cell.label] += [f"{name}: {went_wrong(cell)}"] * bool(went_wrong(cell))
    for label, row in rows.items():
        row["What went wrong"] = "; ".join(wrong[label]) or NONE
    frame = pd.DataFrame(rows.values())
    return frame[[c for c in frame.columns if c != "What went wrong"] + ["What went wrong"]]


def runs(results: Results) -> Table:
    """Every run: one score per seed, and the csv names the record and commit behind each."""
    frame = results.finetune
    data = frame.drop(columns=["record", "minutes", "stage"]).assign(
        predicted=[str(r.metrics.predicted) if r.metrics else "" for r in frame.record],
        error=[r.error or "" for r in frame.record])
    sections = {}
    for (training, teacher, task), group in frame.groupby([*GROUP, "task"], sort=False, dropna=False):
        shown = group.assign(shown=[_point(r) for r in group.itertuples()])
        wide = shown.pivot_table(index="label", columns="seed", values="shown", aggfunc=", ".join, sort=False)
        wide = wide.reindex(index=list(dict.fromkeys(group.label)), columns=sorted(wide.columns))
        wide = wide.rename(columns=lambda seed: f"seed {seed}").reset_index(names="Model")
        wide["n"] = wide.Model.map(group.groupby("label")["last"].agg(lambda x: len(known(x))))
        sections[heading(training, teacher, task_title(task, group.note))] = wide
    notes = ["The score after the last epoch of every run, failed ones too. † the run predicts one class only. The "
             f"recipe `{SOLO}` measures speed (its scores mean nothing), those that end in `{GRID}` choose values.",
             *footnotes(frame)]
    return Table("runs", tagged("Every run", results.tag), data, sections, notes)


def _point(run: Any) -> str:
    score = number(run.last) if pd.notna(run.last) else ""
    status = "" if run.status == "finished" else run.status
    return " ".join(part for part in (score + "†" * bool(run.degenerate == True), status) if part)  # noqa: E712


def differences(results: Results, references: tuple[str, ...] = ("bert", "fnet-naive")) -> Table:
    """Differences between models at equal seeds: mean, bootstrap interval, number of pairs."""
    rows, runs = [], results.reported
    for (training, teacher, task), group in runs.groupby([*GROUP, "task"], sort=False, dropna=False):
        scores = {label: part.set_index("seed")["last"].astype(float) for label, part in
                  group.groupby("label", sort=False)}
        for label, ours in scores.items():
            rows += [{"training": training, "teacher": teacher, "task": task, "label": label, "minus": reference,
                      **vars(paired(ours, scores[reference]))}
                     for reference in references if reference in scores and label not in ("bert", reference)]
    columns = [*GROUP, "task", "label", "minus", "mean", "sd", "n", "low", "high"]
    data = pd.DataFrame(rows, columns=columns)
    starred = {task: task_title(task, part.note) for task, part in runs.groupby("task")}
    sections = {heading(*key): _differences_section(part, starred)
                for key, part in data.groupby(GROUP, sort=False, dropna=False)}
    notes = [f"Score after the last epoch, paired by seed: mean difference [interval] (pairs). {INTERVALS}",
             *footnotes(runs)]
    return Table("differences", tagged("Paired differences", results.tag), data, sections, notes)


def _differences_section(part: pd.DataFrame, titles: dict[str, str]) -> pd.DataFrame:
    rows: dict[str, dict[str, str]] = {label: {"Model": label} for label in sorted(set(part.label), key=model_key)}
    names = [f"{titles[task]} − {minus}" for task in part.task.unique() for minus in sorted(part.minus.unique())]
    for r in part.itertuples():
        rows[r.label][f"{titles[r.task]} − {r.minus}"] = interval(r.mean, r.low, r.high, r.n)
    return pd.DataFrame(rows.values(), columns=["Model", *names])


def missing(results: Results) -> Table:
    """The cells of the preset's grid that no record answers; a failed run is a record and is not missing."""
    key = ["sweep", *GROUP, "task", "model", "student", "seed"]
    wanted, lacking = results.preset.cells(), lacking_cells(results.preset, results.finetune.record, results.adapt)
    data = pd.DataFrame([[getattr(cell, name) for name in key] for cell in lacking], columns=key)
    shown = [{"Sweep": sweep, "Training": training, "Teacher": teacher, "Task": task_title(task), "Model": model, "Student": student or NONE,
              "Missing": len(part), "Seeds": ", ".join(map(str, dict.fromkeys(part.seed)))}
             for (sweep, training, teacher, task, model, student), part in data.groupby(key[:-1], sort=False)]
    sections = {"": pd.DataFrame(shown)} if shown else {}
    untrained = lacking_students(results.preset, results.adapt)
    if untrained:
        sections["Students"] = pd.DataFrame({"Student": untrained})
    notes = [f"{len(wanted) - len(data)} of {len(wanted)} runs of preset `{results.name}` are there"
             f"{'; the rest is listed above' if shown else ': none is missing'}."]
    if results.earlier:
        notes.append(f"{results.earlier} runs answer nothing here: their teacher has been trained again since. Tables show them under its "
                     "name and the fingerprint of the weights that they started from.")
    if plans := results.preset.adaptations():
        notes.append(f"{len(plans) - len(untrained)} of {len(plans)} students are there.")
    return Table("missing", tagged("Runs that are missing", results.tag), data, sections, notes)


def compared(results: Results) -> Table:
    """The 2023 study's published numbers beside ours, where they compare: its recipe, its tasks, GLUE data."""
    ours = results.reported
    ours = ours[ours.training == published.TRAINING]
    rows = []
    for row in published.study().itertuples():
        match = ours[(ours.task == row.task) & (ours.label == row.model)] if not results.tag else ours.iloc[:0]
        for teacher, group in match.groupby("teacher", sort=False):
            rows.append(_comparison(row, str(teacher), group))
    data = pd.DataFrame(rows, columns=_COMPARED).sort_values("task", kind="stable")
    sections = {f"teacher `{teacher}`": _compared_section(part)
                for teacher, part in data.groupby("teacher", sort=False)}
    return Table("published", tagged("Beside the 2023 study", results.tag), data, sections,
                 _compared_notes(results, data) + footnotes(ours))


_COMPARED = ["teacher", "task", "model", "metric", "published", "mean", "sd", "n", "difference", "check", "best_mean",
             "published_train_loss", "train_loss", "published_eval_loss", "eval_loss", "note"]


def _comparison(row: Any, teacher: str, group: pd.DataFrame) -> dict[str, Any]:
    cell = cells(group).iloc[0]
    difference = cell["mean"] - row.score if cell.n else None
    check = agreement(row.score, group["last"], row.digits) if same_teacher(teacher) else "other teacher"
    return {"teacher": teacher, "task": row.task, "model": row.model, "metric": row.metric, "published": row.score,
            "mean": cell["mean"], "sd": cell.sd, "n": cell.n, "difference": difference, "check": check,
            "best_mean": cell.best_mean, "published_train_loss": row.train_loss, "note": cell.note,
            "train_loss": average(train_loss(r) for r in group.record), "published_eval_loss": row.eval_loss,
            "eval_loss": average(eval_loss(r) for r in group.record)}


def same_teacher(name: str) -> bool:
    return name.split("/")[-1] == published.TEACHER


def average(values: Iterable[float | None]) -> float | None:
    x = known(values)
    return float(x.mean()) if len(x) else None


def train_loss(record: Any) -> float | None:
    """Mean over the whole run, as the Trainer reports it: the epochs' means have equal weight."""
    return average(e.get("train_loss") for e in record.metrics.history) if record.metrics else None


def eval_loss(record: Any) -> float | None:
    """After the last epoch."""
    return record.metrics.history[-1].get("eval_loss") if record.metrics and record.metrics.history else None


def _compared_section(part: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([{
        "Task": f"{task_title(r.task, [r.note] * bool(r.note))} {metric_title([r.metric])}", "Model": r.model,
        "Published (1 run)": number(r.published), "Ours (n)": mean_sd(r.mean, r.sd, r.n),
        "Ours, best epoch": number(r.best_mean),
        "Ours − published": number(r.difference, sign=True), "Agreement": r.check,
        "Train loss, published → ours": f"{number(r.published_train_loss)} → {number(r.train_loss)}",
        "Eval loss, published → ours": f"{number(r.published_eval_loss)} → {number(r.eval_loss)}",
    } for r in part.itertuples()])


def _compared_notes(results: Results, data: pd.DataFrame) -> list[str]:
    if results.tag:
        return ["Not compared: these records are of SYNTHETIC data, the 2023 study's are of GLUE."]
    if data.empty:
        return ["Nothing to compare: no runs of the study's recipe on its tasks here."]
    notes = [f"Published: {published.SOURCE}, one run (seed {published.SEED}), after the last epoch, teacher "
             f"{published.TEACHER}. Ours: the same training recipe, also after the last epoch."]
    if not data.teacher.map(same_teacher).all():
        notes.append("**The teacher differs**: our runs here start from another BERT, so the levels are not "
                     "expected to agree; what compares is how far each swap falls below its own BERT.")
    if data.teacher.map(same_teacher).any():
        notes.append("*agrees*: the published run lies where one more run of ours would fall (95% prediction "
                     "interval of our seeds).")
    return notes
