"""XATL's claim, tested on encoders: how much sooner a student that inherits BERT's shared parts reaches the loss of one
trained from scratch, and what it gains at the same compute (Choi 2024, arXiv 2404.02684: up to 2.5x and 2.6 %).

Everything is read from records of stage `adapt`. An arm is a way to start and to train:
`from scratch` (`-p groups none`), `transferred`, `transferred, LIT freezes ...` (`-p freeze`), `distilled`
(`-p adapt distill`), `transferred: ...` (some component groups only, the ablation of section 4).
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from .plots import _empty, _finish, _panels
from .records import Record
from .results import Results, tagged
from .tables import Table, number

FROM_SCRATCH = "from scratch"


def arm(record: Record) -> str:
    """The arm that a record of continued training belongs to."""
    params = record.params
    if params["adapt"] == "distill":
        return "distilled"
    if params["groups"] == "none":
        return FROM_SCRATCH
    groups = "" if params["groups"] == "all" else f": {params['groups'].replace(',', ', ')}"
    if "freeze" in params:
        return (f"transferred{groups}, LIT freezes {params['freeze'].replace('_', ' ')} "
                f"({params['lit_threshold']:g}, {params['lit_patience']})")
    return f"transferred{groups}"


def held_out(record: Record, clock: str) -> list[tuple[float, float]]:
    """(clock, held-out loss) points; clock: `tokens`, `step` or `seconds`."""
    return [(entry[clock], entry["eval_loss"]) for entry in record.metrics.history if entry["eval_loss"] is not None]


def crossing(points: list[tuple[float, float]], loss: float) -> float | None:
    """Where a curve first reaches a loss, linear between its points; None if it never does."""
    if points and points[0][1] <= loss:
        return points[0][0]
    for (x, above), (y, below) in zip(points, points[1:]):
        if below <= loss < above:
            return x + (y - x) * (above - loss) / (above - below)
    return None


def students(results: Results) -> pd.DataFrame:
    """One row a run of a student: model, arm, learning_rate, seed, tokens, loss, clear, and the record.

    clear: whether the final loss is below what token frequencies alone give by 0.2 nats or more.
    """
    rows = [{"model": r.model, "arm": arm(r), "learning_rate": r.params["learning_rate"], "seed": r.seed,
             "tokens": r.metrics.history[-1]["tokens"], "loss": r.metrics.headline.last,
             "unigram": r.metrics.validation.get("unigram_loss"), "record": r}
            for r in results.adapt if r.model != "bert" and r.metrics and r.metrics.headline.last is not None]
    frame = pd.DataFrame(rows, columns=["model", "arm", "learning_rate", "seed", "tokens", "loss", "unigram", "record"])
    frame["clear"] = frame["loss"] < frame["unigram"].astype(float) - 0.2
    return frame


def best_rates(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each (model, arm, tokens, seed) the run with the lowest final loss, and whether its learning rate is inside the
    grid that the arm was given (`inside`: neither the lowest nor the highest tried)."""
    rows = []
    for _, part in frame.groupby(["model", "arm", "tokens", "seed"], sort=False):
        best = part.loc[part["loss"].astype(float).idxmin()]
        tried = part["learning_rate"]
        rows.append({**best, "tried": len(tried), "inside": tried.min() < best["learning_rate"] < tried.max()})
    return pd.DataFrame(rows, columns=[*frame.columns, "tried", "inside"])


def speedups(results: Results) -> pd.DataFrame:
    """One row a (student, from-scratch run, other arm): the share of its budget that the arm needs for the same loss.

    `speedup`: from-scratch tokens over the arm's, at the from-scratch run's final loss, from the arm's runs the one that
    is there first; `seconds_speedup`: the same in seconds of training, where both ran alone on the device; `gain`: the
    arm's final loss below the other's at the same tokens, in nats; None where the arm has no such run.
    """
    best, rows = best_rates(students(results)), []
    for scratch in best[best["arm"] == FROM_SCRATCH].itertuples():
        rivals = best[(best["model"] == scratch.model) & (best["seed"] == scratch.seed) & (best["arm"] != FROM_SCRATCH)]
        for name, part in rivals.groupby("arm", sort=False):
            reached = {clock: [at for r in part.record if (at := crossing(held_out(r, clock), scratch.loss)) is not None]
                       for clock in ("tokens", "seconds")}
            alone = not any(r.timing["shared"] for r in (*part.record, scratch.record))
            equal = part[part["tokens"] == scratch.tokens]
            rows.append({
                "model": scratch.model, "arm": name, "seed": scratch.seed, "budget": scratch.tokens,
                "scratch_loss": scratch.loss, "clear": bool(scratch.clear), "inside": bool(scratch.inside),
                "speedup": scratch.tokens / min(reached["tokens"]) if reached["tokens"] and min(reached["tokens"]) else None,
                "seconds_speedup": _ratio(held_out(scratch.record, "seconds")[-1][0], reached["seconds"]) if alone else None,
                "loss": equal["loss"].min() if len(equal) else None,
                "gain": scratch.loss - equal["loss"].min() if len(equal) else None})
    return pd.DataFrame(rows, columns=["model", "arm", "seed", "budget", "scratch_loss", "clear", "inside", "speedup",
                                       "seconds_speedup", "loss", "gain"])


