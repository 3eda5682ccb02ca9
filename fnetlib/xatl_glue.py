"""XATL after fine-tuning: what the transferred student scores above the one from scratch (Choi 2024, arXiv 2404.02684: up to 2.6 %)."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pandas as pd

from .records import Record
from .results import Results, is_grid, metric_title, natural, settings, tagged, task_title
from .statistics import Summary, paired, summarise
from .tables import NONE, Table, mean_sd, number
from .xatl_runs import FROM_SCRATCH, TRANSFERRED, best_rates, students

_FROZEN = f"{TRANSFERRED}, LIT freezes "


def glue_gains(results: Results) -> pd.DataFrame:
    """One row a (model, task, from-scratch steps, arm, teacher of the transferred student; `arm` says whether LIT froze any of it first, see
    `xatl_runs.arm`): scores after fine-tuning, and `gain`, the transferred one's mean above the from-scratch one's at the seeds that both
    have, in the metric's own unit. Of several students and learning rates of fine-tuning each arm has its best mean over seeds.

    transferred_steps: as many, or where nothing was fine-tuned after as many the most below: then `gain` is at less compute.
    scratch_teacher: the from-scratch student's; it has none of its weights. scratch_mlm_rate, scratch_mlm_gap and the same of `transferred`:
    the masked-LM learning rate of the student that was fine-tuned, and how far its loss ended above that of its arm's best rate, in nats.
    """
    frame, found = _runs(results), []
    for (model, task, steps), part in frame[frame["arm"] == FROM_SCRATCH].groupby(["model", "task", "steps"], sort=False):
        theirs = _best_tuned(part)
        inherited = frame[(frame["arm"] != FROM_SCRATCH) & (frame["model"] == model) & (frame["task"] == task) & (frame["steps"] <= steps)]
        for name, teacher in sorted(set(zip(inherited["arm"], inherited["teacher"])), key=lambda pair: (pair[0], natural(pair[1]))):
            of_arm = inherited[(inherited["arm"] == name) & ((name == TRANSFERRED) | (inherited["steps"] == steps))]
            ours = of_arm[of_arm["steps"] == of_arm[~of_arm["grid"].astype(bool)]["steps"].max()]
            mine = _best_tuned(ours[ours["teacher"] == teacher])
            if theirs and mine:
                shared = theirs.scores.index.intersection(mine.scores.index)  # the same seeds, where there are two
                before, after = (arm.scores[shared] if len(shared) > 1 else arm.scores for arm in (theirs, mine))
                fell = {f"{name}_collapsed": int(arm.collapsed[kept.index].sum()) for name, arm, kept in
                        (("scratch", theirs, before), ("transferred", mine, after))}
                gain = paired(after, before) if len(shared) > 1 else Summary(after.mean() - before.mean(), None, 1, None, None)
                found.append({"model": model, "task": task, "note": part["note"].iloc[0], "steps": steps, "arm": name, "teacher": teacher,
                              "transferred_steps": ours["steps"].iloc[0], "scratch_teacher": theirs.teacher, "metric": part["metric"].iloc[0],
                              "scratch_tried": theirs.tried, "transferred_tried": mine.tried,
                              "scratch_mlm_rate": theirs.mlm_rate, "scratch_mlm_gap": theirs.mlm_gap,
                              "transferred_mlm_rate": mine.mlm_rate, "transferred_mlm_gap": mine.mlm_gap,
                              **_scores("scratch", summarise(before)), **_scores("transferred", summarise(after)),
                              **fell, "gain": gain.mean, "low": gain.low, "high": gain.high})
    return pd.DataFrame(found, columns=["model", "task", "note", "steps", "transferred_steps", "arm", "teacher", "scratch_teacher", "metric",
                                        "scratch_tried", "transferred_tried", "scratch_mlm_rate", "scratch_mlm_gap", "transferred_mlm_rate",
                                        "transferred_mlm_gap", "scratch", "scratch_sd", "scratch_n", "transferred", "transferred_sd", "transferred_n",
                                        "scratch_collapsed", "transferred_collapsed", "gain", "low", "high"])


def _runs(results: Results) -> pd.DataFrame:
    """One row a fine-tuned student, from scratch or transferred, seed and learning rate of fine-tuning."""
    trained = students(results)
    runs = {r.record.run_id: r for r in trained.itertuples() if r.arm in (FROM_SCRATCH, TRANSFERRED) or r.arm.startswith(_FROZEN)}
    lowest = {_arm(r): r.loss for r in best_rates(trained).itertuples()}
    rows = [{"model": r.model, "task": r.task, "note": r.note, "metric": r.metric, "seed": r.seed, "last": r.last,
             "collapsed": bool(r.degenerate), "grid": is_grid(r.training), "rate": r.record.params["learning_rate"],
             "student": run.record.run_id, "arm": run.arm, "steps": run.steps, "tokens": run.tokens,
             "teacher": run.record.teacher.name if run.record.teacher else "", "mlm_rate": run.learning_rate, "loss": run.loss,
             "mlm_gap": run.loss - lowest[_arm(run)]}
            for r in results.finetune.itertuples() if r.record.adapted and (run := runs.get(r.record.adapted.run_id))]
    return pd.DataFrame(rows, columns=["model", "task", "note", "metric", "seed", "last", "collapsed", "grid", "rate", "student", "arm", "steps",
                                       "tokens", "teacher", "mlm_rate", "loss", "mlm_gap"])


class Tuned(NamedTuple):
    """The student and learning rate with the best mean: its student's teacher, by seed the scores and whether one class was predicted
    for every example, how many pairs of student and rate were tried, and of masked-LM: the student's rate, its loss above that of its arm's best
    rate, its loss, and the tokens it saw."""

    teacher: str
    scores: pd.Series
    collapsed: pd.Series
    tried: int
    mlm_rate: float
    mlm_gap: float
    loss: float
    tokens: float


def _best_tuned(part: pd.DataFrame) -> Tuned | None:
    """None without a score. The grid's runs choose, and are no result."""
    runs = [own for _, own in part[~part["grid"].astype(bool)].groupby(["student", "rate"], sort=False) if own["last"].notna().any()]
    best = max(runs, key=lambda own: own["last"].mean(), default=None)
    tried = part[["student", "rate"]].drop_duplicates()
    return None if best is None else Tuned(best["teacher"].iloc[0], best.groupby("seed")["last"].mean(),
                                           best.groupby("seed")["collapsed"].any(), len(tried), *best.iloc[0][["mlm_rate", "mlm_gap", "loss", "tokens"]])


