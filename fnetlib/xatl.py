"""XATL's claim, tested on encoders: how much sooner a student that inherits BERT's shared parts reaches the loss of one
trained from scratch, and what it gains at the same compute (Choi 2024, arXiv 2404.02684: up to 2.5x and 2.6 %).

Here is the comparison of the transferred arm at every budget, and what the report shows of the rest: `arms`, `glue`, `curves`,
`arm_curves`, `glue_curves`. The runs are read in `xatl_runs.py`.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from . import xatl_seeds
from .results import Results, tagged, where
from .tables import NONE, Table, number
from .xatl_arms import arms
from .xatl_arms import sentences as arm_sentences
from .xatl_glue import glue, glue_gains
from .xatl_plots import arm_curves, curves, glue_curves
from .xatl_runs import CLEAR, FROM_SCRATCH, LEARNED, TRANSFERRED, budget_names, headline, held_out, speedups, students, times

__all__ = ["answer", "arm_curves", "arms", "curves", "entries", "glue", "glue_curves", "glue_gains", "rates", "sentences", "table"]


def table(results: Results) -> Table:
    """Speed-up and gain of the transferred arm over training from scratch, one row a budget."""
    everything = speedups(results)
    data = headline(everything)
    several = data["teacher"].nunique() > 1
    sections, other, new = {}, _seconds_differ(data), {(r.model, r.steps): r for r in as_it_comes(results).itertuples()}
    for model, part in data.groupby("model", sort=False):
        names = budget_names(part)
        sections[f"`{model}`"] = pd.DataFrame([{
            "From-scratch budget": f"{names[r.steps]}: {number(r.tokens / 1e6, 1)} M tokens",
            "From-scratch loss": _marked(r.scratch_loss, [*_progress(r), r.scratch_edge]),
            **({"Teacher": r.teacher} if several else {}),
            "Sooner": times(r.speedup, r.at_least, r.at_start),
            **({"Sooner in GPU-seconds": times(r.seconds_speedup, r.at_least, r.at_start)} if other else {}),
            "Sooner, by a run of as many steps": times(r.equal_speedup, r.equal_at_least),
            **({AS_IT_COMES: _sooner(new.get((r.model, r.steps)))} if model in {name for name, _ in new} else {}),
            "Loss at the same budget": _marked(r.loss, [r.edge]), "Gain, nats": number(r.gain),
            "Gain in loss, %": number(None if pd.isna(r.gain) else 100 * r.gain / r.scratch_loss, 1)}
            for r in part.sort_values("steps").itertuples()])
    notes = ["No student was trained from scratch beside a transferred one here: `02_transfer` with `-p groups none`."]
    if len(data):
        notes = [_how(data, students(results), bool(new)), *_repeats(everything.drop(index=as_it_comes(results).index), data), *_repeated_rivals(students(results))]
    return Table("xatl", tagged("Sooner than from scratch", results.tag), data, sections, notes)


AS_IT_COMES = "Sooner, teacher as it comes (by a run of as many steps)"


def as_it_comes(results: Results) -> pd.DataFrame:
    """As `headline`, from a teacher that is not one of the preset's `teachers`, which were trained on this text here (whether it read the like
    before is not known). The budgets alone at which `headline`'s own teacher is one of those."""
    everything = speedups(results)
    shown = {(r.model, r.seed, r.steps) for r in headline(everything).itertuples() if r.refreshed}
    return where(headline(everything[~everything["refreshed"].astype(bool)]), lambda r: (r.model, r.seed, r.steps) in shown and pd.notna(r.speedup))


def _sooner(row: Any) -> str | None:
    if row is None or pd.isna(row.speedup):
        return None
    return times(row.speedup, row.at_least, row.at_start) + (f" ({times(row.equal_speedup, row.equal_at_least)})" if pd.notna(row.equal_speedup) else "")


def _seconds_differ(data: pd.DataFrame) -> bool:
    """Whether seconds alone on the device say something else than steps: both arms have one pace unless their work differs."""
    known = data[data["speedup"].notna() & data["seconds_speedup"].notna()]
    return bool(((known["seconds_speedup"] / known["speedup"] - 1).abs() > 0.01).any())


def _progress(rival: Any) -> list[str]:
    """How little a from-scratch run has learned, if little."""
    return [] if rival.learned else ["plateau"] if rival.clear else ["near unigram"]


