"""The report's tables about why the naive swap fails: what each repair is worth, and what padding changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from .config import CALIBRATED, REPAIRS
from .results import (
    CELL, GROUP, NAMED_DESIGNS, Results, cells, design, footnotes, metric_title, model_key, notes_of, once, tagged, task_title,
    where,
)
from .statistics import holm, known, paired, shapley, spread, summarise, t_test, verdict
from .tables import INTERVALS, NONE, Table, heading, interval, mean_sd, number, went_wrong

Scores = dict[frozenset, dict[int, float]]  # the repairs in effect -> seed -> score

PLAYERS = tuple(name for name in REPAIRS if name != "projection")  # they lie between fnet-naive and fnet
NAIVE, PAPER, REPAIRED = (NAMED_DESIGNS[name] for name in ("fnet-naive", "fnet-paper", "fnet"))
MEASURES = {"alone": "Added alone", "left_out": "Left out alone", "shapley": "Share of the way",
            "shapley_4": "Share, projection included"}
_SPREAD = ["mean", "sd", "n", "low", "high"]
_ABLATION = [*GROUP, "task", "settings"]


def ablation_runs(results: Results) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """(training, teacher, task, settings), the runs of its design points; only where some repair stands alone.

    settings: what sets labels apart where models of a recipe differ (` [epochs=3]`), else empty.
    """
    single = {NAIVE | {name} for name in PLAYERS} | {REPAIRED - {name} for name in PLAYERS}
    runs = where(results.scored, lambda r: design(r.record) is not None)
    runs = runs.assign(settings=[name[len(model):] for name, model in zip(runs.label, runs.model)])
    for key, group in runs.groupby(_ABLATION, sort=False, dropna=False):
        points = {design(record) for record in group.record}
        if {NAIVE, REPAIRED} <= points and points & single:
            yield key, group


def _scores(group: pd.DataFrame) -> Scores:
    found: Scores = {}
    for r in group.itertuples():
        if len(known([r.last])):
            found.setdefault(design(r.record), {}).setdefault(r.seed, float(r.last))
    return found


def effects_of_repairs(scores: Scores) -> dict[tuple[str, str], list[float]]:
    """(measure, repair) -> one difference a seed; empty where a design point is missing.

    alone: with the repair minus without, from fnet-naive (the projection's: fnet-naive minus fnet-paper). left_out: fnet
    minus fnet without it. shapley: the share of the way from fnet-naive to fnet, over PLAYERS. shapley_4: that of the
    way from fnet-paper to fnet, with the projection as the fourth.
    """
    found = {}
    for name in REPAIRS:
        base = NAIVE - {name}
        for measure, more, less in (("alone", base | {name}, base), ("left_out", REPAIRED, REPAIRED - {name})):
            ours, theirs = scores.get(more, {}), scores.get(less, {})
            found[measure, name] = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    for measure, players, always in (("shapley", PLAYERS, NAIVE), ("shapley_4", tuple(REPAIRS), PAPER)):
        shares = list(_shares(scores, players, always))
        found |= {(measure, name): [share[name] for share in shares] for name in players}
    return found


def _shares(scores: Scores, players: tuple[str, ...], always: frozenset) -> Iterator[dict[str, float]]:
    """Shapley values seed by seed, of the seeds that have every point which keeps the repairs in `always`."""
    for seed in sorted({seed for by_seed in scores.values() for seed in by_seed}):
        values = {point - always: by_seed[seed] for point, by_seed in scores.items()
                  if seed in by_seed and always <= point}
        if share := shapley(values, players):
            yield share


def _tested(effects: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    """One row an effect; p values are Holm-corrected over the repairs of one measure."""
    rows = []
    for measure in MEASURES:
        names = [name for other, name in effects if other == measure]
        ps = [t_test(effects[measure, name]) for name in names]
        for name, p, corrected in zip(names, ps, holm(ps)):
            rows.append({"quantity": measure, "of": name, **vars(summarise(effects[measure, name])), "p": p,
                         "p_holm": corrected, "verdict": verdict(corrected)})
    return rows


@once
def ablation(results: Results) -> Table:
    """What each repair is worth: added alone, left out alone, and its share of the way; every design point's score."""
    rows, sections = [], {}
    for key, group in ablation_runs(results):
        training, teacher, task, settings = key
        common = {**dict(zip(_ABLATION, key)), "metric": metric_title(group.metric), "note": notes_of(group)}
        tested, points = _tested(effects_of_repairs(_scores(group))), cells(group)
        rows += [{**common, **row} for row in tested]
        rows += [{**common, "quantity": "score", "of": cell.label, **{name: getattr(cell, name) for name in _SPREAD}}
                 for cell in points.itertuples()]
        title = heading(training, teacher, task_title(task, group.note)) + settings
        sections |= {title: _effects_section(tested), f"Scores, {title}": _points_section(group, points)}
    data = pd.DataFrame(rows, columns=[*_ABLATION, "metric", "quantity", "of", *_SPREAD, "p", "p_holm", "verdict",
                                       "note"])
    notes = [_ABLATION_NOTE, *footnotes(data)]
    if data.empty:
        notes = ["No ablation here: it needs runs of `fnet-naive`, `fnet` and recipes with single repairs between them."]
    return Table("ablation", tagged("What each repair is worth", results.tag), data, sections, notes)


_ABLATION_NOTE = (
    f"Score after the last epoch, paired by seed: mean difference [interval] (seeds). {INTERVALS} *Added alone*: "
    "`fnet-naive` with this repair minus without. *Left out alone*: `fnet` minus `fnet` without it. *Share of the way*: "
    "Shapley value, the repair's effect averaged over all orders of adding norm, mask and gain, so that the shares add up "
    "to `fnet` minus `fnet-naive`; with the projection included, to `fnet` minus `fnet-paper`. The projection added alone "
    "is `fnet-naive` minus `fnet-paper`. *Significant*: paired t-test, p below 0.05 after Holm's correction over the "
    "repairs of a column and task; with three seeds it finds large effects only.")


def _effects_section(tested: list[dict[str, Any]]) -> pd.DataFrame:
    rows = {name: {"Repair": name} for name in REPAIRS}
    for r in pd.DataFrame(tested).itertuples():
        shown = f"{interval(r.mean, r.low, r.high, r.n)}, {r.verdict}" if r.n else NONE
        rows[r.of][MEASURES[r.quantity]] = shown
    frame = pd.DataFrame(rows.values(), columns=["Repair", *MEASURES.values()]).fillna(NONE)
    return frame.loc[:, (frame != NONE).any()]


def _points_section(group: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    have = {label: design(part.record.iloc[0]) for label, part in group.groupby("label")}
    return pd.DataFrame([{
        "Model": cell.label, **{name: "yes" if name in have[cell.label] else NONE for name in REPAIRS},
        f"{metric_title([cell.metric])} (n)": mean_sd(cell.mean, cell.sd, cell.n),
        "What went wrong": went_wrong(cell) or NONE} for cell in points.itertuples()])


def ablation_sentences(results: Results) -> list[str]:
    """One line a task: from the naive score to the repaired one, and what each repair has to do with it."""
    lines = []
    for (training, teacher, task, settings), part in ablation(results).data.groupby(_ABLATION, sort=False, dropna=False):
        score = part[part.quantity == "score"].set_index("of")["mean"]
        start, end = (number(score.get(f"{name}{settings}")) for name in ("fnet-naive", "fnet"))
        players, axis = (part[part.of.isin(names) & (part.n > 0)] for names in (PLAYERS, ("projection",)))
        parts = [f"from `fnet-naive` {start} to `fnet` {end}",
                 _ranked("shares of the way (Shapley values, ", players[players.quantity == "shapley"]),
                 _ranked("added alone to `fnet-naive` (", players[players.quantity == "alone"]),
                 _ranked("lost by `fnet` when left out alone (", players[players.quantity == "left_out"]),
                 _ranked("worth of the projection in `fnet-naive` (", axis[axis.quantity == "alone"]),
                 _ranked("and in `fnet` (", axis[axis.quantity == "left_out"])]
        lines.append(f"- **What repairs it, {task_title(task, part.note)}** ({part.metric.iloc[0]}; "
                     f"recipe `{training}`, teacher `{teacher}`{settings}): {'; '.join(filter(None, parts))}.")
    return lines


def _ranked(words: str, rows: pd.DataFrame) -> str:
    """`words n=5): gain +0.060 (significant), ...`, the largest effect first; empty without rows."""
    if rows.empty:
        return ""
    seeds = " to ".join(map(str, sorted({rows.n.min(), rows.n.max()})))
    ranked = rows.sort_values("mean", ascending=False, kind="stable")
    effects = [f"{r.of} {number(r.mean, sign=True)} ({r.verdict})" for r in ranked.itertuples()]
    return f"{words}n={seeds}): {', '.join(effects)}"


_REFITTED = [*CELL, "metric", "base", "base_mean", "base_sd", "base_n", "mean", "sd", "n", "difference", "low", "high",
             "pairs", "p", "verdict", "note"]


_FIT_ADDS = {"+aft": ("+gated",), "+taylor": ("+gated",), "+gated": ("", "+filter"), "+filter": ("",)}


def _bases(name: str) -> list[str]:
    """The recipes that a recipe fitted in closed form is compared with: itself without the fit, a gated filter also with
    the filter alone, what begins as a gated filter with that."""
    if CALIBRATED in name:
        return [name.replace(CALIBRATED, "", 1)]
    fitted = next((mixer for mixer in _FIT_ADDS if mixer in name), None)
    return [name.replace(fitted, other, 1) for other in _FIT_ADDS[fitted]] if fitted else []


def closed_form(results: Results) -> Table:
    """What is set from the teacher in closed form (projections, filters, gates) adds, all fine-tuned."""
    groups = dict(iter(results.scored.groupby(CELL, sort=False, dropna=False)))
    rows = []
    for key, group in groups.items():
        for base in _bases(key[3]):
            if (plain := groups.get((*key[:3], base))) is not None:
                rows.append({**dict(zip(CELL, key)), "base": base, **_refit(group, plain)})
    data = pd.DataFrame(rows, columns=_REFITTED)
    sections = {heading(*key): _refit_section(part) for key, part in data.groupby(GROUP, sort=False, dropna=False)}
    notes = ["Score after the last epoch. Before fine-tuning, some hundred unlabelled sentences set, without a gradient "
             "step: the output projections (`-calibrated`), one filter a head on BERT's values (`+filter`), gates on the keys "
             f"and filters (`+gated`). Difference paired by seed, mean [interval] (pairs). {INTERVALS} *Significant*: paired "
             "t-test, p below 0.05.", *footnotes(data)]
    if data.empty:
        notes = ["No fitted recipe beside its plain one here."]
    return Table("closed_form", tagged("Closed-form fits to the teacher", results.tag), data, sections, notes)


def _refit(group: pd.DataFrame, plain: pd.DataFrame) -> dict[str, Any]:
    ours, theirs = (part.set_index("seed")["last"].astype(float) for part in (group, plain))
    change, p = paired(ours, theirs), t_test(ours - theirs)
    return {"metric": metric_title(group.metric), **dict(zip(("base_mean", "base_sd", "base_n"), spread(theirs))),
            **dict(zip(("mean", "sd", "n"), spread(ours))), "difference": change.mean, "low": change.low,
            "high": change.high, "pairs": change.n, "p": p, "verdict": verdict(p), "note": notes_of(group)}


def _refit_section(part: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([{
        "Task": f"{task_title(r.task, [r.note])} {r.metric}", "Model": r.label,
        "Score (n)": mean_sd(r.mean, r.sd, r.n), "Beside": r.base, "Its score (n)": mean_sd(r.base_mean, r.base_sd, r.base_n),
        "Difference": f"{interval(r.difference, r.low, r.high, r.pairs)}, {r.verdict}"} for r in part.itertuples()])


def closed_form_sentences(results: Results) -> list[str]:
    """One line a recipe and teacher: what the fits add, task by task."""
    lines = []
    for (training, teacher), part in closed_form(results).data.groupby(GROUP, sort=False, dropna=False):
        found = [f"`{r.label}` minus `{r.base}` is {number(r.difference, sign=True)} on "
                 f"{task_title(r.task, [r.note])} ({r.verdict}, n={r.pairs})" for r in part.itertuples()]
        lines.append(f"- **Closed-form fits** (recipe `{training}`, teacher `{teacher}`): {'; '.join(found)}.")
    return lines


def padding_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per (training, teacher, task, model, padding length): score over seeds, and how many predictions changed.

    runs: rows of Results.finetune; those not scored at several lengths are left out. `padded_to` 0 is every example at
    its own length; `changed` the most predictions changed in any run, of `examples`; `collapsed` the number of runs that
    predict one class (and so hardly can change).
    """
    runs = where(runs, lambda r: bool(r.record.metrics and r.record.metrics.padding))
    rows = []
    for key, group in runs.groupby(CELL, sort=False, dropna=False):
        entries = pd.DataFrame([entry for record in group.record for entry in record.metrics.padding])
        common = {**dict(zip(CELL, key)), "precision": group.record.iloc[0].params.get("precision"),
                  "metric": group.metric.iloc[0], "note": notes_of(group), "runs": len(group),
                  "examples": max(sum(record.metrics.predicted.values()) for record in group.record),
                  "collapsed": sum(record.metrics.degenerate for record in group.record)}
        for length, part in entries.groupby("padded_to"):
            rows.append({**common, "padded_to": int(length), **dict(zip(("mean", "sd", "n"), spread(part.score))),
                         "changed": int(part.changed.max())})
    return pd.DataFrame(rows, columns=[*CELL, "precision", "metric", "padded_to", "mean", "sd", "n", "changed",
                                       "examples", "collapsed", "runs", "note"])


def padding(results: Results) -> Table:
    """The same models' scores with every example padded to at least so many tokens."""
    data = padding_frame(results.scored)
    sections = {heading(training, teacher, task_title(task, part.note)): _padding_section(part)
                for (training, teacher, task), part in data.groupby([*GROUP, "task"], sort=False, dropna=False)}
    notes = ["The fine-tuned models scored again on the validation set, nothing changed but the padding: mean ± standard "
             "deviation (n). *Most changed*: the largest number of predictions, in any one run at any of these lengths, "
             "that differ from those without padding. The headline scores are of batches padded to their longest "
             "example, and so differ from those at the examples' own length where padding counts. † all runs predict one "
             "class at their own batches' padding.",
             *(line.removeprefix("- ") for line in padding_sentences(results)), *footnotes(data)]
    if data.empty:
        notes = ["No run here was scored at several padding lengths."]
    return Table("padding", tagged("Score by padding length", results.tag), data, sections, notes)


def padding_title(length: int) -> str:
    return f"≥ {length}" if length else "own length"


def _padding_section(part: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for label, model in part.groupby("label", sort=False):
        collapsed = "†" * bool((model.collapsed == model.runs).all())
        rows.append({"Model": f"{label}{collapsed}",
                     **{padding_title(r.padded_to): mean_sd(r.mean, r.sd, r.n) for r in model.itertuples()},
                     "Most changed": f"{model.changed.max()} of {model.examples.max()}"})
    lengths = [padding_title(length) for length in sorted(part.padded_to.unique())]
    return pd.DataFrame(rows, columns=["Model", *lengths, "Most changed"])


def padding_sentences(results: Results) -> list[str]:
    """Per precision: the models that changed no prediction under any padding in any run, and those that did."""
    data, lines = padding_frame(results.scored), []
    for precision, padded in data[data.padded_to > 0].groupby("precision", sort=False, dropna=False):
        runs = padded.drop_duplicates(CELL).runs.sum()
        steady, moved = [], []
        for label, model in sorted(padded.groupby("label"), key=lambda item: model_key(item[0])):
            worst = model.loc[model.changed.idxmax()]
            if worst.changed:
                task = task_title(worst.task, [worst.note])
                moved.append(f"`{label}` (up to {worst.changed} of {worst.examples}, {task})")
            else:
                one_class = (model.collapsed == model.runs).all()
                steady.append(f"`{label}`" + " (which predicts one class throughout)" * bool(one_class))
        lengths = ", ".join(map(str, sorted(padded.padded_to.unique())))
        lines.append(f"- **Padding** to {lengths} tokens ({precision}, {runs} runs): every prediction stayed the same in "
                     f"{', '.join(steady) or 'no model'}; some changed in {', '.join(moved) or 'no model'}.")
    return lines
