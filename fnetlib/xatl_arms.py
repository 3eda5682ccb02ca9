"""XATL's other arms: freezing by its threshold (LIT), distillation, component groups alone.

All of a student's arms of one budget start from one teacher and see the same text, so that they compare with the transferred one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from . import xatl_seeds
from .params import AdaptParams
from .plan import lacking_students
from .results import Results, once, tagged, where
from .tables import NONE, Table, number
from .transfer import parse_groups
from .xatl_runs import FROM_SCRATCH, TRANSFERRED, arm_of, best_rates, speedups, students, times

DISTILLED = "distilled"  # by the states alone; the masked-LM head rests
KEY = ["model", "seed", "steps"]
COLUMNS = ["model", "seed", "steps", "teacher", "arm", "learning_rate", "edge", "tokens", "loss", "against_transferred", "by_rate",
           "speedup", "at_least", "at_start", "unfrozen_at_step", "trainable_before", "total", "clear", "record"]


@once
def blocks(results: Results) -> pd.DataFrame:
    """The runs of each student's from-scratch budgets that have other arms: from scratch, or from the teacher that has most arms there."""
    frame = students(results).sort_values("steps", kind="stable")
    kept = [part for _, every in frame.groupby(KEY, sort=False) if (part := _of_one_teacher(every)) is not None]
    return pd.concat(kept, ignore_index=True) if kept else frame.iloc[:0]


def _of_one_teacher(part: pd.DataFrame) -> pd.DataFrame | None:
    arms = part[part["arm"] != FROM_SCRATCH].groupby("teacher")["arm"].agg(set)
    arms = arms[arms.map(lambda found: bool(found - {TRANSFERRED}))]
    return part[(part["arm"] == FROM_SCRATCH) | (part["teacher"] == arms.map(len).idxmax())] if len(arms) else None


@once
def compare(results: Results) -> pd.DataFrame:
    """One row a (student, budget, arm) of `blocks`, its best learning rate.

    against_transferred: held-out loss above the transferred student's, each at its best rate, nats; by_rate: learning rate ->
    the same where both have it. speedup, at_least, at_start: over from scratch, see `speedups`.
    unfrozen_at_step, trainable_before: of LIT's arms, None of others. total: parameters.
    """
    rows = []
    sooner = {(r.model, r.seed, r.steps, r.arm, r.teacher): r for r in speedups(results).itertuples()}
    for key, part in blocks(results).groupby(KEY, sort=False):
        plain = part[part["arm"] == TRANSFERRED]
        by_rate = plain.groupby("learning_rate")["loss"].min()
        for r in sorted(best_rates(part).itertuples(), key=_order):
            speed = sooner.get((*key, r.arm, r.teacher))
            frozen, counted = "freeze" in r.record.params, r.record.parameters
            rows.append({
                **{name: getattr(r, name) for name in COLUMNS if hasattr(r, name)},
                "against_transferred": r.loss - plain["loss"].min() if len(plain) else None,
                "by_rate": (part[part["arm"] == r.arm].groupby("learning_rate")["loss"].min() - by_rate).dropna().to_dict(),
                **{name: speed and getattr(speed, name) for name in ("speedup", "at_least", "at_start")},
                "unfrozen_at_step": r.record.timing.get("unfrozen_at_step"),
                "trainable_before": counted.trainable if counted and frozen else None,
                "total": counted.total if counted else None})
    return pd.DataFrame(rows, columns=COLUMNS)


def _order(row: Any) -> tuple:
    """From scratch, by component groups, transferred, LIT by what it leaves to train, the rest."""
    groups, counted = row.record.params["groups"].split(","), row.record.parameters
    if row.arm == FROM_SCRATCH:
        return (0,)
    if "freeze" in row.record.params:
        return (3, -counted.trainable if counted else 0, row.arm)
    if row.arm.startswith(TRANSFERRED):
        return (2,) if row.arm == TRANSFERRED else (1, len(groups), row.arm)
    return (4, row.arm)