def _how(data: pd.DataFrame, runs: pd.DataFrame, new: bool) -> str:
    """How the table's figures are meant."""
    evaluations = max(len(held_out(r, "step")) - 1 for r in runs["record"])
    return ((f"From teacher `{data['teacher'].iloc[0]}`. " if data["teacher"].nunique() == 1 else "")
            + "*Sooner*: steps of the from-scratch run over those after which the transferred student's held-out loss first reaches the "
            f"from-scratch run's final one, of its runs the one that is there first, mostly a shorter one, whose rate falls sooner; *at least*: its first evaluation ({evaluations} a run) is there already, *untrained*: the "
            "swap is before its first step, and what counts is its first evaluation after that. "
            + ("GPU-seconds: alone on the device. " if _seconds_differ(data) else "Both arms have one pace, so in GPU-seconds it is as much sooner. ")
            + "A teacher that was trained on this text itself, as `teachers` of the preset are, hands down what it learned there; *as it comes*: one that was not (what it read before it came is not known here). " * new
            + "The best of the arm's learning rates, one seed; *lowest*, *highest*, *only rate*: of those tried. *Near "
            f"unigram*: it ends less than {CLEAR:g} nats below what token frequencies alone give"
            + (f" ({number(data['unigram'].iloc[0], 2)} nats)" if data["unigram"].notna().any() else "")
            + f", so being faster than it proves nothing; *plateau*: less than {LEARNED:g} nats, where training from scratch rests for long, "
              "so it says how late that learns more than what is inherited. XATL reports up to 2.5x and 2.6 % (decoders of 410M to 1B "
              "parameters, 304B tokens); ours are encoders of some 20M parameters and at most "
              f"{number(data['tokens'].max() / 1e6, 0)} M tokens, where inheriting is worth the most.")


def _repeats(everything: pd.DataFrame, shown: pd.DataFrame) -> list[str]:
    """The transferred arm from the teachers that `headline` did not choose, where it has as many steps."""
    other = everything[(everything["arm"] == TRANSFERRED) & everything["loss"].notna() & ~everything.index.isin(shown.index)]
    ends = [f"`{r.model}` {number(r.loss)} after {r.steps:,} steps, {times(r.speedup, r.at_least, r.at_start) or 'not'} sooner (`{r.teacher}`)"
            for r in other.sort_values(["model", "steps"], kind="stable").itertuples()]
    return [f"From other teachers, not shown above: {'; '.join(ends)}."] if ends else []


def _repeated_rivals(runs: pd.DataFrame) -> list[str]:
    """From-scratch runs that were run again at the same rate: the better one is the rival."""
    rivals = runs[runs["arm"] == FROM_SCRATCH].groupby(["model", "steps", "learning_rate", "seed"], sort=False)["loss"]
    twice = [f"`{model}` after {steps:,} steps at {rate:g}: {', '.join(number(loss) for loss in sorted(losses))}"
             for (model, steps, rate, _), losses in rivals if len(losses) > 1]
    return [f"From scratch more than once with the same seed and batches, of which the better counts: {'; '.join(twice)}."] if twice else []


def _marked(loss: float | None, words: list[str]) -> str:
    words = [word for word in words if word]
    return number(loss) + (f" ({', '.join(words)})" if words else "")


def rates(results: Results) -> Table:
    """Every run of the comparison: final held-out loss by arm, budget and learning rate; the best one is chosen."""
    frame = students(results)
    data = frame.drop(columns="record").sort_values(["model", "arm", "teacher", "steps", "learning_rate"], kind="stable", ignore_index=True)
    sections, several = {}, len(set(data["teacher"]) - {""}) > 1
    for model, part in data.groupby("model", sort=False):
        shown = []
        for (name, teacher, steps), runs in part.groupby(["arm", "teacher", "steps"], sort=False):
            losses = {f"{rate:g}": ", ".join(_best(loss, loss == runs["loss"].min() and len(runs) > 1) for loss in of)
                      for rate, of in runs.groupby("learning_rate")["loss"]}
            shown.append({"Arm": name, **({"Teacher": teacher or NONE} if several else {}), "Steps": f"{steps:,}",
                          "M tokens": number(runs["tokens"].iloc[0] / 1e6, 1),
                          **{f"{rate:g}": losses.get(f"{rate:g}") for rate in sorted(set(part["learning_rate"]))}})
        sections[f"`{model}`"] = pd.DataFrame(shown)
    repeated = data.duplicated(["model", "arm", "teacher", "steps", "learning_rate", "seed"]).any()
    notes = ["Held-out masked-LM loss in nats after the last step, by peak learning rate; bold: the arm's best. "
             + "Two losses in a cell: the same run twice, seed and batches too; training is not deterministic. " * bool(repeated)
             + "Token frequencies alone give " + (number(data["unigram"].iloc[0], 2) if len(data) else "–") + "."]
    return Table("xatl-rates", tagged("Learning rates of the XATL arms", results.tag), data, sections, notes)


