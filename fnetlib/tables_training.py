"""The report's tables about how models were trained: mixed precision, the tuned recipe's grid, refreshed teachers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from . import published
from .params import GRID as GRID_NAMES
from .records import Record, choose, label
from .results import (
    CELL, GRID, GROUP, Results, footnotes, is_grid, metric_title, model_key, notes_of, precision_pair, refreshed_fingerprint,
    tagged, task_title, where,
)
from .statistics import paired, summarise
from .tables import INTERVALS, Table, heading, interval, mean_sd, number


_PRECISION = [*GROUP, "task", "label", "precision", "metric", "fp32_mean", "fp32_sd", "fp32_n", "mean", "sd", "n",
              "difference", "low", "high", "pairs", "verdict", "note"]


def precision(results: Results) -> Table:
    """Recipes run again in another precision (`study_bf16` beside `study`): the difference at equal seeds, in words."""
    groups = dict(iter(results.scored.groupby(CELL, sort=False, dropna=False)))
    trainings, rows = {key[0] for key in groups}, []
    for key, group in groups.items():
        if pair := precision_pair(key[0], trainings):
            base = groups.get((pair[0], *key[1:]), group.iloc[:0])
            rows.append({**dict(zip(CELL, key)), "training": pair[0], "precision": pair[1], **_beside(group, base)})
    data = pd.DataFrame(rows, columns=_PRECISION)
    sections = {heading(training, teacher, task_title(task, part.note)): _precision_section(part)
                for (training, teacher, task), part in data.groupby([*GROUP, "task"], sort=False, dropna=False)}
    notes = ["The same recipe in mixed precision beside fp32: the score after the last epoch, and the difference to fp32 "
             f"paired by seed, mean [interval] (pairs). {INTERVALS} Verdict: *{EQUAL}* where the mean difference is at "
             "most the standard deviation of the fp32 runs over their seeds, else *differs*.", *footnotes(data)]
    if data.empty:
        notes = ["No recipe here was run in another precision beside fp32."]
    return Table("precision", tagged("Mixed precision beside fp32", results.tag), data, sections, notes)


EQUAL = "equal within the seeds' spread"


def _beside(group: pd.DataFrame, base: pd.DataFrame) -> dict[str, Any]:
    ours, theirs = (frame.set_index("seed")["last"] for frame in (group, base))
    score, fp32, change = summarise(ours), summarise(theirs), paired(ours, theirs)
    says = "unknown"
    if change.n and fp32.sd is not None:
        says = EQUAL if abs(change.mean) <= fp32.sd else "differs"
    return {"metric": metric_title(group.metric), "fp32_mean": fp32.mean, "fp32_sd": fp32.sd, "fp32_n": fp32.n,
            "mean": score.mean, "sd": score.sd, "n": score.n, "difference": change.mean, "low": change.low,
            "high": change.high, "pairs": change.n, "verdict": says, "note": notes_of(group)}


def _precision_section(part: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([{
        "Model": r.label, "Precision": r.precision,
        f"{r.metric} in fp32 (n)": mean_sd(r.fp32_mean, r.fp32_sd, r.fp32_n), f"{r.metric} (n)": mean_sd(r.mean, r.sd, r.n),
        "Difference": interval(r.difference, r.low, r.high, r.pairs),
        "Verdict": r.verdict} for r in part.itertuples()])


def precision_sentences(results: Results) -> list[str]:
    """One line a recipe, task and precision: each model's difference to fp32, the verdict, and fp32's own spread."""
    data, lines = precision(results).data, []
    for key, part in data.groupby([*GROUP, "task", "precision"], sort=False, dropna=False):
        training, teacher, task, name = key
        found = [f"{number(r.difference, sign=True)} for `{r.label}`, {r.verdict} ({number(r.fp32_sd)})"
                 for r in part.itertuples()]
        lines.append(f"- **Precision, {task_title(task, part.note)}** ({part.metric.iloc[0]}; recipe "
                     f"`{training}`, teacher `{teacher}`): {name} minus fp32 is {'; '.join(found)}.")
    return lines


_GRID = [*CELL, "seed", *GRID_NAMES, "status", "metric", "last", "best", "eval_loss", "degenerate", "chosen", "edge",
         "others_mean", "others_sd", "others_n", "note"]


def grid(results: Results) -> Table:
    """Every point of every grid, the chosen one marked, and what its values gave on the other seeds."""
    rows, sections = [], {}
    runs = where(results.finetune, lambda r: is_grid(r.training))
    runs = runs.assign(label=[label(record) for record in runs.record])
    for (training, teacher, task), group in runs.groupby([*GROUP, "task"], sort=False, dropna=False):
        points = [row for _, model in group.groupby("label", sort=False) for row in _grid_rows(results, model)]
        title = heading(training, teacher, task_title(task, group.note))
        frame = pd.DataFrame(points, columns=_GRID)
        varied = [name for name in GRID_NAMES if frame[name].nunique() > 1]
        sections |= {title: _grid_section(frame, varied), f"Chosen, {title}": _chosen_section(frame, varied)}
        rows += points
    data = pd.DataFrame(rows, columns=_GRID)
    notes = ["Every point was run once, on the same seed, and is scored after its last epoch on the validation set. ✓ "
             "marks the choice: the best score, of equal ones (all collapsed, say) the lowest evaluation loss. † the run "
             "predicts one class only. The choice's own score is a selection; *other seeds* is the result. A learning "
             "rate at the edge of the grid says that a better one may lie beyond.",
             *_strays(results, data), *footnotes(runs)]
    if data.empty:
        notes = ["No grid here: no recipe's values were chosen by trying several."]
    return Table("grid", tagged("The grid: every point, and the choice", results.tag), data, sections, notes)


def _grid_rows(results: Results, group: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a point of one model's grid."""
    best, tuned, rows = choose(list(group.record)), _tuned(results, group.iloc[0]), []
    rates = sorted({record.params["learning_rate"] for record in group.record})
    for r in group.itertuples():
        point = {name: r.record.params.get(name) for name in GRID_NAMES}
        is_best = r.record is best
        others = summarise(where(tuned, lambda t: _values(t.record) == point)["last"] if is_best else [])
        rows.append({
            **{name: getattr(r, name) for name in (*CELL, "seed", "status", "metric", "last", "best", "note")},
            **point, "degenerate": bool(r.degenerate), "chosen": is_best, "edge": _edge(point["learning_rate"], rates),
            "eval_loss": r.record.metrics.history[-1].get("eval_loss") if r.record.metrics else None,
            "others_mean": others.mean, "others_sd": others.sd, "others_n": others.n})
    return rows


