"""XATL's claim, tested on encoders: how much sooner a student that inherits BERT's shared parts reaches the loss of one
trained from scratch, and what it gains at the same compute (Choi 2024, arXiv 2404.02684: up to 2.5x and 2.6 %).

Everything is read from records of stage `adapt`. An arm is a way to start and to train:
`from scratch` (`-p groups none`), `transferred`, `transferred, LIT freezes ...` (`-p freeze`), `distilled`
(`-p adapt distill`; `distilled, and masked-LM` with `-p logits_weight` too), `transferred: ...` (some component groups
only, the ablation of section 4).
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .plots import _empty, _finish, _panels
from .records import Record, solo_seconds
from .results import Results, is_grid, metric_title, tagged, task_title
from .statistics import summarise
from .tables import NONE, Table, mean_sd, number

FROM_SCRATCH = "from scratch"


def arm(record: Record) -> str:
    """The arm that a record of continued training belongs to."""
    params = record.params
    if params["adapt"] == "distill":
        return "distilled, and masked-LM" if params.get("logits_weight") else "distilled"
    if params["groups"] == "none":
        return FROM_SCRATCH
    groups = "" if params["groups"] == "all" else f": {params['groups'].replace(',', ', ')}"
    if "freeze" in params:
        return (f"transferred{groups}, LIT freezes {params['freeze'].replace('_', ' ')} "
                f"({params['lit_threshold']:g}, {params['lit_patience']})")
    return f"transferred{groups}"


def held_out(record: Record, clock: str, unit: float = 1.0) -> list[tuple[float, float]]:
    """(clock, held-out loss) points; clock: `tokens`, `step` or `seconds`, times `unit`."""
    return [(unit * entry[clock], entry["eval_loss"]) for entry in record.metrics.history if entry["eval_loss"] is not None]


def crossing(points: list[tuple[float, float]], loss: float) -> float | None:
    """Where a curve first reaches a loss, linear between its points; None if it never does.

    Never before the first evaluation after the start: the swap itself may be there untrained, and a share of a budget
    cannot be nothing.
    """
    if len(points) > 1 and points[0][1] <= loss:
        return points[1][0]
    for place, ((x, above), (y, below)) in enumerate(zip(points, points[1:])):
        if below <= loss < above:
            return y if place == 0 else x + (y - x) * (above - loss) / (above - below)
    return None


def regime(record: Record) -> tuple:
    """What two runs must share to have seen the same batches in the same order."""
    return (record.data.fingerprint, record.seed, *(record.params.get(name) for name in ("batch_size", "length", "shortest")))


def students(results: Results) -> pd.DataFrame:
    """One row a run of a student that was trained from scratch too, on the same batches for as many steps: model, arm, teacher,
    learning_rate, seed, steps, tokens, loss, unigram, s_per_step (alone on the device; None if no run measured that), clear,
    and the record.

    teacher: whose weights it starts with, empty from scratch. clear: whether the final loss is below what token frequencies
    alone give by 0.2 nats or more.
    """
    records = [r for r in results.adapt if r.model != "bert" and r.metrics and r.metrics.headline.last is not None]
    budgets = {(r.model, regime(r), r.timing["steps"]) for r in records if arm(r) == FROM_SCRATCH}
    rows = []
    for r in records:
        if (r.model, regime(r), r.timing["steps"]) in budgets:
            seconds, name = solo_seconds(r, records), arm(r)
            teacher = "" if name == FROM_SCRATCH or r.teacher is None else r.teacher.name
            rows.append({"model": r.model, "arm": name, "teacher": teacher, "learning_rate": r.params["learning_rate"], "seed": r.seed,
                         "steps": r.timing["steps"], "tokens": r.metrics.history[-1]["tokens"],
                         "loss": r.metrics.headline.last, "unigram": r.metrics.validation.get("unigram_loss"),
                         "s_per_step": seconds and seconds / r.timing["steps"], "record": r})
    frame = pd.DataFrame(rows, columns=["model", "arm", "teacher", "learning_rate", "seed", "steps", "tokens", "loss", "unigram",
                                        "s_per_step", "record"])
    frame["clear"] = frame["loss"] < frame["unigram"].astype(float) - 0.2
    return frame


def best_rates(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each (model, arm, teacher, steps, seed) the run with the lowest final loss, and whether its learning rate is inside the
    grid that the arm was given (`inside`: neither the lowest nor the highest tried)."""
    rows = []
    for _, part in frame.groupby(["model", "arm", "teacher", "steps", "seed"], sort=False):
        best = part.loc[part["loss"].astype(float).idxmin()]
        tried = part["learning_rate"]
        rows.append({**best, "tried": len(tried), "inside": tried.min() < best["learning_rate"] < tried.max()})
    return pd.DataFrame(rows, columns=[*frame.columns, "tried", "inside"])


