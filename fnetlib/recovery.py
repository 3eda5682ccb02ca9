"""The recovery: how much of BERT's lead an adapted student has back, by the minutes of adaptation that were spent on it.

A student fine-tuned as it is after the swap stands at 0 minutes, one that was trained on with text first at what that
cost alone on the device (`records.solo_minutes`). BERT of the same teacher, training recipe and task is the ceiling,
also where it was given the same extra minutes; the best constant prediction is the floor.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .plots import _empty, _finish, _panels, colour
from .records import Record, task_distilled
from .results import GROUP, Results, chance, footnotes, metric_title, model_key, tagged, task_title
from .statistics import paired_recovery, summarise
from .tables import NONE, Table, heading, mean_sd, number

TASK_SECONDS = ("task_teacher_s", "task_states_s")  # of task distillation, before the student's own fine-tuning
COLUMNS = [*GROUP, "task", "model", "minutes", "method", "metric", "mean", "sd", "n", "recovery", "low", "high", "pairs",
           "chance", "note", "examples"]


def frame(results: Results) -> pd.DataFrame:
    """One row a (training, teacher, task, model, minutes, method), where some student of the group is adapted.

    `recovery`: mean lead over chance as a share of BERT's, at the seeds that both have (`pairs`), `low` and `high` its
    bootstrap interval over seeds; None without a BERT that beats chance. `examples`: training examples, 0 where all were used.
    """
    runs = results.primary
    runs = runs.assign(method=[_method(r) for r in runs.record],
                       task_minutes=[sum(r.timing.get(part, 0) for part in TASK_SECONDS) / 60 for r in runs.record])
    rows = []
    for key, group in runs.groupby([*GROUP, "task"], sort=False, dropna=False):
        if not (group["minutes"] + group["task_minutes"]).gt(0).any():
            continue
        floor = chance(group)
        bert = group[(group["model"] == "bert") & (group["minutes"] == 0)].set_index("seed")["last"]
        for (model, minutes, method), part in group.groupby(["model", "minutes", "method"], sort=False):
            score = summarise(part["last"])
            share = paired_recovery(part.drop_duplicates("seed").set_index("seed")["last"], bert, floor)
            minutes = round(minutes + part["task_minutes"].mean(), 2)
            rows.append([*key, model, minutes, method, next(iter(part["metric"].dropna()), None), score.mean, score.sd, score.n,
                         share.mean, share.low, share.high, share.n, floor, "; ".join(sorted(set(filter(None, part["note"])))),
                         max(r.params.get("train_size", 0) for r in part.record)])
    data = pd.DataFrame(rows, columns=COLUMNS)
    order = sorted(data.index, key=lambda i: (model_key(data["model"][i]), data["minutes"][i], data["method"][i]))
    return data.loc[order].reset_index(drop=True)


def _method(record: Record) -> str:
    """`distill`, `mlm`, ..., with `+task` where the task's own text was distilled on as well, `+pairs` where new pairs of it were;
    empty for the swap as it is."""
    parts = [record.adapted.method] if record.adapted else []
    return "+".join(parts + task_distilled(record))


def table(results: Results) -> Table:
    """Scores and recovery by model and minutes, a section a training recipe and teacher."""
    data, sections = frame(results), {}
    for (training, teacher), group in data.groupby(GROUP, sort=False, dropna=False):
        rows: dict[tuple, dict[str, Any]] = {}
        names = {task: _title(task, part) for task, part in group.groupby("task", sort=False)}
        for r in group.itertuples():
            row = rows.setdefault((r.model, r.minutes, r.method), {"Model": r.model, "Minutes": f"{r.minutes:g}",
                                                                   "Adapted by": r.method or NONE})
            row[f"{names[r.task]} {metric_title([r.metric])}"] = mean_sd(r.mean, r.sd, r.n)
            row[f"{names[r.task]} recovery"] = _share(r)
        sections[heading(training, teacher)] = pd.DataFrame(rows.values())
    notes = ["*Minutes* of adaptation beyond the teacher: the budget given, reckoned by a pace, or more where a "
             "run that had the device alone took more; where none was given by that run's pace, without one its own on a shared "
             "device, an upper bound; *+task*: with the teacher's fine-tuning on the task and the distillation of its states, "
             "*+pairs* on pairs too that nobody labelled. *Recovery* = (score − chance)/(BERT − chance), "
             "means over the seeds that both have, [95% bootstrap interval over seeds] (pairs); BERT is the same teacher's, "
             "fine-tuned by the same recipe without extra minutes."]
    if data.empty:
        notes = ["No student was adapted before its task here: 03 with `-p student FOLDER`, a model that 02 has trained on."]
    runs = results.primary
    return Table("recovery", tagged("Recovery by minutes of adaptation", results.tag), data, sections,
                 notes + (footnotes(runs[runs["task"].isin(set(data["task"]))]) if len(data) else []))


def _title(task: str, rows: pd.DataFrame) -> str:
    """The task of these rows, with a mark for what its data's note says, and the training examples where not all were used."""
    examples = rows["examples"].max()
    return task_title(task, set(filter(None, rows["note"]))) + (f" ({examples:,} examples)" if examples else "")