def _best(loss: float, best: bool) -> str:
    return "diverged" if math.isinf(loss) else f"**{number(loss)}**" if best else number(loss)


def sentences(results: Results) -> list[str]:
    """What inheriting is worth against training from scratch, one sentence a student; then what XATL's other arms are."""
    return transferred_sentences(results) + arm_sentences(results)


def transferred_sentences(results: Results) -> list[str]:
    """The first part of `sentences` alone."""
    lines = []
    for model, part in headline(speedups(results)).groupby("model", sort=False):
        rows = list(part.sort_values("steps").itertuples())
        names, last = budget_names(part), rows[-1]
        sooner = ", ".join(times(r.speedup, r.at_least, r.at_start) or "not reached" for r in rows)
        weak = dict.fromkeys(names[r.steps] for r in rows if not r.learned)
        lines.append(
            f"- **XATL, `{model}`** (masked-LM from scratch on {', '.join(number(r.tokens / 1e6, 1) for r in rows)} "
            f"M tokens; best of the learning rates, one seed): the transferred student reaches the from-scratch loss {sooner} "
            f"sooner" + (f"; after the longest budget its loss is {number(last.loss)} against {number(last.scratch_loss)}"
                         if pd.notna(last.loss) else "") + "."
            + (f" At {', '.join(weak)} the rival has hardly begun to learn, and does not count." if weak else ""))
    return lines


def answer(results: Results) -> str:
    """The speed-ups and the gain in loss at the budgets that count, a line a student with two of them or more."""
    lines, new, by_seed = [], {(r.model, r.steps): r for r in as_it_comes(results).itertuples()}, xatl_seeds.entries(results)
    for model, part in headline(speedups(results)).groupby("model", sort=False):
        rows = list(part[part["learned"].astype(bool)].sort_values("steps").itertuples())
        if len(rows) > 1:
            names = budget_names(part)
            lines.append(
                f"- **`{model}`** transferred is, at {', '.join(f'{names[r.steps]} ({number(r.tokens / 1e6, 1)} M tokens)' for r in rows)}, "
                f"**{', '.join(times(r.speedup, r.at_least, r.at_start) or 'not' for r in rows)} sooner**, by runs of as many steps "
                f"{', '.join(times(r.equal_speedup, r.equal_at_least) or NONE for r in rows)}; after as many steps its loss is "
                f"{', '.join(NONE if pd.isna(r.gain) else f'{100 * r.gain / r.scratch_loss:.0f}%' for r in rows)} lower."
                + _from_plain([new[model, r.steps] for r in rows if (model, r.steps) in new], names)
                + _over_seeds([(names[r.steps], by_seed[model][names[r.steps]]) for r in rows if names[r.steps] in by_seed.get(model, {})]))
    return "\n".join(lines or ["*No student from scratch has learned at two budgets yet.*"]) + "\n"


def _from_plain(rows: list[Any], names: dict[int, str]) -> str:
    """What the comparison comes to from a teacher that was not refreshed on this text."""
    if not rows:
        return ""
    told = [f"{times(r.speedup, r.at_least, r.at_start)} ({names[r.steps]}, `{r.teacher}`)" for r in rows]
    if len({r.teacher for r in rows}) == 1:
        told = [f"**{', '.join(times(r.speedup, r.at_least, r.at_start) for r in rows)}** at {', '.join(names[r.steps] for r in rows)} (`{rows[0].teacher}`)"]
    return f" The teacher had been trained on the same text here; from one as it comes: {', '.join(told)}."


def _over_seeds(budgets: list[tuple[str, dict[str, Any]]]) -> str:
    """The speed-ups of several seeds: by budget, see `xatl_seeds.entries`."""
    told = [f"{name} {xatl_seeds.in_words(of['speedup'])} (`{of['teacher']}`)" for name, of in budgets if of["speedup"]["n"]]
    return f" Over seeds, by runs of as many steps: {', '.join(told)}." if told else ""