def arms(results: Results) -> Table:
    """Every arm of every budget that has some, beside the transferred one of the same teacher."""
    data = compare(results)
    several = data["seed"].nunique() > 1
    sections = {f"`{model}` after {steps:,} steps ({number(part['tokens'].min() / 1e6, 1)} M tokens), teacher `{part['teacher'].max()}`" + f", seed {seed}" * several: pd.DataFrame([{
        "Arm": r.arm, "Best rate": f"{r.learning_rate:g}" + (f" ({r.edge})" if r.edge else ""), "Loss": number(r.loss),
        "Against transferred": NONE if r.arm == TRANSFERRED else number(r.against_transferred, sign=True),
        f"At rate {', '.join(f'{rate:g}' for rate in _rates(part))}": _by_rate(r, part),
        "Sooner than from scratch": times(r.speedup, r.at_least, r.at_start),
        "Unfrozen at step": None if pd.isna(r.unfrozen_at_step) else f"{r.unfrozen_at_step:.0f}",
        "Trainable before": None if pd.isna(r.trainable_before) else f"{r.trainable_before:,.0f} of {r.total:,.0f}"}
        for r in part.itertuples()])
        for (model, seed, steps), part in data.groupby(KEY, sort=False)}
    notes = ["Of each section all runs see the same text; losses are held-out masked-LM losses in nats, differences are to the "
             "transferred student of the same teacher, negative is better. Each arm by its best learning rate, one seed; *lowest*, "
             "*highest*, *only rate*: of those tried. *At rate ...*: the difference where both have that rate. *At least*: there by "
             "the first evaluation; *untrained*: before the first step.", *_notes(data, results)]
    if not sections:
        notes = ["No other arm has a from-scratch budget here: `02_transfer` with `-p freeze`, `-p groups` or "
                 "`-p adapt distill`."]
    return Table("xatl-arms", tagged("XATL's arms", results.tag),
                 data.drop(columns=["by_rate", "record"]), sections, notes)


def _rates(part: pd.DataFrame) -> list[float]:
    return sorted({rate for found in part["by_rate"] for rate in found})


def _by_rate(row: Any, part: pd.DataFrame) -> str:
    return NONE if row.arm == TRANSFERRED else ", ".join(number(row.by_rate.get(rate), sign=True) for rate in _rates(part))


def _notes(data: pd.DataFrame, results: Results) -> list[str]:
    """What a reader must know to compare the arms: what LIT left to train, distillation's loss, repeats, what is missing."""
    notes = []
    if data["trainable_before"].notna().any():
        frozen = data[data["trainable_before"].notna()]
        least = frozen.loc[frozen.groupby("model", sort=False)["trainable_before"].idxmin()]
        notes.append("*LIT freezes PLAN (threshold, patience)*: parts rest until the training loss improves by less than the threshold; "
                     "each plan freezes what the one above it does and more, `embeddings` the masked-LM head too. A mixer without parameters "
                     "has nothing to learn with meanwhile: with everything transferred frozen a Fourier layer trains its gain "
                     "alone, a hybrid its kept attention beside it (the least here: "
                     + ", ".join(f"`{r.model}` {r.trainable_before:,.0f} parameters" for r in least.itertuples()) + ").")
    if (data["arm"] == DISTILLED).any():
        notes.append("*Distilled* trains on the teacher's hidden states, not on the masked-LM loss: its loss is that of its states "
                     "under the head that it was given and that rests" + _other_lengths(data) + "; a teacher that was never trained with masks "
                     "may have no head, then the loss says nothing.")
    repeats = [f"`{r.model}` after {r.steps:,} steps {number(r.difference, sign=True)} (`{r.teacher}`, {r.learning_rate:g})"
               for r in repeated(results).itertuples()]
    if repeats:
        notes.append(f"The transferred arm once more, from another teacher, at the same rate, where it differs most: {', '.join(repeats)}.")
    notes += [f"From another teacher, against its own transferred student at the same rate: {'; '.join(found)}." for found in [elsewhere(results)] if found]
    return notes + [f"Without a record: {'; '.join(lacking)}." for lacking in [missing(results)] if lacking]


def _other_lengths(data: pd.DataFrame) -> str:
    """By how many tokens more or less the distilled students of a budget see, at most."""
    tokens = data.pivot_table("tokens", KEY, "arm").reindex(columns=[DISTILLED, TRANSFERRED]).dropna() / 1e6
    most = tokens.loc[(tokens[DISTILLED] - tokens[TRANSFERRED]).abs().idxmax()] if len(tokens) else None
    return (f"; without masks to draw, its text is cut elsewhere ({number(most[DISTILLED], 2)} against {number(most[TRANSFERRED], 2)} "
            "M tokens)") if most is not None and most.nunique() > 1 else ""


def repeated(results: Results) -> pd.DataFrame:
    """What a run differs by from another teacher of its kind (trained on this text or not, see `Preset.teachers`): model, steps, teacher,
    learning_rate, difference (nats, to the arms' teacher) of the transferred arm, at that of the learning rates of both where it is largest."""
    frame, rows, has_read = students(results), [], results.preset.teachers
    for (model, seed, steps), part in blocks(results).groupby(KEY, sort=False):
        mine = part[part["arm"] == TRANSFERRED].groupby("learning_rate")["loss"].min()
        theirs = frame[(frame["model"] == model) & (frame["seed"] == seed) & (frame["arm"] == TRANSFERRED)
                       & (frame["steps"] == steps) & ~frame["teacher"].isin(part["teacher"])
                       & (frame["teacher"].isin(has_read) == (part["teacher"].max() in has_read))]
        for teacher, runs in theirs.groupby("teacher"):
            gaps = (runs.groupby("learning_rate")["loss"].min() - mine).dropna()
            gaps = gaps[gaps.abs() < math.inf]  # one that diverged says nothing
            if len(gaps):
                rate = gaps.abs().idxmax()
                rows.append([model, steps, teacher, rate, gaps[rate]])
    return pd.DataFrame(rows, columns=["model", "steps", "teacher", "learning_rate", "difference"])