def by_student(results: Results) -> pd.DataFrame:
    """One row a (model, arm, teacher, steps, masked-LM learning rate) and task: final loss in nats and score of its student, of several students
    and learning rates of fine-tuning by the best mean. refreshed: its teacher is one of the preset's, which are trained on this text."""
    rows, keys = [], ["model", "task", "note", "metric", "steps", "arm", "teacher", "mlm_rate"]
    for key, part in _runs(results).groupby(keys, sort=False):
        if best := _best_tuned(part):
            row = dict(zip(keys, key))
            rows.append({**row, "refreshed": row["teacher"] in results.preset.teachers, "tokens": best.tokens, "loss": best.loss,
                         **_scores("score", summarise(best.scores)), "tried": best.tried})
    return pd.DataFrame(rows, columns=[*keys, "refreshed", "tokens", "loss", "score", "score_sd", "score_n", "tried"])


def by_mlm_rate(results: Results) -> pd.DataFrame:
    """The rows of `by_student` where one arm's students of several masked-LM learning rates were fine-tuned on a task."""
    rows = by_student(results)
    several = rows.groupby(["model", "task", "steps", "arm", "teacher"])["mlm_rate"].transform("size") > 1
    return rows[several].sort_values(["model", "task", "steps", "arm", "teacher", "mlm_rate"]) if len(rows) else rows


def as_swapped(results: Results) -> pd.DataFrame:
    """One row a (model, task, teacher): the swap as it is, before any masked-LM, fine-tuned by settings that a transferred student of that
    teacher had too, of several by the best mean. What it has, no masked-LM has brought."""
    transferred = {r.record.run_id for r in students(results).itertuples() if r.arm == TRANSFERRED}
    runs = results.finetune
    runs = runs.assign(tuned=[_tuning(r) for r in runs.record], student=[r.adapted.run_id if r.adapted else "" for r in runs.record])
    keys = ["model", "task", "teacher", "tuned"]
    trained = set(runs[runs["student"].isin(transferred)][keys].itertuples(index=False, name=None))
    rows = []
    for key, part in runs[(runs["student"] == "") & ~runs["training"].map(is_grid)].groupby(keys, sort=False):
        if key in trained and part["last"].notna().any():
            rows.append({**dict(zip(keys, key)), "note": part["note"].iloc[0], "metric": part["metric"].iloc[0], **_scores("score", summarise(part["last"]))})
    data = pd.DataFrame(rows, columns=[*keys, "note", "metric", "score", "score_sd", "score_n"])
    return data.loc[data.groupby(keys[:3], sort=False)["score"].idxmax()].drop(columns="tuned").reset_index(drop=True)


def _tuning(record: Record) -> str:
    """All that decides a fine-tuning but its seed and the student that it starts from."""
    return json.dumps({name: value for name, value in settings(record).items() if name not in ("method", "own")}, sort_keys=True)


def _scores(arm: str, scores: Any) -> dict[str, Any]:
    return {arm: scores.mean, f"{arm}_sd": scores.sd, f"{arm}_n": scores.n}


