"""Where a hybrid keeps its attention: what the search measured, and what each placement is worth after fine-tuning."""

from __future__ import annotations

from typing import Any

import pandas as pd
from scipy.stats import spearmanr

from . import distilled, recovery
from .records import Record
from .results import GROUP, Results, metric_title, model_key, once, tagged
from .tables import NONE, Table, heading, mean_sd, number


FEWEST = 3  # placements of a figure's panel
FEWEST_RANKS = 6  # of a rank correlation
MANY = 5  # of a sentence that names them all


def kept(choices: dict[str, Any]) -> tuple[int, ...]:
    """Layers (from 0) whose mixer is attention, of a recipe's config choices."""
    return tuple(i for i, mixer in enumerate(choices.get("mixers", ())) if mixer == "attention")


def names(layers: tuple[int, ...], depth: int, searched: set[tuple[int, ...]]) -> str:
    """`top` (FNet's placement), `spread` (evenly, the last of each part), `measured`: what a placement is."""
    size = len(layers)
    found = [word for word, places in (("top", tuple(range(depth - size, depth))),
                                       ("spread", tuple((i + 1) * depth // size - 1 for i in range(size)))) if places == layers]
    return " and ".join(found + ["measured"] * (layers in searched)) or NONE


def table(results: Results) -> Table:
    """The search's rounds, then every placement of equally many attention layers: the states' error after distillation and
    the scores, a section a training recipe, teacher and number of layers."""
    data, sections = frame(results), {}
    for record in results.stage("placement"):
        rows = pd.DataFrame(record.transfer["placement"])
        by = "mean_error" if record.params.get("by") == "mean" else "error"
        what = "the mean over layers" if by == "mean_error" else "the last states"
        sections[f"search on `{_student(record, results)}` by {what}, {record.timing['seconds']:.0f} s"] = pd.DataFrame([
            {"Round": str(number_), **{f"layer {r.layer}": f"{number(getattr(r, by))}{' ←' * bool(r.chosen)}" for r in part.itertuples()}}
            for number_, part in rows.groupby("round", sort=False)])
    for (training, teacher, count), group in data.groupby([*GROUP, "count"], sort=False):
        rows = {}
        for r in group.itertuples():
            row = rows.setdefault((r.model, r.minutes), {"Model": r.model, "Layers": r.layers, "Placement": r.placement,
                                                         "Minutes": f"{r.minutes:g}", "Error": number(r.error) + "§" * r.repeated})
            row[f"{r.task_title} {metric_title([r.metric])}"] = mean_sd(r.mean, r.sd, r.n)
        sections[f"{heading(training, teacher)}, {count} layers of attention"] = pd.DataFrame(rows.values())
    notes = ["Layers count from 0. *Search*: error of the states, of the last layer or averaged over all, against the teacher's when the student gets "
             "one layer's attention back, without training; ← is kept. *Top*: FNet's placement; *spread*: evenly over the depth; *measured*: "
             "what a search chose; to a placement that only a search would find, its seconds and the searched student's minutes would have to "
             "be added. *Error*: mean over layers after distillation, on text without masks, see `distilled.md`; § of a repeat of that training, whose first student "
             "was fine-tuned."]
    if not sections:
        notes = ["No placement was searched or compared here: `python -m fnetlib place --help`, and 03 with recipes `hybrid-at-I-J`."]
    return Table("placement", tagged("Where attention stays", results.tag), data, sections, notes)


COLUMNS = [*GROUP, "count", "model", "layers", "placement", "minutes", "error", "repeated", "task", "task_title", "metric", "mean", "sd", "n"]


@once
def frame(results: Results) -> pd.DataFrame:
    """One row a (training, teacher, placement, minutes, task) where several placements of so many layers were fine-tuned, no more than
    that, after the same minutes."""
    scores, rows = recovery.frame(results), []
    scores = scores[~scores["method"].map(recovery.task_is_distilled).astype(bool)]
    mixers = {r.model: r.params["recipe"]["mixers"] for r in results.primary.record if "recipe" in r.params}
    searched = {tuple(sorted(step["layer"] for step in r.transfer["placement"] if step["chosen"])) for r in results.stage("placement")}
    for r in scores.itertuples():
        layers, depth = kept({"mixers": mixers.get(r.model, ())}), len(mixers.get(r.model, ()))
        others = set(mixers.get(r.model, ())) - {"attention"}
        if 0 < len(layers) < depth and others == {"fourier"}:
            rows.append([r.training, r.teacher, len(layers), r.model, ", ".join(map(str, layers)), names(layers, depth, searched),
                         r.minutes, *_error(r, results), r.task, recovery.title_of(r), r.metric, r.mean,
                         r.sd, r.n])
    data = pd.DataFrame(rows, columns=COLUMNS)
    several = data.groupby([*GROUP, "count", "minutes", "task"], sort=False)["model"].transform("nunique") > 1
    data = data[several & data["minutes"].gt(0)] if len(data) else data
    order = sorted(data.index, key=lambda i: (data["count"][i], data["minutes"][i], model_key(data["model"][i])))
    return data.loc[order].reset_index(drop=True)


def _error(row: Any, results: Results) -> tuple[float | None, bool]:
    """Of the student that these scores are of, on text without masks; whether its record is of a later training by the same parameters."""
    runs = results.primary
    runs = runs[(runs["training"] == row.training) & (runs["teacher"] == row.teacher) & (runs["model"] == row.model) & (runs["minutes"] == row.minutes)]
    students = {record.adapted.run_id for record in runs["record"] if record.adapted}
    data = distilled.frame(results)
    data = data[data["run_id"].isin(students) & ~data["masks"].astype(bool)]
    if data.empty:
        return None, False
    trained, = (r.started for r in results.adapt if r.run_id == data["run_id"].iloc[0])
    return float(data["error"].iloc[0]), any(record.started < trained for record in runs["record"])


def _student(record: Record, results: Results) -> str:
    """The name of the student that was searched on, else its record's."""
    wanted = record.params["student"]
    return next((r.transfer["result"]["name"] for r in results.adapt if r.run_id == wanted), wanted)


def rank_correlation(placements: pd.DataFrame) -> float | None:
    """Spearman's, of score and error before fine-tuning; None of fewer than FEWEST_RANKS placements."""
    known = placements.dropna(subset=["error"])
    return float(spearmanr(known["error"].astype(float), known["mean"]).statistic) if len(known) >= FEWEST_RANKS else None


def sentences(results: Results) -> list[str]:
    """One sentence a task: what the placements are worth after fine-tuning, and how that goes with their errors before it. Of many the
    best, the worst and those with a name."""
    lines = []
    for (training, teacher, count, task), group in frame(results).groupby([*GROUP, "count", "task"], sort=False):
        ranked = group.sort_values("mean", ascending=False)
        named = ranked["placement"].ne(NONE) | (len(ranked) <= MANY) | ranked.index.isin([*ranked.index[:2], *ranked.index[-2:]])
        parts = ", ".join(f"`{r.model}` ({r.layers}{f': {r.placement}' * (r.placement != NONE)}) {mean_sd(r.mean, r.sd, r.n)}"
                          for r in ranked[named].itertuples()) + f" (of {len(ranked)})" * (not named.all())
        measured = group.dropna(subset="error").sort_values("error")
        order = ", ".join(f"`{r.model}` {number(r.error)}" + " (a repeat's)" * r.repeated for r in measured.itertuples())
        ranks = rank_correlation(group)
        nearest = f"; rank correlation with the mean error of the states before that: {number(ranks, 2)} (n={len(measured)})" if ranks is not None else (
            f"; mean error of the states before that: {order}" if len(measured) > 1 else "")
        lines.append(f"- **Where attention stays, {group['task_title'].iloc[0]}** ({count} layers, recipe `{training}`, teacher `{teacher}`, "
                     f"after {group['minutes'].iloc[0]:g} minutes): {parts}{nearest}.")
    return lines