def _ratio(budget: float, reached: list[float]) -> float | None:
    return budget / min(reached) if reached and min(reached) > 0 else None


def table(results: Results) -> Table:
    """Speed-up and gain of every arm over training from scratch."""
    data = speedups(results)
    sections = {f"`{model}`": pd.DataFrame([{
        "From-scratch budget, M tokens": number(r.budget / 1e6, 1), "From-scratch loss": _loss(r), "Arm": r.arm, "Seed": r.seed,
        "Sooner": _times(r.speedup), "Sooner in GPU-seconds": _times(r.seconds_speedup),
        "Loss at the same tokens": number(r.loss), "Gain, nats": number(r.gain)} for r in part.itertuples()])
        for model, part in data.groupby("model", sort=False)}
    notes = ["*Sooner*: tokens of the from-scratch run over those at which the arm's held-out loss first reaches the "
             "from-scratch run's final one. Of every arm the best learning rate of the same grid; *edge*: that best rate "
             "is the lowest or highest tried. *Near unigram*: the rival ends less than 0.2 nats below what token "
             "frequencies alone give, so being faster than it proves nothing. XATL reports up to 2.5x (decoders of 410M to "
             "1B parameters, 304B tokens); ours are small encoders and some hundred million tokens."]
    if data.empty:
        notes = ["No student was trained from scratch beside a transferred one here: `02_transfer` with `-p groups none`."]
    return Table("xatl", tagged("Sooner than from scratch", results.tag), data, sections, notes)


def _loss(row: Any) -> str:
    odd = [word for word, is_so in (("near unigram", not row.clear), ("edge", not row.inside)) if is_so]
    return number(row.scratch_loss) + (f" ({', '.join(odd)})" if odd else "")


def _times(value: float | None) -> str | None:
    return None if value is None or pd.isna(value) else f"{value:.1f}x"


def curves(results: Results) -> Figure:
    """Held-out loss against tokens, one panel a student: every arm's runs at their best learning rates; the speed-up is
    marked where an arm first reaches the longest from-scratch run's final loss."""
    title = tagged("Masked-LM loss of students on held-out text", results.tag)
    best = best_rates(students(results))
    if best.empty:
        return _empty(title, "no student was trained on with text: 02_transfer with adapt does")
    names = list(dict.fromkeys(best["model"]))
    figure, axes = _panels(len(names), 2, height=3.0)
    for axis, name in zip(axes, names):
        part = best[best["model"] == name].sort_values("tokens")
        scratch = part[part["arm"] == FROM_SCRATCH].tail(1)
        for place, (label, runs) in enumerate(part.groupby("arm", sort=False)):
            lines = [[(tokens / 1e6, loss) for tokens, loss in held_out(record, "tokens")] for record in runs.record]
            for number, points in enumerate(lines):
                axis.plot(*zip(*points), lw=1.4, color=f"C{place}", label=label if number == 0 else None)
            if len(scratch) and label != FROM_SCRATCH:
                end = scratch["loss"].iloc[0]
                if at := min((x for points in lines if (x := crossing(points, end))), default=None):
                    axis.plot([at], [end], "o", ms=5, color=f"C{place}")
                    axis.annotate(f"{scratch['tokens'].iloc[0] / 1e6 / at:.1f}x", (at, end), fontsize=8, xytext=(4, 4),
                                  textcoords="offset points", color=f"C{place}")
        if len(scratch):
            axis.axhline(scratch["loss"].iloc[0], color="0.5", lw=0.8, ls="--", label="from scratch, at its end")
        if part["unigram"].notna().any():
            axis.axhline(part["unigram"].dropna().iloc[0], color="0.5", lw=0.8, ls=":", label="token frequencies alone")
        axis.set(title=name, xlabel="tokens seen, millions", ylabel="held-out loss, nats")
        axis.legend(fontsize=7)
    return _finish(figure, title)


def entries(results: Results) -> dict[str, Any]:
    """The summary's figures: student -> `speedup` by from-scratch budget, smallest first as `1x`, `2x`, ..., and
    `gain_loss_pct`, the relative gain in loss at the same tokens, of the plain `transferred` arm."""
    data, found = speedups(results), {}
    plain = data[(data["arm"] == "transferred") & data["clear"].astype(bool)]
    for model, part in plain.groupby("model", sort=False):
        means = part.groupby("budget")[["speedup", "gain", "scratch_loss"]].mean()
        names = [f"{budget / means.index[0]:g}x" for budget in means.index]
        found[model] = {"speedup": {n: _round(v) for n, v in zip(names, means["speedup"])},
                        "gain_loss_pct": {n: _round(100 * g / s) for n, g, s in zip(names, means["gain"], means["scratch_loss"])}}
    return found


def _round(value: float) -> float | None:
    return None if pd.isna(value) else round(float(value), 4)