def glue(results: Results) -> Table:
    """GLUE after fine-tuning: from scratch beside transferred, at the same budget."""
    data = glue_gains(results)
    named = len({*data["teacher"], *data["scratch_teacher"]}) > 1
    frozen = bool((data["arm"] != TRANSFERRED).any())
    fewer = bool((data["transferred_steps"] < data["steps"]).any())
    shown = [{"Student": r.model, "Steps": f"{r.steps:,}" + (f" (transferred: {r.transferred_steps:,})" if r.transferred_steps < r.steps else ""),
              "Task": _task(r),
              **({"Teacher": _teachers(r)} if named else {}),
              **({"Frozen at first": r.arm.removeprefix(_FROZEN).removeprefix(TRANSFERRED) or NONE} if frozen else {}),
              "From scratch": mean_sd(r.scratch, r.scratch_sd, r.scratch_n) + "†" * bool(r.scratch_collapsed),
              "Transferred": mean_sd(r.transferred, r.transferred_sd, r.transferred_n) + "†" * bool(r.transferred_collapsed),
              "Gain": number(r.gain, sign=True) + ("" if pd.isna(r.low) else f" [{number(r.low, sign=True)}, {number(r.high, sign=True)}]"),
              "Tried": f"{r.scratch_tried}, {r.transferred_tried}",
              "Masked-LM rates": f"{_mlm(r.scratch_mlm_rate, r.scratch_mlm_gap)}, {_mlm(r.transferred_mlm_rate, r.transferred_mlm_gap)}"}
             for r in data.itertuples()]
    notes = ["Mean ± standard deviation over seeds (n) of fine-tuned students that saw the same text for the same steps"
             + (" (where it says so the transferred one for fewer: its gain is at less compute)" if fewer else "") + "; of "
             "the students and learning rates of fine-tuning that were tried (*tried*: so many pairs of both, from scratch and transferred) each arm has the one with the best mean. Gains are in the metric's own unit, "
             "over the seeds that both have, where these are two or more, with a 95% bootstrap interval, too narrow for so few."
             + " Losses and scores need not agree, see below, by the masked-LM rate. Losses are of a student's first training; some were trained again to be fine-tuned." * bool(len(rates := by_mlm_rate(results)))
             + " *Teacher*: whose weights the transferred student started with; a from-scratch student has only its shape." * named
             + " *Frozen at first*: what of it rested until the loss stopped improving (LIT; threshold and patience)." * frozen
             + " *Masked-LM rates*: of the students with these scores, from scratch and transferred; where another run of that arm, mostly at another rate, ended lower it says by how "
             "many nats: a gain over such a student from scratch may be too large, that of such a transferred one too small." * bool(len(data))]
    collapsed = [f"`{r.model}` after {r.steps:,} steps, {task_title(r.task)}: {count} of {n} {arm}" for r in data.itertuples()
                 for arm, count, n in ((FROM_SCRATCH, r.scratch_collapsed, r.scratch_n), (r.arm, r.transferred_collapsed, r.transferred_n)) if count]
    notes += [f"† some runs predict one class for every example: {'; '.join(collapsed)}."] if collapsed else []
    if data.empty:
        notes = ["No pair of students, from scratch and transferred, is fine-tuned yet: 03 with `-p student FOLDER`."]
    sections = {"": pd.DataFrame(shown)} if shown else {}
    if len(rates):
        sections["By the masked-LM learning rate"] = pd.DataFrame([
            {"Student": r.model, "Steps": f"{r.steps:,}", "Arm": r.arm,
             "Task": _task(r), "Teacher": r.teacher, "Rate": f"{r.mlm_rate:g}", "Masked-LM loss, nats": number(r.loss), "Score": mean_sd(r.score, r.score_sd, r.score_n),
             "Rates of fine-tuning tried": str(r.tried)} for r in rates.itertuples()])
    if len(swaps := as_swapped(results)):
        sections["Before masked-LM"] = pd.DataFrame([
            {"Student": r.model, "Task": _task(r), "Teacher": r.teacher, "Score": mean_sd(r.score, r.score_sd, r.score_n)} for r in swaps.itertuples()])
        notes.append("*Before masked-LM*: the swap as it is, where it was fine-tuned by the same settings as a transferred student; what it has already is no gain of "
                     "masked-LM.")
    return Table("xatl-glue", tagged("GLUE after XATL", results.tag), data, sections, notes)


def _arm(run: Any) -> tuple:
    return run.model, run.arm, run.teacher, run.steps, run.seed


def _mlm(rate: float, gap: float) -> str:
    return f"{rate:g}" + (f" (−{number(gap)} by another run)" if gap > 0.0005 else "")


def _task(row: Any) -> str:
    return f"{task_title(row.task, [row.note] * bool(row.note))} {metric_title([row.metric])}"


def _teachers(row: Any) -> str:
    return row.teacher + ("" if row.teacher == row.scratch_teacher else f" (from scratch: {row.scratch_teacher})")
