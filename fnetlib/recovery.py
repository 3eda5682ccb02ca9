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
from matplotlib.ticker import MaxNLocator

from .plots import _empty, _finish, _panels, colour
from .records import Record, label, task_distilled, task_minutes
from .results import GROUP, Results, chance, footnotes, labels, metric_title, model_key, once, tagged, task_title, where
from .statistics import paired_recovery, summarise
from .tables import NONE, Table, heading, mean_sd, number

FEWEST_PAIRS = 3  # seeds without which a share is no result
COLUMNS = [*GROUP, "task", "model", "minutes", "before", "method", "own", "metric", "mean", "sd", "n", "recovery", "low", "high", "pairs",
           "beside", "beside_low", "beside_high", "beside_pairs", "chance", "note", "examples", "task_teacher"]


@once
def frame(results: Results) -> pd.DataFrame:
    """One row a (training, teacher, task, model, minutes, method, own), where some student of the group is adapted.

    `method`: `distill`, `mlm`, `distill+task+edits`, ..., empty for the swap as it is; `own`: in brackets what tells it from another row.

    `recovery`: mean lead over chance as a share of BERT's, at the seeds that both have (`pairs`), `low` and `high` its
    bootstrap interval over seeds; None without a BERT that beats chance. `beside`: the same beside the BERT that gained most by extra
    minutes of its own (`taught`), where there is one. `before`: minutes before its task was distilled. `examples`: training examples, 0 where all were used. `task_teacher`:
    mean score of the fine-tuned BERTs that taught it the task, None where none did or their scores were not kept.
    """
    runs = results.primary
    runs = runs.assign(method=[_method(r) for r in runs.record],
                       task_minutes=[task_minutes(r, results.finetune.record) for r in runs.record])
    rows = []
    for key, group in runs.groupby([*GROUP, "task"], sort=False, dropna=False):
        if not (group["minutes"] + group["task_minutes"]).gt(0).any():
            continue
        floor = chance(group)
        bert = group[(group["model"] == "bert") & (group["minutes"] == 0) & (group["method"] == "")].set_index("seed")["last"]
        own_ways = _own(group)
        better = taught(group, own_ways, bert)
        for (model, minutes, method, own), part in group.groupby(["model", "minutes", "method", own_ways], sort=False):
            score = summarise(part["last"])
            scores = part.drop_duplicates("seed").set_index("seed")["last"]
            share, beside = paired_recovery(scores, bert, floor), paired_recovery(scores, better, floor)
            task = part["task_minutes"][part["last"].notna()].mean()  # a run that failed has no time
            spent = round(minutes + task, 1) if task > 0 else minutes
            rows.append([*key, model, spent, minutes, method, own, next(iter(part["metric"].dropna()), None), score.mean, score.sd,
                         score.n, share.mean, share.low, share.high, share.n, beside.mean, beside.low, beside.high, beside.n, floor, "; ".join(sorted(set(filter(None, part["note"])))),
                         max(r.params.get("train_size", 0) for r in part.record), pd.Series([_task_teacher(r) for r in part.record], dtype=float).mean()])
    data = pd.DataFrame(rows, columns=COLUMNS)
    order = sorted(data.index, key=lambda i: (model_key(data["model"][i]), data["minutes"][i], data["method"][i], data["own"][i]))
    return data.loc[order].reset_index(drop=True)


def taught(group: pd.DataFrame, own: pd.Series, bert: pd.Series) -> pd.Series:
    """seed -> score of the BERT that gained most, over `bert` as it is, by minutes of its own on text, at enough seeds; empty where none did."""
    adapted = group[(group["model"] == "bert") & group["minutes"].gt(0) & ~group["method"].map(task_is_distilled)]
    scores = [part.drop_duplicates("seed").set_index("seed")["last"] for _, part in adapted.groupby(["minutes", "method", own], sort=False)]
    scores = [part for part in scores if part.notna().sum() >= FEWEST_PAIRS]
    best = max(scores, key=lambda part: part.mean(), default=bert)
    return best if best.mean() > bert.mean() else pd.Series(dtype=float)


def _method(record: Record) -> str:
    """`distill`, `mlm`, ..., with `+task` where the task's own text was distilled on as well, `+pairs` where new pairs of it were."""
    return "+".join([*([record.adapted.method] if record.adapted else []), *task_distilled(record)])


def _task_teacher(record: Record) -> float | None:
    return record.metrics.task_teacher if record.metrics else None


def _own(runs: pd.DataFrame) -> pd.Series:
    """What tells a run's student from another, and what of the fine-tuning differs between the runs of one way, ` [epochs=16]`; empty
    where nothing does, and for the swap as it is."""
    students = pd.Series([r.adapted.own if r.adapted else "" for r in runs.record], index=runs.index)
    found = students.copy()
    for (_, _, method, own), part in runs.groupby(["model", "minutes", "method", students], sort=False):
        if method:
            found[part.index] = [own + name.removeprefix(label(r)) for name, r in zip(labels(list(part.record)), part.record)]
    return found