def _share(row: Any) -> str:
    if pd.isna(row.recovery):
        return NONE
    bounds = "" if pd.isna(row.low) else f" [{number(row.low, 2)}, {number(row.high, 2)}]"
    return f"{number(row.recovery, 2)}{bounds} ({row.pairs})"


def figure(results: Results) -> Figure:
    """Score against minutes, a panel a task that BERT was fine-tuned on too, if there is one: mean ± sd of every student; BERT
    as it is dotted, chance dashed."""
    title = tagged("Score by minutes of adaptation (mean ± sd over seeds)", results.tag)
    data = frame(results)
    if data.empty:
        return _empty(title, "no student was adapted before its task")
    groups = list(data.groupby([*GROUP, "task"], sort=False, dropna=False))
    ceiling = [key for key, group in groups if ((group["model"] == "bert") & (group["minutes"] == 0)).any()]
    groups = [(key, group) for key, group in groups if key in ceiling or not ceiling]  # the others compare objectives
    made, axes = _panels(len(groups), 3, height=3.0)
    for axis, ((training, teacher, task), group) in zip(axes, groups):
        for model, part in group.groupby("model", sort=False):
            for method in sorted(set(part["method"]) - {""}) or [""]:
                line = part[part["method"].isin(["", method])].sort_values("minutes")
                spread = line["sd"].astype(float).fillna(0)
                axis.errorbar(line["minutes"], line["mean"].astype(float), yerr=spread, marker="s" if method == "mlm" else "o",
                              ms=5, lw=1.4, capsize=2, color=colour(model))
        bert = group[(group["model"] == "bert") & (group["minutes"] == 0)]["mean"].dropna()
        if len(bert):
            axis.axhline(bert.iloc[0], color="#000000", lw=1, ls=":", zorder=0)
        if group["chance"].notna().any():
            axis.axhline(group["chance"].dropna().iloc[0], color="#777777", lw=1, ls="--", zorder=0)
        axis.set_title(f"{_title(task, group)}\n{training}, {str(teacher).split('/')[-1]}", fontsize=9)
        axis.set(xlabel="minutes alone on the GPU", ylabel=metric_title(group["metric"]))
    marks = [plt.Line2D([], [], color="#555555", marker=marker, ls="", ms=5, label=label)
             for marker, label in (("o", "distilled, or the swap as it is"), ("s", "masked-LM"))]
    lines = [plt.Line2D([], [], color=grey, lw=1, ls=dashes, label=label)
             for grey, dashes, label in (("#000000", ":", "BERT"), ("#777777", "--", "chance"))]
    return _finish(made, title, [model for _, group in groups for model in group["model"]], handles=[*marks, *lines])


def sentences(results: Results) -> list[str]:
    """One sentence a training recipe and task: every student with the most minutes that it was given."""
    lines, data = [], frame(results)
    for (training, teacher, task), group in data.groupby([*GROUP, "task"], sort=False, dropna=False):
        students = group[group["model"].ne("bert") & group["minutes"].gt(0) & group["recovery"].notna()]
        last = students.loc[students.groupby("model", sort=False)["minutes"].idxmax()] if len(students) else students
        parts = [f"`{r.model}` {number(100 * r.recovery, 0)}%"
                 + ("" if pd.isna(r.low) else f" [{number(100 * r.low, 0)}, {number(100 * r.high, 0)}]") + f" (n={r.pairs})"
                 + f" after {r.minutes:g} minute{'s' * (r.minutes != 1)}" for r in last.itertuples()]
        lines += [f"- **Recovery, {_title(task, group)}** (recipe `{training}`, teacher `{teacher}`), share of "
                  f"BERT's lead over chance, paired by seed: {'; '.join(parts)}."] * bool(parts)
    return lines