def elsewhere(results: Results) -> list[str]:
    """The other arms that `blocks` leaves out, of another teacher, each beside the transferred student of its teacher, rate and steps."""
    found, shown = [], {r.run_id for r in blocks(results)["record"]}
    away = where(students(results), lambda r: r.arm != FROM_SCRATCH and r.record.run_id not in shown)
    for (model, _, steps, teacher, rate), runs in away.groupby([*KEY, "teacher", "learning_rate"]):
        plain = runs[runs["arm"] == TRANSFERRED]["loss"].min()
        found += [f"`{model}` {r.arm} {number(r.loss)} against {number(plain)} ({number(r.loss - plain, sign=True)}; `{teacher}`, {rate:g}, {steps:,} steps)"
                  for r in runs[runs["arm"] != TRANSFERRED].itertuples() if pd.notna(plain)]
    return found


def missing(results: Results) -> list[str]:
    """What the preset plans of these arms and no record answers: arm, student, learning rate and steps."""
    known = {(r.model, r.seed, r.teacher, r.steps) for r in blocks(results).itertuples()}
    plans, found = results.preset.adaptations(), []
    for name in lacking_students(results.preset, results.adapt):
        plan = AdaptParams.parse(plans[name])
        if (plan.model, plan.seed, Path(plan.teacher).name, plan.adaptation().get("steps")) in known:
            found.append(f"{arm_of(plan.adaptation())} ({plan.model}, {plan.learning_rate:g}, {plan.adaptation()['steps']:,} steps)")
    return found


def sentences(results: Results) -> list[str]:
    """What freezing, distillation and each component group are worth, one sentence each a student."""
    data = compare(results)
    noise = _noise(results)
    parts = [part for _, part in data.groupby(KEY, sort=False) if (part["arm"] == TRANSFERRED).any()]
    return [line for line in [*(_freezing(part, noise) for part in parts), *(_distillation(part) for part in parts),
                              *(_components(part, results) for part in parts)] if line]


def _noise(results: Results) -> dict[tuple[str, int], tuple[float, str]]:
    """(student, steps) -> what two runs of the transferred arm differ by that differ in nothing that counts (nats), and in what they do: in the
    teacher's training, or where none of its kind was repeated, in the seed."""
    seeds = xatl_seeds.frame(results).groupby(["model", "steps", "teacher"])["loss"].agg(lambda found: found.max() - found.min())
    found = {(model, steps): (value, "Seeds of the transferred student differ") for (model, steps, _), value in seeds.items()}
    for key, runs in repeated(results).groupby(["model", "steps"]):
        found[key] = (runs["difference"].abs().max(), "A repeat from another teacher differs")
    return found


def _head(title: str, part: pd.DataFrame, rates: str = "") -> str:
    first = part[part["arm"] == TRANSFERRED].iloc[0]
    rates = rates or "best of the learning rates" + (f", transferred: the {first['edge']} tried" if first["edge"] else "")
    return (f"- **{title}, `{first['model']}`** (masked-LM loss after {number(first['tokens'] / 1e6, 1)} M tokens, {rates}, "
            f"teacher `{first['teacher']}`, one seed): ")


def _freezing(part: pd.DataFrame, noise: dict[tuple[str, int], tuple[float, str]]) -> str:
    frozen, model = part[part["trainable_before"].notna()], part["model"].iloc[0]
    if frozen.empty:
        return ""
    plans, usual = _plans(frozen), part[part["arm"] == TRANSFERRED]["learning_rate"].iloc[0]
    shown = ", ".join(f"{plan} {number(r.against_transferred, sign=True)} ({_thaw(r.unfrozen_at_step)})"
                      for plan, r in zip(plans, frozen.itertuples()))
    least, repeat = noise.get((model, part["steps"].iloc[0]), (0.0, ""))
    at_usual = [usual in found for found in frozen["by_rate"]]  # else the best of what is there says how much that rate is worth
    gaps = [(plan, gap) for plan, gap, there in zip(plans, frozen["against_transferred"], at_usual) if there]
    helps, hurts = [plan for plan, gap in gaps if gap < -least], [plan for plan, gap in gaps if gap > least]
    apart = [plan for plan, there in zip(plans, at_usual) if not there]
    beyond = f"{repeat} by up to {number(least)}; beyond that it" if repeat else "It"
    by_rate = [f"{sum(gap < 0 for gap in gaps)} of {len(gaps)} ({rate:g})" for rate in _rates(frozen)
               if (gaps := [found[rate] for found in frozen["by_rate"] if rate in found])]
    return (_head("XATL's freezing (LIT)", part) + f"against {number(_plain(part))} of the transferred student, freezing at first "
            f"{shown}. {beyond} helps with {', '.join(helps) or 'none'} and hurts with {', '.join(hurts) or 'none'}"
            + f" ({', '.join(apart)}: no run here at the transferred student's rate, {usual:g})" * bool(apart)
            + f"; at equal learning rates the loss is lower in {', '.join(by_rate)}.")