def task_is_distilled(method: str) -> bool:
    """Whether a `method` of `frame` goes on with the task's own distillation, `distill+task+edits`."""
    return "task" in method.split("+")


def table(results: Results) -> Table:
    """Scores and recovery by model and minutes, a section a training recipe and teacher."""
    data, sections = frame(results), {}
    for (training, teacher), group in data.groupby(GROUP, sort=False, dropna=False):
        rows: dict[tuple, dict[str, Any]] = {}
        names = {task: title_of(part.iloc[0]) for task, part in group.groupby("task", sort=False)}
        for r in group.itertuples():
            row = rows.setdefault((r.model, r.minutes, r.method, r.own), {"Model": r.model, "Minutes": f"{r.minutes:g}",
                                                                          "Adapted by": f"{r.method}{r.own}" or NONE})
            row[f"{names[r.task]} {metric_title([r.metric])}"] = mean_sd(r.mean, r.sd, r.n)
            row[f"{names[r.task]} recovery"] = _share(r)
            if group["task_teacher"][group["task"] == r.task].notna().any():
                row[f"{names[r.task]} task's teacher"] = NONE if pd.isna(r.task_teacher) else number(r.task_teacher, 3)
            if group["beside"][group["task"] == r.task].notna().any():
                row[f"{names[r.task]} beside BERT's own minutes"] = NONE if pd.isna(r.beside) else number(r.beside, 2)
        sections[heading(training, teacher)] = pd.DataFrame(rows.values())
    notes = ["*Minutes* of adaptation beyond the teacher: the budget given, reckoned by a pace, or more where the "
             "fastest run of its kind on that device says more; where none was given by that run's pace, without one its own on a shared "
             "device, an upper bound; *+task*: with all of the task's distillation, of the teacher's fine-tuning, its states and its "
             "predictions, by the fastest pace of its kind there (shared with other jobs it is an upper bound), *+pairs* and *+edits* on examples too that nobody labelled. *Recovery* = (score − chance)/(BERT − chance), "
             "means over the seeds that both have, [95% bootstrap interval over seeds] (pairs); BERT is the same teacher's, "
             "fine-tuned by the same recipe without extra minutes; its own extra "
             "minutes are of masked-LM, at the students' rate where no other is named. *Beside BERT's own minutes*: recovery where the ceiling is "
             "BERT's best such row (1.00) instead, for tasks that it gained on, at the seeds that both have. *Task's teacher*: mean score of the fine-tuned BERTs "
             "that taught a student its task, where it was kept."]
    if data.empty:
        notes = ["No student was adapted before its task here: 03 with `-p student FOLDER`, a model that 02 has trained on."]
    runs = results.primary
    return Table("recovery", tagged("Recovery by minutes of adaptation", results.tag), data, sections,
                 notes + (footnotes(runs[runs["task"].isin(set(data["task"]))]) if len(data) else []))


def title_of(row: Any) -> str:
    """The task of a row of `frame`, with a mark for what its data's note says, and the training examples where not all were used."""
    return task_title(row.task, [row.note] * bool(row.note)) + (f" ({row.examples:,} examples)" if row.examples else "")


def _share(row: Any) -> str:
    if pd.isna(row.recovery):
        return NONE
    bounds = "" if pd.isna(row.low) else f" [{number(row.low, 2)}, {number(row.high, 2)}]"
    return f"{number(row.recovery, 2)}{bounds} ({row.pairs})"


