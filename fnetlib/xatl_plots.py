"""XATL's figures: what inheriting saves at every budget, the other arms, and what is left of it on GLUE."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from .plots import _empty, _finish, _panels
from .results import Results, metric_title, model_key, tagged, task_title
from .xatl_arms import compare
from .xatl_glue import as_swapped, by_student
from .xatl_runs import FROM_SCRATCH, TRANSFERRED, best_rates, crossing, headline, held_out, speedups, students

INK = {FROM_SCRATCH: "#333333", TRANSFERRED: "#0072B2"}
SPARE = ("#D55E00", "#E69F00", "#009E73", "#CC79A7", "#882255", "#56B4E9", "#999933", "#44AA99")
NOTHING = "no student was trained on with text: 02_transfer with adapt does"


def curves(results: Results) -> Figure:
    """From scratch against transferred, every budget, a panel a student: held-out loss by steps on a logarithmic axis, where a
    speed-up is a distance; the upper axis is seconds alone on the GPU where the pace is known.

    A bar goes from where the transferred student first reaches a from-scratch run's final loss to that run's end; rivals that have not left their
    plateau have none, if others have. Students with most budgets come first.
    """
    title = tagged("Held-out masked-LM loss, from scratch and transferred", results.tag)
    runs, sooner = students(results), headline(speedups(results))
    best = best_rates(runs)
    if best.empty:
        return _empty(title, NOTHING)
    budgets = best.groupby("model")["steps"].nunique()
    names = sorted(set(best["model"]), key=lambda name: (-budgets[name], model_key(name)))
    figure, axes = _panels(len(names), 2, height=3.4)
    for axis, name in zip(axes, names):
        _budgets(axis, best[best["model"] == name], sooner[sooner["model"] == name], runs)
        axis.set_title(name, fontsize=10)
        axis.set_ylabel("held-out loss, nats")
    return _finish(figure, title, handles=[
        *(plt.Line2D([], [], color=INK[name], label=name) for name in INK),
        plt.Line2D([], [], color="0.3", marker="o", mfc="white", ls="", ms=5, label="before the first step"),
        plt.Line2D([], [], color=INK[TRANSFERRED], marker="|", lw=1, ls="--", label="the same loss sooner"),
        plt.Line2D([], [], color="0.5", lw=0.8, ls=":", label="token frequencies alone")], columns=3)


def _budgets(axis: Axes, best: pd.DataFrame, sooner: pd.DataFrame, runs: pd.DataFrame) -> None:
    """One student: curves of both arms at their best rates, and the speed-ups of `sooner` (its rows of `headline`)."""
    teachers = {(r.teacher, r.steps) for r in sooner.itertuples()}
    shown = [r for r in best.itertuples() if len(held_out(r.record, "step")) > 1
             and (r.arm == FROM_SCRATCH or (r.arm == TRANSFERRED and (r.teacher, r.steps) in teachers))]
    first = min((held_out(r.record, "step")[1][0] for r in shown), default=1)
    for r in shown:
        (_, untrained), *line = held_out(r.record, "step")
        axis.plot(*zip(*line), lw=1.2, color=INK[r.arm])
        axis.plot(first / 1.5, untrained, "o", ms=5, mfc="white", color=INK[r.arm])
    counted = sooner[sooner["learned"].astype(bool)] if sooner["learned"].any() else sooner
    for r in counted[counted["speedup"].notna()].itertuples():
        inherited = runs[(runs["model"] == r.model) & (runs["seed"] == r.seed) & (runs["arm"] == TRANSFERRED)
                         & (runs["teacher"] == r.teacher)]
        at = min(x for run in inherited["record"] if (x := crossing(held_out(run, "step"), r.scratch_loss)) is not None)
        axis.plot([at, r.steps], [r.scratch_loss] * 2, "|--", lw=1, ms=7, color=INK[TRANSFERRED])
        axis.plot([r.steps], [r.scratch_loss], "o", ms=4, color=INK[FROM_SCRATCH])
        axis.annotate(("≥ " if r.at_least else "") + f"{r.speedup:.1f}x", (r.steps, r.scratch_loss), fontsize=8, xytext=(3, 4),
                      textcoords="offset points", color=INK[TRANSFERRED],
                      bbox={"fc": "white", "ec": "none", "pad": 0.3, "alpha": 0.8})
    if best["unigram"].notna().any():
        axis.axhline(best["unigram"].dropna().iloc[0], color="0.5", lw=0.8, ls=":")
    _clocks(axis, best, first)


def _clocks(axis: Axes, best: pd.DataFrame, first: float) -> None:
    """A logarithmic axis of steps, ticks at the budgets; above it seconds, if both arms have one pace."""
    budgets = sorted(set(best["steps"]))
    axis.set_xscale("log")
    axis.set_xlim(first / 1.9, budgets[-1] * 2.2)
    clocks = [(axis.xaxis, 1.0)]
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel(f"steps of {best['tokens'].iloc[0] / best['steps'].iloc[0]:,.0f} tokens")
    paces = best[best["arm"].isin(INK)]["s_per_step"]
    if paces.notna().all() and paces.round(9).nunique() == 1:
        pace = paces.iloc[0]
        above = axis.secondary_xaxis("top", functions=(lambda x: x * pace, lambda x: x / pace))
        above.set_xlabel(f"seconds of training, fastest pace seen, on {best['gpu'].iloc[0]}", fontsize=8)
        above.tick_params(labelsize=8)
        clocks.append((above.xaxis, pace))
    for clock, unit in clocks:
        clock.set_ticks([first * unit, *(steps * unit for steps in budgets)])
        clock.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:,.0f}" if x >= 10 else f"{x:.2g}")
        clock.set_minor_locator(NullLocator())


def arm_curves(results: Results) -> Figure:
    """Every arm, its best rate, a panel a student and budget; a dot is where LIT unfroze.

    The axis ends a little above what token frequencies alone give, or the untrained swap if that is within a nat; of an arm that ends
    above, that is said in words.
    """
    title = tagged("XATL's arms", results.tag)
    data = compare(results)
    if data.empty:
        return _empty(title, NOTHING)
    panels = list(data.groupby(["model", "steps"], sort=False))
    arms = list(dict.fromkeys(data["arm"]))
    ink = INK | dict(zip((name for name in arms if name not in INK), SPARE * len(arms)))
    figure, axes = _panels(len(panels), 2, height=4.0)
    for axis, ((name, steps), part) in zip(axes, panels):
        _arms(axis, part, ink)
        axis.set_title(f"{name}, {steps:,} steps, from {part['teacher'].max()}", fontsize=10)
        axis.set_ylabel("held-out loss, nats")
    return _finish(figure, title, handles=[
        *(plt.Line2D([], [], color=ink[name], ls=_dashes(name), label=_short(name)) for name in arms),
        *[plt.Line2D([], [], color="0.3", marker="o", ls="", ms=5, label="unfrozen")] * bool(data["unfrozen_at_step"].notna().any()),
        plt.Line2D([], [], color="0.5", lw=0.8, ls=":", label="token frequencies alone")], columns=2)


def _dashes(name: str) -> str:
    """Parts alone are dashed: there are more arms than colours that tell apart."""
    return "--" if name.startswith(f"{TRANSFERRED}: ") else "-"


def _short(name: str) -> str:
    """`LIT freezes embeddings (0.01, 1)`, `only embeddings, norms`."""
    return name.removeprefix(f"{TRANSFERRED}, ").replace(f"{TRANSFERRED}: ", "only ")


def _arms(axis: Axes, part: pd.DataFrame, ink: dict[str, str]) -> None:
    """One student's arms of one budget; steps are linear."""
    unigram = next((value for r in part.itertuples() if (value := r.record.metrics.validation.get("unigram_loss"))), None)
    start = [held_out(r.record, "step")[0][1] for r in part.itertuples() if r.arm == TRANSFERRED]
    start = [min(value, unigram + 1) if unigram else value for value in start]  # a head that is new stands far above
    top, above = max([part["loss"].median(), *start, unigram or 0]) + 0.3, []
    if unigram:
        axis.axhline(unigram, color="0.5", lw=0.8, ls=":")
    for r in part.itertuples():
        line = held_out(r.record, "step")
        axis.plot(*zip(*line), lw=1.8 if r.arm in INK else 1.2, ls=_dashes(r.arm), color=ink[r.arm], zorder=3 if r.arm in INK else 2)
        if pd.notna(r.unfrozen_at_step):
            axis.plot(r.unfrozen_at_step, _at(line, r.unfrozen_at_step), "o", ms=5, color=ink[r.arm], zorder=4)
        if r.loss > top:
            above.append(f"{_short(r.arm)} ends at {r.loss:.2f}")
    axis.set_ylim(part["loss"].min() - 0.2, top)
    axis.set_xlabel(f"steps of {part['tokens'].iloc[0] / part['steps'].iloc[0]:,.0f} tokens")
    if above:
        axis.text(0.98, 0.97, "above: " + "\n".join(above), transform=axis.transAxes, ha="right", va="top", fontsize=8)