def speedups(results: Results) -> pd.DataFrame:
    """One row a (student, from-scratch run, other arm, its teacher): the share of its budget that the arm needs for the same loss.

    `speedup`: from-scratch steps over the arm's, at the from-scratch run's final loss, from the arm's runs the one that
    is there first; `at_start`: the arm was there before any step; `seconds_speedup`: the same in seconds alone on the
    device, where both paces are known; `gain`: the arm's final loss below the other's after the same steps, in nats.
    None where the arm has no such run.
    """
    frame, rows = students(results), []
    best = best_rates(frame)
    for scratch in best[best["arm"] == FROM_SCRATCH].itertuples():
        rivals = frame[(frame["model"] == scratch.model) & (frame["seed"] == scratch.seed) & (frame["arm"] != FROM_SCRATCH)]
        for (name, teacher), part in rivals.groupby(["arm", "teacher"], sort=False):
            reached = [(at, r) for r in part.itertuples()
                       if (at := crossing(held_out(r.record, "step"), scratch.loss)) is not None]
            seconds = [at * r.s_per_step for at, r in reached if pd.notna(r.s_per_step)]
            equal = part[part["steps"] == scratch.steps]
            known = seconds and pd.notna(scratch.s_per_step)
            rows.append({
                "model": scratch.model, "arm": name, "teacher": teacher, "seed": scratch.seed, "steps": scratch.steps, "tokens": scratch.tokens,
                "scratch_rate": scratch.learning_rate, "scratch_loss": scratch.loss, "unigram": scratch.unigram,
                "clear": bool(scratch.clear), "inside": bool(scratch.inside),
                "speedup": scratch.steps / min(at for at, _ in reached) if reached else None,
                "at_start": any(r.record.metrics.history[0]["eval_loss"] <= scratch.loss for _, r in reached),
                "seconds_speedup": scratch.steps * scratch.s_per_step / min(seconds) if known else None,
                "loss": equal["loss"].min() if len(equal) else None,
                "gain": scratch.loss - equal["loss"].min() if len(equal) else None})
    return pd.DataFrame(rows, columns=["model", "arm", "teacher", "seed", "steps", "tokens", "scratch_rate", "scratch_loss", "unigram",
                                       "clear", "inside", "speedup", "at_start", "seconds_speedup", "loss", "gain"])