def figure(results: Results) -> Figure:
    """Recovery against minutes, a column a task, of the recipe and teacher with most adapted students beside a BERT: mean and paired
    interval of every student that was adapted but the placements, BERT as it is at 1; students with something added to the plain transform in
    a row of their own. Where no group has a BERT, scores (mean ± sd) of all."""
    data = frame(results)
    if data.empty:
        return _empty(tagged("Recovery by minutes of adaptation", results.tag), "no student was adapted before its task")
    share = bool(data["recovery"].notna().any())
    title = tagged("Recovery by minutes of adaptation: share of BERT's lead over chance" if share
                   else "Score by minutes of adaptation (mean ± sd over seeds)", results.tag)
    groups = [group for key, group in data.groupby([*GROUP, "task"], sort=False, dropna=False)
              if group["recovery"].notna().any() and key[:2] == _most_adapted(data) or not share]  # the others compare objectives
    adapted = {model for group in groups for model in group["model"][group["minutes"] > 0] if not is_placement(model)} - {"bert"}
    added = {model for model in adapted if "+" in model}
    rows = [models for models in (adapted - added, added) if models] or [set()]
    made, axes = _panels(len(groups) * len(rows), len(groups) if len(rows) > 1 else 3, height=3.0)
    for i, axis in enumerate(axes):
        _panel(axis, groups[i % len(groups)], rows[i // len(groups)] | {"bert"}, share)
        if len(rows) > 1 and i % len(groups) == 0:
            axis.set_ylabel(f"{('the transform, attention kept', 'filters, values')[i // len(groups)]}\n{axis.get_ylabel()}")
    line = plt.Line2D([], [], color="#000000" if share else "#777777", lw=1, ls=":" if share else "--", label="BERT" if share else "chance")
    shown = adapted | {"bert"} & {model for group in groups for model in group["model"]}
    return _finish(made, title, shown, handles=[*_marks(pd.concat(groups), share), line])


def _panel(axis: Any, group: pd.DataFrame, models: set[str], share: bool) -> None:
    for model, part in group[group["model"].isin(models)].groupby("model", sort=False):
        ways = sorted(set(zip(part["method"], part["own"])) - {("", "")}) or [("", "")]
        for method, own in ways:
            line = part[part["method"].eq(method) & part["own"].eq(own)]
            before = method.split("task")[0].rstrip("+") if task_is_distilled(method) else ""
            start = part[part["method"].eq(before) & part["own"].eq("") & part["minutes"].isin(line["before"] if before else [0])]
            _line(axis, pd.concat([start, line[~line.index.isin(start.index)]]).sort_values("minutes"), model, method, share)
    axis.axhline(1 if share else group["chance"].dropna().max(), color="#000000" if share else "#777777", lw=1,
                 ls=":" if share else "--", zorder=0)
    axis.set_title(f"{title_of(group.iloc[0])}\n{group['training'].iloc[0]}, {str(group['teacher'].iloc[0]).split('/')[-1]}", fontsize=9)
    axis.set(xlabel="minutes, reckoned alone on the GPU", ylabel="recovery" if share else metric_title(group["metric"]))
    axis.margins(x=0.08)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _marks(data: pd.DataFrame, share: bool) -> list[plt.Line2D]:
    """What the markers mean, of those that are there."""
    marks = [plt.Line2D([], [], color="#555555", marker=marker, ls=dashes, ms=5, label=word) for marker, dashes, there, word in (
        ("o", "-", lambda method: method.startswith("distill"), "distilled"), ("s", "-", lambda method: method.startswith("mlm"), "masked-LM"),
        ("^", "--", task_is_distilled, "and its task distilled")) if data["method"].map(there).any()]
    few = bool(share and data["pairs"].lt(FEWEST_PAIRS).any())
    return marks + [plt.Line2D([], [], color="#555555", marker="o", ls="", ms=5, markerfacecolor="white", label=f"fewer than {FEWEST_PAIRS} seeds")] * few


def _line(axis: Any, line: pd.DataFrame, model: str, method: str, share: bool) -> None:
    middle = line["recovery" if share else "mean"].astype(float)
    if share:
        bounds = [(middle - line["low"].astype(float)).fillna(0).clip(lower=0), (line["high"].astype(float) - middle).fillna(0).clip(lower=0)]
    else:
        bounds = line["sd"].astype(float).fillna(0)
    task = task_is_distilled(method)
    axis.errorbar(line["minutes"], middle, yerr=bounds, lw=1.4, ls="--" if task else "-", capsize=2, color=colour(model))
    for r, y in zip(line.itertuples(), middle):
        marker = "^" if task_is_distilled(r.method) else "s" if r.method.startswith("mlm") else "o"
        few = share and r.pairs < FEWEST_PAIRS
        axis.plot(r.minutes, y, marker=marker, ms=5, color=colour(model), markerfacecolor="white" if few else colour(model))


def _most_adapted(data: pd.DataFrame) -> tuple[str, str] | None:
    """The recipe and teacher of `frame` with most scores of adapted students beside a BERT, from all training examples where any are."""
    adapted = data[data["recovery"].notna() & data["minutes"].gt(0)]
    adapted = adapted[adapted["examples"].eq(0)] if adapted["examples"].eq(0).any() else adapted
    return adapted.groupby(GROUP, sort=False).size().idxmax() if len(adapted) else None


def is_placement(model: str) -> bool:
    """Whether it is compared with others that keep as much attention, in `tables_placement`."""
    return model.startswith("hybrid-at")


def _is_usual(row: Any) -> bool:
    return row.method in ("", "distill") and not row.own


def main(results: Results) -> pd.DataFrame:
    """The rows of `frame` that the report's main sentences are of: the recipe and teacher with most adapted students, states matched
    or as the swap is, without BERT and without the placements that are compared elsewhere (`tables_placement`)."""
    data = frame(results)
    chosen = _most_adapted(data)
    return where(data, lambda r: (r.training, r.teacher) == chosen and pd.notna(r.recovery) and _is_usual(r)
                 and r.model != "bert" and not is_placement(r.model))


def others(results: Results) -> pd.DataFrame:
    """The rows of `frame` beside those of `main`, of the same recipe and teacher: other objectives, a task distilled, and BERT's own."""
    data = frame(results)
    chosen = _most_adapted(data)
    return where(data, lambda r: (r.training, r.teacher) == chosen and pd.notna(r.recovery) and not _is_usual(r))


def main_sentences(results: Results) -> list[str]:
    """One sentence a task of `main`: shares by minutes, students side by side; and one of `others`."""
    lines = []
    for task, group in main(results).groupby("task", sort=False):
        known = group.groupby("model", sort=False).filter(lambda part: part["minutes"].gt(0).any())
        parts = [f"\n  - `{model}`: " + ", ".join(_in_words(r) for r in part.sort_values("minutes").itertuples()) for model, part in known.groupby("model", sort=False)]
        lines += [f"- **Recovery, {title_of(group.iloc[0])}** (recipe `{group['training'].iloc[0]}`, teacher `{group['teacher'].iloc[0]}`): share of "
                  f"BERT's lead over chance, paired by seed, as it is and after minutes of distillation:{''.join(parts)}"] * bool(parts)
    for task, group in others(results).groupby("task", sort=False):
        parts = [f"\n  - `{model}`: " + ", ".join(_in_words(r) for r in part.itertuples()) for model, part in group.groupby("model", sort=False)]
        lines.append(f"- **Recovery, {title_of(group.iloc[0])}, by other ways** (the same recipe and teacher):{''.join(parts)}")
    return lines


def _percent(row: Any) -> str:
    bounds = "" if pd.isna(row.low) else f" [{number(100 * row.low, 0)}, {number(100 * row.high, 0)}]"
    return f"{number(100 * row.recovery, 0)}%{bounds}"


def sentences(results: Results) -> list[str]:
    """One sentence a training recipe and task: every model as it is after the swap, and after its minutes of adaptation."""
    lines, data = [], frame(results)
    for (training, teacher, task), group in data.groupby([*GROUP, "task"], sort=False, dropna=False):
        known = group[group["recovery"].notna() & ~((group["model"] == "bert") & (group["minutes"] == 0))]
        parts = [f"`{model}` " + ", ".join(_in_words(r) for r in part.sort_values("minutes").itertuples())
                 for model, part in known.groupby("model", sort=False) if part["minutes"].gt(0).any()]
        lines += [f"- **Recovery, {title_of(group.iloc[0])}** (recipe `{training}`, teacher `{teacher}`), share of "
                  f"BERT's lead over chance, paired by seed: {'; '.join(parts)}."] * bool(parts)
    return lines


def _in_words(row: Any) -> str:
    """`94% [92, 95] (n=3) after 2 minutes`, with what was done other than the matching of states."""
    how = "" if _is_usual(row) else f" of {row.method}{row.own}"
    after = f"after {row.minutes:g} minute{'s' * (row.minutes != 1)}{how}" if row.minutes else "as it is"
    return f"{_percent(row)} (n={row.pairs}) {after}"


def entries(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """The summary's figures: task -> `model@<minutes>min` -> {mean, sd, n, recovery, low, high, pairs, minutes, recipe, teacher}, of the
    recipe and teacher with most adapted students beside a BERT, fine-tuned on all examples; recovery paired by seed, as in the table."""
    data, found = frame(results), {}
    data = data[data["recovery"].notna() & data["minutes"].gt(0) & data["examples"].eq(0)]
    for task, part in data.groupby("task", sort=False):  # a task may be missing in the recipe that is chosen for another
        training, teacher = _most_adapted(part)
        for r in part[(part["training"] == training) & (part["teacher"] == teacher)].itertuples():
            usual = r.method == "distill" or r.model == "bert" and r.method == "mlm"  # any other method is named
            more = "" if usual else r.method.removeprefix("distill") if r.method.startswith("distill+task") else f"+{r.method}"
            more = (f"+{r.method}" if usual and r.own else more) + r.own
            found.setdefault(task, {})[f"{r.model}@{r.minutes:g}min{more}"] = {
                **{name: round(float(value), 6) if pd.notna(value) else None for name, value in
                   (("mean", r.mean), ("sd", r.sd), ("recovery", r.recovery), ("low", r.low), ("high", r.high))},
                "n": int(r.n), "pairs": int(r.pairs), "minutes": float(r.minutes), "recipe": training, "teacher": teacher}
    return found
