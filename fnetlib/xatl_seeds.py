"""XATL's comparison again with other seeds: other initial weights, another order of the text. How far the figures are one seed's."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from .results import Results, once, tagged
from .tables import Table, mean_sd, number
from .xatl_runs import (
    FROM_SCRATCH, TRANSFERRED, arm, at_first_evaluation, budget_names, compared, crossing, final_loss, held_out, scored, setting, speedups,
)

COLUMNS = ["model", "teacher", "steps", "tokens", "seed", "scratch_rate", "rate", "scratch_loss", "loss", "speedup", "at_least", "gain_pct"]


@once
def frame(results: Results) -> pd.DataFrame:
    """One row a (student, budget, teacher, seed) that has both arms, where two seeds or more have: losses (nats) of a run from scratch
    and of a transferred one of as many steps on the same batches, `speedup` (steps of the one over those after which the other is at its
    loss, `at_least`: it is by its first evaluation) and `gain_pct`, None of a transferred run that diverged; a rival that did is none.
    Each arm at one learning rate (`scratch_rate`, `rate`): of those that most seeds have the best."""
    runs, rows, names = _runs(results), [], _names(results)
    for (model, steps), part in runs.groupby(["model", "steps"]):
        if steps not in names.get(model, {}):  # no budget of the other tables
            continue
        rivals = _at_one_rate(part[part["arm"] == FROM_SCRATCH])
        for teacher, inherited in part[part["arm"] == TRANSFERRED].groupby("teacher"):
            pairs = [(rivals[seed], r) for seed, r in _at_one_rate(inherited).items() if seed in rivals and math.isfinite(rivals[seed].loss)]
            rows += [_pair(teacher, *pair) for pair in pairs if len(pairs) > 1]
    return pd.DataFrame(rows, columns=COLUMNS)


def _runs(results: Results) -> pd.DataFrame:
    """Both arms' runs of every seed in the setting of XATL's tables (`xatl_runs.compared`)."""
    records = scored(results.adapt)
    main = {r.model: _but_seed(r) for r in compared(records)}
    rows = [[r.model, arm(r), "" if r.teacher is None else r.teacher.name, r.params["learning_rate"], r.seed, r.timing["steps"],
             final_loss(r), r] for r in records if main.get(r.model) == _but_seed(r)]
    return pd.DataFrame(rows, columns=["model", "arm", "teacher", "learning_rate", "seed", "steps", "loss", "record"])


def _but_seed(record: Any) -> tuple:
    *common, (text, _, *batches) = setting(record)
    return (*common, text, *batches)


def _at_one_rate(part: pd.DataFrame) -> dict[int, Any]:
    """seed -> the run at the learning rate that most seeds have, the better one where it was run twice."""
    if part.empty:
        return {}
    of_seed = part.loc[part.groupby(["learning_rate", "seed"])["loss"].idxmin()]
    tried = of_seed.groupby("learning_rate")["loss"].agg(["size", "mean"])
    rate = tried[tried["size"] == tried["size"].max()]["mean"].idxmin()
    return {r.seed: r for r in of_seed[of_seed["learning_rate"] == rate].itertuples()}


def _pair(teacher: str, scratch: Any, inherited: Any) -> list[Any]:
    points = held_out(inherited.record, "step")
    at = crossing(points, scratch.loss)
    return [scratch.model, teacher, scratch.steps, scratch.record.metrics.history[-1]["tokens"], scratch.seed, scratch.learning_rate,
            inherited.learning_rate, scratch.loss, inherited.loss, scratch.steps / at if at else None,
            at is not None and at_first_evaluation(points, scratch.loss),
            100 * (1 - inherited.loss / scratch.loss) if math.isfinite(inherited.loss) else None]


def _names(results: Results) -> dict[str, dict[int, str]]:
    return {model: budget_names(part) for model, part in speedups(results).groupby("model")}


def table(results: Results) -> Table:
    """Speed-up and gain by runs of as many steps: mean and standard deviation over seeds, and each seed's."""
    data, names, sections = frame(results), _names(results), {}
    for model, part in data.groupby("model", sort=False):
        sections[f"`{model}`"] = pd.DataFrame([{
            "From-scratch budget": f"{names[model][steps]}: {number(rows['tokens'].iloc[0] / 1e6, 1)} M tokens", "Teacher": teacher,
            "Learning rates": f"{rows['scratch_rate'].iloc[0]:g}, {rows['rate'].iloc[0]:g}",
            "From scratch, nats": _spread(rows["scratch_loss"], 3), "Transferred, nats": _spread(rows["loss"].replace(math.inf, math.nan), 3),
            "Sooner": in_words(_sooner(rows)), "Each": ", ".join(_each(r) for r in rows.itertuples()),
            "Gain in loss, %": _spread(rows["gain_pct"], 1)}
            for (steps, teacher), rows in part.groupby(["steps", "teacher"])])
    notes = ["Held-out masked-LM losses; mean ± standard deviation (n seeds: other initial weights, another order of the text). Both arms of a seed see the "
             "same batches. *Learning rates*: from scratch, transferred; of those that most seeds have the best. *Sooner*: steps of the run from scratch over "
             "those after which the transferred run of as many steps is at its final loss; ≥: it is by its first evaluation, and so is the mean then at least that."]
    return Table("xatl-seeds", tagged("XATL by seed", results.tag), data, sections,
                 notes if sections else ["No student has both arms by two seeds here: `02_transfer` with `-p seed`."])


def _spread(values: pd.Series, digits: int) -> str:
    known = values.dropna()
    return mean_sd(known.mean(), known.std(), len(known), digits) if len(known) else "not"


def _each(row: Any) -> str:
    return "not" if pd.isna(row.speedup) else "≥ " * row.at_least + number(row.speedup, 1)


def _sooner(rows: pd.DataFrame) -> dict[str, Any]:
    return {**_moments(rows["speedup"]), "is_lower_bound": bool(rows["at_least"].any()), "not_reached": int(rows["speedup"].isna().sum())}


def in_words(sooner: dict[str, Any]) -> str:
    """`≥ 8.2 ± 0.5 (3), not in 1`: of `entries`."""
    mean = "≥ " * sooner["is_lower_bound"] + mean_sd(sooner["mean"], sooner["sd"], sooner["n"], 1) if sooner["n"] else ""
    return ", ".join([mean] * bool(mean) + [f"not in {sooner['not_reached']}"] * bool(sooner["not_reached"]))


def entries(results: Results) -> dict[str, dict[str, Any]]:
    """The summary's: student -> budget (`1x`, ...) -> `{teacher, speedup, gain_loss_pct}`, of the two {mean, sd, n}; of `speedup` also whether it
    `is_lower_bound` and in how many seeds it was `not_reached`, which are not in the mean. Of several teachers the one with most seeds."""
    found: dict[str, dict[str, Any]] = {}
    names = _names(results)
    for (model, steps), part in frame(results).groupby(["model", "steps"], sort=False):
        teacher = part["teacher"].value_counts().idxmax()
        rows = part[part["teacher"] == teacher]
        found.setdefault(model, {})[names[model][steps]] = {
            "teacher": teacher, "speedup": _sooner(rows), "gain_loss_pct": _moments(rows["gain_pct"])}
    return found


def _moments(values: pd.Series) -> dict[str, Any]:
    known = values.dropna().astype(float)
    if known.empty:
        return {"n": 0}
    return {"mean": round(float(known.mean()), 6), "sd": round(float(known.std()), 6) if len(known) > 1 else None, "n": len(known)}