def _values(record: Record) -> dict[str, Any]:
    return {name: record.params.get(name) for name in GRID_NAMES}


def _tuned(results: Results, point: Any) -> pd.DataFrame:
    """The runs that the choice was made for: the same teacher, task and model, other seeds."""
    runs = results.finetune[results.finetune.training == point.training.removesuffix(GRID)]
    return where(runs, lambda r: (r.teacher, r.task, label(r.record)) == (point.teacher, point.task, point.label))


def _edge(rate: float, rates: list[float]) -> str:
    if len(rates) == 1:
        return "the only one tried"
    return {rates[0]: "lower edge", rates[-1]: "upper edge"}.get(rate, "inside")


def _strays(results: Results, data: pd.DataFrame) -> list[str]:
    """Runs of a tuned recipe whose values are not the grid's choice (the grid was changed since, say)."""
    found = []
    for r in data[data.chosen.astype(bool)].itertuples():
        point = {name: getattr(r, name) for name in GRID_NAMES}
        if stray := sum(_values(record) != point for record in _tuned(results, r).record):
            found.append(f"{task_title(r.task)}, `{r.label}`: {stray} runs of `{r.training.removesuffix(GRID)}` have "
                         "other values than the choice and are not counted here.")
    return found


def _point_title(row: Any, varied: list[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {getattr(row, name):g}" for name in varied) or "the only point"


def _grid_section(frame: pd.DataFrame, varied: list[str]) -> pd.DataFrame:
    """Points down, models across."""
    rows: dict[str, dict[str, str]] = {}
    for r in frame.sort_values(varied or "label", kind="stable").itertuples():
        score = number(r.last) + "†" * r.degenerate if r.status == "finished" else r.status
        rows.setdefault(_point_title(r, varied), {})[r.label] = score + " ✓" * r.chosen
    return pd.DataFrame([{"Point": point, **by_model} for point, by_model in rows.items()],
                        columns=["Point", *sorted(set(frame.label), key=model_key)])


def _chosen_section(frame: pd.DataFrame, varied: list[str]) -> pd.DataFrame:
    metric = metric_title(frame.metric)
    rows = []
    for name, model in frame.groupby("label", sort=False):
        best = next((r for r in model.itertuples() if r.chosen), None)
        rows.append({"Model": name} | ({} if best is None else {
            "Choice": _point_title(best, varied), "Learning rate in the grid": best.edge,
            f"{metric}, seed {best.seed}": number(best.last),
            f"{metric}, other seeds (n)": mean_sd(best.others_mean, best.others_sd, best.others_n)}))
    return pd.DataFrame(rows)


_TEACHERS = ["teacher", "steps", "tokens", "seconds", "shared", "heldout_loss", "task", "metric", "mean", "sd", "n",
             "low", "high", "scores", "note"]


def teachers(results: Results) -> Table:
    """How far refreshing the teacher goes: BERT's scores under the study's recipe by tokens of masked-LM training."""
    data = teacher_frame(results)
    rows = []
    for (name, tokens), part in data.groupby(["teacher", "tokens"], sort=False):
        first = part.iloc[0]
        minutes = None if pd.isna(first.seconds) else first.seconds / 60
        rows.append({"Teacher": name, "Steps": number(first.steps, 0), "Tokens seen, millions": number(tokens / 1e6, 1),
                     "Minutes": number(minutes, 1) + " (shared)" * bool(first.shared and minutes is not None),
                     "Held-out loss": number(first.heldout_loss),
                     **{f"{task_title(r.task, [r.note])} {r.metric} (n)": mean_sd(r.mean, r.sd, r.n)
                        for r in part.itertuples() if isinstance(r.task, str)}})
    notes = [f"`bert` fine-tuned under recipe `{published.TRAINING}` from the plain teacher (no steps) and from the same "
             "teacher trained on with masked language modelling: mean ± standard deviation over seeds (n). Minutes are "
             "those of training alone; *(shared)*: other jobs ran on the device. The held-out loss is in nats, on "
             "documents that no run is trained on.", *footnotes(data)]
    if data.empty:
        notes = ["No refreshed teacher here: `02_transfer` with `adapt` makes one."]
    return Table("teachers", tagged("The teacher, refreshed", results.tag), data.drop(columns="scores"),
                 {"": pd.DataFrame(rows)} if rows else {}, notes)


def teacher_frame(results: Results) -> pd.DataFrame:
    """One row per (teacher, task), fewest tokens first: what its training took, and BERT's `scores`, one a seed."""
    students = {r.adapted.run_id for r in results.finetune.record if r.adapted}
    refreshed = {refreshed_fingerprint(r): r for r in results.adapt if r.model == "bert" and r.metrics and refreshed_fingerprint(r)
                 and r.run_id not in students and r.transfer["result"]["name"] not in results.preset.adaptations()}
    runs = where(results.finetune,
                 lambda r: r.training == published.TRAINING and r.label == "bert" and bool(r.record.teacher))
    runs = runs.assign(fingerprint=[record.teacher.fingerprint for record in runs.record])
    origins = {r.teacher.fingerprint: r.teacher.name for r in refreshed.values() if r.teacher}
    plain = {fingerprint: name for fingerprint, name in origins.items() if fingerprint not in refreshed}
    about = [(fingerprint, {"teacher": name, "steps": 0, "tokens": 0, "shared": False}) for fingerprint, name in plain.items()]
    about += [(fingerprint, _training_of(record)) for fingerprint, record in refreshed.items()]
    rows = []
    for fingerprint, values in sorted(about, key=lambda item: item[1]["tokens"]):
        own = runs[runs.fingerprint == fingerprint]
        for task, group in own.groupby("task", sort=False):
            score = summarise(group["last"])
            rows.append({**values, "task": task, "metric": metric_title(group.metric), **vars(score),
                         "scores": list(group["last"].dropna().astype(float)), "note": notes_of(group)})
        if own.empty:
            rows.append({**values, "n": 0, "scores": [], "note": ""})
    return pd.DataFrame(rows, columns=_TEACHERS)


def _training_of(record: Record) -> dict[str, Any]:
    """Of an adapt record: its outcome's name, and what it took."""
    last, params = record.metrics.history[-1], record.params
    steps = record.timing.get("steps") or params["steps"]
    tokens = last.get("tokens") or steps * params["batch_size"] * params["length"]
    return {"teacher": record.transfer["result"]["name"], "steps": steps, "tokens": tokens,
            "seconds": last.get("seconds"), "shared": bool(record.timing.get("shared")),
            "heldout_loss": record.metrics.headline.last}