def _plans(frozen: pd.DataFrame) -> list[str]:
    """What each arm freezes; the threshold and patience too where they tell arms apart."""
    params = [r.params for r in frozen["record"]]
    several = len({(p["lit_threshold"], p["lit_patience"]) for p in params}) > 1
    return [p["freeze"].replace("_", " ") + (f" [{p['lit_threshold']:g}, {p['lit_patience']}]" if several else "") for p in params]


def _thaw(step: float | None) -> str:
    return "never unfrozen" if pd.isna(step) else f"unfrozen at step {step:.0f}"


def _distillation(part: pd.DataFrame) -> str:
    lines = []
    for r in part[part["arm"].str.startswith(DISTILLED)].itertuples():
        error, start = r.record.metrics.history[-1].get("layer_errors"), r.record.metrics.history[0]["eval_loss"]
        head = " under the teacher's resting head" if r.arm == DISTILLED and "mlm_head" in parse_groups(r.record.params["groups"]) else ""
        lines.append(
            f"{r.arm} {number(r.loss)}{head} against {number(_plain(part))} transferred ({number(r.against_transferred, sign=True)})"
            + (f", {'below' if r.loss < start else 'above'} the {number(start)} of the untrained swap" if start is not None else "")
            + (", and no better than token frequencies" if not r.clear else "")
            + (f"; the last layer's states are off by {number(error[-1], 2)} of their variance" if error else ""))
    return _head("Distillation at XATL's budget", part) + "; ".join(lines) + "." if lines else ""


def _plain(part: pd.DataFrame) -> float:
    return part[part["arm"] == TRANSFERRED]["loss"].iloc[0]


def _components(part: pd.DataFrame, results: Results) -> str:
    """Groups added one after the other, each step's loss minus the last's, at one learning rate: of those of most of its runs the best."""
    model, rate, chain = part["model"].iloc[0], *_chain(part, blocks(results))
    if not chain:
        return ""
    (groups, first), (_, last) = chain[0], chain[-1]
    steps = [f"{_added(before, after)} {number(loss - previous, sign=True)}" for (before, previous), (after, loss) in zip(chain, chain[1:])]
    start = f"with {_added((), groups)}" if groups else f"from scratch ({number(part['loss'].iloc[0])} at its best rate)"
    lacking = [text for text in missing(results) if text.startswith(f"{TRANSFERRED}: ") and f"({model}," in text and f" {part['steps'].iloc[0]:,} steps)" in text]
    return (_head("XATL's components", part, f"learning rate {rate:g}") + f"{number(first)} {start}, then {', '.join(steps)}, which makes "
            + number(last) + (f"; without a record: {'; '.join(lacking)}" if lacking else "") + ".")


def _chain(part: pd.DataFrame, runs: pd.DataFrame) -> tuple[float, list[tuple[tuple[str, ...], float]]]:
    """(learning rate, [(component groups, loss), ...]) of one student, each holding the groups of the one before it."""
    runs = runs[(runs[KEY] == part[KEY].iloc[0]).all(axis=1)]
    some = runs["arm"].str.startswith(f"{TRANSFERRED}:") & ~runs["arm"].str.contains("LIT")
    if not some.any():
        return 0.0, []
    tried = runs[some].groupby("learning_rate")["loss"].agg(["size", "mean"])
    rate = tried[tried["size"] == tried["size"].max()]["mean"].idxmin()
    runs = runs[(runs["learning_rate"] == rate) & (some | runs["arm"].isin([FROM_SCRATCH, TRANSFERRED]))].sort_values("loss")
    chain: list[tuple[tuple[str, ...], float]] = []
    for groups, loss in sorted(((parse_groups(r.record.params["groups"]), r.loss) for r in runs.itertuples()), key=lambda row: len(row[0])):
        if not chain or set(chain[-1][0]) < set(groups):
            chain.append((groups, loss))
    return rate, chain


def _added(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    return " + ".join(name.replace("_", " ") for name in after if name not in before)