def _at(line: list[tuple[float, float]], step: float) -> Any:
    """The loss at a step, linear between evaluations."""
    return next((y + (z - y) * (step - x) / (w - x) for (x, y), (w, z) in zip(line, line[1:]) if x <= step <= w), line[-1][1])


def glue_curves(results: Results) -> Figure:
    """Scores after fine-tuning by budget, a panel a task and student that has two budgets or more: from scratch (the best of its students), and
    every transferred student, filled where its teacher was refreshed on this text, with its masked-LM rate where that is not its teacher's only one;
    dotted, the swap of a teacher of theirs as it is."""
    title = tagged("GLUE after XATL, by budget", results.tag)
    data, swaps = by_student(results), as_swapped(results)
    panels = [(task, name, part) for (task, name), part in data.groupby(["task", "model"]) if part[part["arm"] == FROM_SCRATCH]["steps"].nunique() > 1]
    if not panels:
        return _empty(title, "no student was fine-tuned at two budgets: 03_finetune with -p student does")
    figure, axes = _panels(len(panels), 2, height=3.2)
    for axis, (task, name, part) in zip(axes, sorted(panels, key=lambda panel: (panel[0], model_key(panel[1])))):
        _scored(axis, part)
        for swap in swaps[(swaps["task"] == task) & (swaps["model"] == name)].itertuples():
            axis.axhline(swap.score, ls=":", lw=1, color=INK[TRANSFERRED])
        axis.set_title(f"{name}, {task_title(task, [part['note'].iloc[0]] * bool(part['note'].iloc[0]))}", fontsize=10)
        axis.set_ylabel(metric_title([part["metric"].iloc[0]]))
    return _finish(figure, title, handles=[
        plt.Line2D([], [], color=INK[FROM_SCRATCH], marker="s", ms=5, label=FROM_SCRATCH),
        plt.Line2D([], [], color=INK[TRANSFERRED], marker="o", ls="", ms=6, label="transferred, from a teacher refreshed on this text"),
        plt.Line2D([], [], color=INK[TRANSFERRED], marker="o", mfc="white", ls="", ms=6, label="transferred, from a teacher as it comes"),
        plt.Line2D([], [], color=SPARE[0], marker="^", mfc="white", ls="", ms=6, label="transferred, frozen at first (LIT)"),
        *([plt.Line2D([], [], color=INK[TRANSFERRED], ls=":", lw=1, label="the swap as it is, no masked-LM, same fine-tuning")] * bool(len(swaps)))], columns=2)