def _by_budget(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(`1x`, rows), (`2x`, rows), ...: from-scratch budgets, the smallest first."""
    budgets = sorted(set(part["steps"]))
    return [(f"{steps / budgets[0]:g}x", part[part["steps"] == steps]) for steps in budgets]


def table(results: Results) -> Table:
    """Speed-up and gain of every arm over training from scratch."""
    data = speedups(results)
    several = data["teacher"].nunique() > 1
    sections = {f"`{model}`": pd.DataFrame([{
        "From-scratch budget": f"{budget}: {number(r.tokens / 1e6, 1)} M tokens", "From-scratch loss": _loss(r), "Arm": r.arm,
        **({"Teacher": r.teacher} if several else {}),
        "Sooner": _times(r.speedup, r.at_start), "Sooner in GPU-seconds": _times(r.seconds_speedup, r.at_start),
        "Loss at the same budget": number(r.loss), "Gain, nats": number(r.gain),
        "Gain in loss, %": number(None if pd.isna(r.gain) else 100 * r.gain / r.scratch_loss, 1)}
        for budget, rows in _by_budget(part) for r in rows.itertuples()])
        for model, part in data.groupby("model", sort=False)}
    notes = ["*Sooner*: steps of the from-scratch run over those after which the arm's held-out loss first reaches the "
             "from-scratch run's final one; *at least*, *untrained*: the swap is there before its first step, and what "
             "counts is its first evaluation after that. GPU-seconds: alone on the device. The best of the arm's learning "
             "rates, one seed; *edge*: the from-scratch run's best rate is the lowest or highest tried. *Near unigram*: "
             "it ends less than 0.2 nats below what token frequencies alone give"
             + (f" ({number(data['unigram'].iloc[0], 2)} nats)" if data["unigram"].notna().any() else "")
             + ", so being faster than it proves nothing. XATL reports up to 2.5x and 2.6 % (decoders of 410M to 1B "
               "parameters, 304B tokens); ours are encoders of some 20M parameters and at most some tens of millions of "
               "tokens, where inheriting is worth the most."]
    if data.empty:
        notes = ["No student was trained from scratch beside a transferred one here: `02_transfer` with `-p groups none`."]
    return Table("xatl", tagged("Sooner than from scratch", results.tag), data, sections, notes)


def rates(results: Results) -> Table:
    """Every run of the comparison: final held-out loss by arm, budget and learning rate; the best one is chosen."""
    frame = students(results)
    data = frame.drop(columns="record").sort_values(["model", "arm", "teacher", "steps", "learning_rate"], kind="stable", ignore_index=True)
    sections, several = {}, len(set(data["teacher"]) - {""}) > 1
    for model, part in data.groupby("model", sort=False):
        shown = []
        for (name, teacher, steps), runs in part.groupby(["arm", "teacher", "steps"], sort=False):
            losses = {f"{r.learning_rate:g}": _marked(r.loss, r.loss == runs["loss"].min() and len(runs) > 1)
                      for r in runs.itertuples()}
            shown.append({"Arm": name, **({"Teacher": teacher or NONE} if several else {}), "Steps": f"{steps:,}", "M tokens": number(runs["tokens"].iloc[0] / 1e6, 1),
                          **{f"{rate:g}": losses.get(f"{rate:g}") for rate in sorted(set(part["learning_rate"]))}})
        sections[f"`{model}`"] = pd.DataFrame(shown)
    notes = ["Held-out masked-LM loss in nats after the last step, by peak learning rate; bold: the arm's best. "
             "Token frequencies alone give " + (number(data["unigram"].iloc[0], 2) if len(data) else "–") + "."]
    return Table("xatl-rates", tagged("Learning rates of the XATL arms", results.tag), data, sections, notes)


def _marked(loss: float, best: bool) -> str:
    return f"**{number(loss)}**" if best else number(loss)


def sentences(results: Results) -> list[str]:
    """One sentence a student: what inheriting is worth against training from scratch."""
    lines = []
    data = speedups(results)
    for model, part in data[data["arm"] == "transferred"].groupby("model", sort=False):
        budgets = _by_budget(part)
        sooner = ", ".join(_times(rows["speedup"].iloc[0], rows["at_start"].iloc[0]) or "not reached" for _, rows in budgets)
        last = budgets[-1][1].iloc[0]
        weak = [name for name, rows in budgets if not rows["clear"].all()]
        lines.append(
            f"- **XATL, `{model}`** (masked-LM from scratch on {', '.join(number(rows['tokens'].iloc[0] / 1e6, 1) for _, rows in budgets)} "
            f"M tokens; best of the learning rates, one seed): the transferred student reaches the from-scratch loss {sooner} "
            f"sooner" + (f"; after the longest budget its loss is {number(last['loss'])} against {number(last['scratch_loss'])}"
                         if pd.notna(last["loss"]) else "") + "."
            + (f" At {', '.join(weak)} the rival is hardly below token frequencies." if weak else ""))
    return lines


def _loss(row: Any) -> str:
    odd = [word for word, is_so in (("near unigram", not row.clear), ("edge", not row.inside)) if is_so]
    return number(row.scratch_loss) + (f" ({', '.join(odd)})" if odd else "")


def _times(value: float | None, at_start: bool = False) -> str | None:
    if value is None or pd.isna(value):
        return None
    return f"at least {value:.1f}x (untrained)" if at_start else f"{value:.1f}x"


def curves(results: Results) -> Figure:
    """Held-out loss against steps, and against seconds alone on the device where the pace is known; a row a student.

    Every arm's runs at their best learning rates; the speed-up is marked where an arm first reaches the longest
    from-scratch run's final loss.
    """
    title = tagged("Masked-LM loss of students on held-out text", results.tag)
    best, sooner = best_rates(students(results)), speedups(results)
    if best.empty:
        return _empty(title, "no student was trained on with text: 02_transfer with adapt does")
    wanted = [(name, clock) for name in dict.fromkeys(best["model"]) for clock in ("steps", "seconds")
              if clock == "steps" or best[best["model"] == name]["s_per_step"].notna().any()]
    arms = [FROM_SCRATCH, *(name for name in dict.fromkeys(best["arm"]) if name != FROM_SCRATCH)]
    figure, axes = _panels(len(wanted), 2, height=3.0)
    for axis, (name, clock) in zip(axes, wanted):
        part = best[best["model"] == name].sort_values("steps")
        _draw(axis, part, sooner[sooner["model"] == name], clock, arms)
        tokens = part["tokens"].iloc[-1] / part["steps"].iloc[-1]
        label = f"steps of {tokens:,.0f} tokens" if clock == "steps" else "seconds of training, alone on the GPU"
        axis.set(title=name, xlabel=label, ylabel="held-out loss, nats")
    return _finish(figure, title, handles=[
        *(plt.Line2D([], [], color=_colour(arms, name), label=name) for name in arms),
        plt.Line2D([], [], color="0.5", lw=0.8, ls="--", label="from scratch, at its end"),
        plt.Line2D([], [], color="0.5", lw=0.8, ls=":", label="token frequencies alone")], columns=4)


def _colour(arms: list[str], name: str) -> str:
    return "0.2" if name == FROM_SCRATCH else f"C{arms.index(name) - 1}"


def _draw(axis: Any, part: pd.DataFrame, sooner: pd.DataFrame, clock: str, arms: list[str]) -> None:
    """One student's arms; the x axis is `clock`."""
    longest = sooner[sooner["steps"] == sooner["steps"].max()]
    end = part[part["arm"] == FROM_SCRATCH]["loss"].iloc[-1]
    for name, runs in part.groupby("arm", sort=False):
        units = [1.0 if clock == "steps" else r.s_per_step for r in runs.itertuples()]
        lines = [held_out(r.record, "step", unit) for r, unit in zip(runs.itertuples(), units) if pd.notna(unit)]
        for line in lines:
            axis.plot(*zip(*line), lw=1.4, color=_colour(arms, name))
        at = min((x for line in lines if (x := crossing(line, end)) is not None), default=None)
        row = longest[longest["arm"] == name]
        if at is not None and len(row):
            ratio = row["speedup" if clock == "steps" else "seconds_speedup"].iloc[0]
            axis.plot([at], [end], "o", ms=5, color=_colour(arms, name))
            axis.annotate(("≥ " if row["at_start"].iloc[0] else "") + f"{ratio:.1f}x", (at, end), fontsize=8, xytext=(6, 7),
                          textcoords="offset points", color=_colour(arms, name),
                          bbox={"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.8})
    axis.axhline(end, color="0.5", lw=0.8, ls="--")
    if part["unigram"].notna().any():
        axis.axhline(part["unigram"].dropna().iloc[0], color="0.5", lw=0.8, ls=":")


def glue_gains(results: Results) -> pd.DataFrame:
    """One row a (model, task, steps): scores after fine-tuning of students that were trained so many steps, and `gain`, the
    transferred one's mean above the from-scratch one's, in the metric's own unit. Of several learning rates of fine-tuning
    each arm has its best mean over seeds."""
    arms = {r.record.run_id: (r.arm, r.teacher, r.steps) for r in students(results).itertuples()}
    rows = [{"model": r.model, "task": r.task, "note": r.note, "metric": r.metric, "seed": r.seed, "last": r.last,
             "rate": r.record.params["learning_rate"], **dict(zip(("arm", "teacher", "steps"), arms[r.record.adapted.run_id]))}
            for r in results.finetune.itertuples() if r.record.adapted and r.record.adapted.run_id in arms
            and not is_grid(r.training)]
    columns = ["model", "task", "note", "steps", "metric", "scratch", "scratch_sd", "scratch_n", "transferred", "transferred_sd",
               "transferred_n", "gain"]
    found = []
    frame = pd.DataFrame(rows, columns=["model", "task", "note", "metric", "seed", "last", "rate", "arm", "teacher", "steps"])
    for (model, task, steps), part in frame.groupby(["model", "task", "steps"], sort=False):
        best = {name: max((summarise(runs["last"]) for _, runs in of.groupby(["teacher", "rate"])),
                          key=lambda s: (s.mean is not None, s.mean)) for name, of in part.groupby("arm")}
        ours, theirs = best.get("transferred"), best.get(FROM_SCRATCH)
        if ours and theirs and None not in (ours.mean, theirs.mean):
            found.append([model, task, part["note"].iloc[0], steps, part["metric"].iloc[0], theirs.mean, theirs.sd, theirs.n,
                          ours.mean, ours.sd, ours.n, ours.mean - theirs.mean])
    return pd.DataFrame(found, columns=columns)


def glue(results: Results) -> Table:
    """GLUE after fine-tuning: from scratch beside transferred, at the same budget."""
    data = glue_gains(results)
    shown = [{"Student": r.model, "Steps": f"{r.steps:,}", "Task": f"{task_title(r.task, [r.note] * bool(r.note))} {metric_title([r.metric])}",
              "From scratch": mean_sd(r.scratch, r.scratch_sd, r.scratch_n),
              "Transferred": mean_sd(r.transferred, r.transferred_sd, r.transferred_n), "Gain": number(r.gain, sign=True)}
             for r in data.itertuples()]
    notes = ["Mean ± standard deviation over seeds (n) of fine-tuned students that saw the same text for the same steps; of "
             "several learning rates of fine-tuning each arm has its best. Gains are in the metric's own unit."]
    if data.empty:
        notes = ["No pair of students, from scratch and transferred, is fine-tuned yet: 03 with `-p student FOLDER`."]
    return Table("xatl-glue", tagged("GLUE after XATL", results.tag), data, {"": pd.DataFrame(shown)} if shown else {}, notes)


def entries(results: Results) -> dict[str, Any]:
    """The summary's figures: student -> `speedup` by from-scratch budget, smallest first as `1x`, `2x`, ... (of a swap that
    is there untrained, a lower bound), and `gain_loss_pct`, the relative gain in loss after the same steps, of the plain
    `transferred` arm; `gain_<task>` after fine-tuning, where both arms were, by the same budgets."""
    data, found = speedups(results), {}
    gains = glue_gains(results)
    plain = data[(data["arm"] == "transferred") & data["clear"].astype(bool)]
    for model, part in plain.groupby("model", sort=False):
        budgets = _by_budget(part)
        found[model] = {
            "speedup": {name: _round(rows["speedup"].mean()) for name, rows in budgets},
            "gain_loss_pct": {name: _round((100 * rows["gain"] / rows["scratch_loss"]).mean()) for name, rows in budgets}}
        names = {rows["steps"].iloc[0]: name for name, rows in budgets}
        for r in gains[(gains["model"] == model) & gains["steps"].isin(set(names))].itertuples():
            found[model].setdefault(f"gain_{r.task}", {})[names[r.steps]] = _round(r.gain)
    return found


def _round(value: float) -> float | None:
    return None if pd.isna(value) else round(float(value), 4)