def entries(results: Results) -> dict[str, Any]:
    """The summary's figures of the transferred arm: student -> `speedup` by from-scratch budget, as `1x`, `2x`, ... of the smallest whose rival is
    past the plateau (shorter ones do not count; if none is, those clearly below token frequencies), `speedup_is_lower_bound` (there by the first evaluation), `rival_learned` (it is past the plateau), `rival_one_rate` (no other learning rate was tried) and `gain_loss_pct`, the relative gain in loss after the
    same steps; `gain_<task>` after fine-tuning, where both arms were, by the same budgets, `gain_<task>_share_of_steps` where the transferred one
    had a share of them only. `teacher`, `gain_<task>_teacher`: whose weights the transferred student started with, one a figure, see `headline`.
    `as_it_comes`: the same {teacher, speedup, speedup_is_lower_bound, gain_loss_pct} from a teacher that was not refreshed on this text; `by_seed`: see xatl_seeds.entries."""
    data, gains, found = headline(speedups(results)), glue_gains(results), {}
    gains = gains[gains["arm"] == TRANSFERRED]
    new, by_seed = as_it_comes(results), xatl_seeds.entries(results)
    for model, part in data.groupby("model", sort=False):
        names, counted = budget_names(part), part[part["learned" if part["learned"].any() else "clear"].astype(bool)]
        budgets = [(names[steps], rows) for steps, rows in counted.groupby("steps")]
        if not budgets:
            continue
        found[model] = {
            "speedup": {name: _round(rows["speedup"].mean()) for name, rows in budgets},
            "speedup_is_lower_bound": {name: bool(rows["at_least"].any()) for name, rows in budgets},
            "rival_one_rate": {name: bool((rows["scratch_edge"] == "only rate").any()) for name, rows in budgets},
            "rival_learned": {name: bool(rows["learned"].all()) for name, rows in budgets},
            "teacher": {name: rows["teacher"].iloc[0] for name, rows in budgets},
            "gain_loss_pct": {name: _round((100 * rows["gain"] / rows["scratch_loss"]).mean()) for name, rows in budgets}}
        if len(mine := new[(new["model"] == model) & new["steps"].isin(counted["steps"])]):
            of_new = [(names[r.steps], r) for r in mine.sort_values("steps").itertuples()]
            found[model]["as_it_comes"] = {
                "teacher": {name: r.teacher for name, r in of_new}, "speedup": {name: _round(r.speedup) for name, r in of_new},
                "speedup_is_lower_bound": {name: bool(r.at_least) for name, r in of_new},
                "gain_loss_pct": {name: _round(100 * r.gain / r.scratch_loss) for name, r in of_new}}
        if several := {name: of for name, of in by_seed.get(model, {}).items() if name in dict(budgets)}:
            found[model]["by_seed"] = several
        teachers = {steps: rows["teacher"].iloc[0] for steps, rows in counted.groupby("steps")}
        mine = gains[(gains["model"] == model) & gains["steps"].isin(teachers)]
        for (task, steps), rows in mine.groupby(["task", "steps"]):
            row = _gains_of_one_teacher(mine[mine["steps"] == steps], teachers[steps] in results.preset.teachers, results).get(task, rows.iloc[0])
            found[model].setdefault(f"gain_{task}", {})[names[steps]] = _round(row["gain"])
            found[model].setdefault(f"gain_{task}_teacher", {})[names[steps]] = row["teacher"]
            if row["transferred_steps"] < steps:
                found[model].setdefault(f"gain_{task}_share_of_steps", {})[names[steps]] = _round(row["transferred_steps"] / steps)
    return found


def _gains_of_one_teacher(gains: pd.DataFrame, trained: bool, results: Results) -> dict[str, Any]:
    """task -> its row of `glue_gains`, of one budget: every task's of the teacher with most runs, so that no task has the best of several. Of as many
    runs the one whose arm tried most students and learning rates of fine-tuning, then a teacher of the kind (`trained` on this text or not) that the losses are of."""
    of = gains.groupby("teacher", sort=False)[["transferred_n", "transferred_tried"]].sum()
    first = max(of.index, key=lambda name: (*of.loc[name], (name in results.preset.teachers) == trained))
    return {r["task"]: r for _, r in gains[gains["teacher"] == first].iterrows()}


def _round(value: float) -> float | None:
    return None if pd.isna(value) else round(float(value), 6)  # targets compare it