def _scored(axis: Axes, part: pd.DataFrame) -> None:
    """One student's scores on a task; bars are standard deviations over seeds."""
    rivals = part[part["arm"] == FROM_SCRATCH]
    best = rivals.loc[rivals.groupby("steps")["score"].idxmax()].sort_values("steps")
    axis.errorbar(best["tokens"] / 1e6, best["score"], best["score_sd"].fillna(0), fmt="s-", ms=5, lw=1.2, elinewidth=0.8, color=INK[FROM_SCRATCH])
    inherited = part[part["arm"] != FROM_SCRATCH]
    several = inherited.groupby(["arm", "teacher"])["mlm_rate"].transform("nunique") > 1
    for place, (r, named) in enumerate(zip(inherited.itertuples(), several)):
        plain = r.arm == TRANSFERRED
        ink, at = INK[TRANSFERRED] if plain else SPARE[0], r.tokens / 1e6 * (1.03 + 0.03 * (place % 3))  # beside each other
        axis.errorbar([at], [r.score], [0 if pd.isna(r.score_sd) else r.score_sd], fmt="o" if plain else "^", ms=6, elinewidth=0.8, color=ink,
                      mfc=ink if r.refreshed else "white")
        if named:
            axis.annotate(f"{r.mlm_rate:g}", (at, r.score), fontsize=7, xytext=(6, -3), textcoords="offset points", color=ink)
    axis.set_xscale("log")
    axis.xaxis.set_ticks(sorted(set(part["tokens"] / 1e6)))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:.3g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(x=0.12)
    axis.set_xlabel("M tokens of masked-LM")
