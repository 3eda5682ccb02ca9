"""The runs of XATL's experiment, from records of stage `adapt`: which arm each belongs to, and how arms compare.

An arm is a way to start and to train: `from scratch` (`-p groups none`), `transferred`, `transferred, LIT freezes ...`
(`-p freeze`), `distilled` (`-p adapt distill`; `distilled, and masked-LM` with `-p logits_weight` too), `transferred: ...`
(some component groups only, the ablation of XATL's section 4).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from .records import Record, solo_seconds
from .results import Results, natural, once

CLEAR, LEARNED = 0.2, 1.0  # nats below token frequencies: more than these; past the plateau near them
FROM_SCRATCH, TRANSFERRED = "from scratch", "transferred"


def arm(record: Record) -> str:
    """The arm that a record of continued training belongs to."""
    return arm_of(record.params)


def arm_of(params: dict[str, Any]) -> str:
    """The arm of a run with these parameters (TransferParams.adaptation)."""
    if params["adapt"] == "distill":
        return "distilled, and masked-LM" if params.get("logits_weight") else "distilled"
    if params["groups"] == "none":
        return FROM_SCRATCH
    groups = "" if params["groups"] == "all" else f": {params['groups'].replace(',', ', ').replace('_', ' ')}"
    if "freeze" in params:
        return (f"{TRANSFERRED}{groups}, LIT freezes {params['freeze'].replace('_', ' ')} "
                f"({params['lit_threshold']:g}, {params['lit_patience']})")
    return f"{TRANSFERRED}{groups}"


def held_out(record: Record, clock: str) -> list[tuple[float, float]]:
    """(clock, held-out loss in nats) points; clock: `tokens`, `step` or `seconds`."""
    return [(entry[clock], entry["eval_loss"]) for entry in record.metrics.history if entry["eval_loss"] is not None]


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


def at_first_evaluation(points: list[tuple[float, float]], loss: float) -> bool:
    """Whether `crossing` is only an upper bound: the loss is reached no later than the first evaluation after the start."""
    return len(points) > 1 and min(points[0][1], points[1][1]) <= loss


def regime(record: Record) -> tuple:
    """What two runs must share to have seen the same batches in the same order."""
    return (record.data.fingerprint, record.seed, *(record.params.get(name) for name in ("batch_size", "length", "shortest")))


def setting(record: Record) -> tuple:
    """What an arm and its rival must share besides: recipe and depth, batches, and how the rate rises."""
    return (record.model, record.params.get("layers"), record.params.get("warmup"), regime(record))


def scored(records: Iterable[Record]) -> list[Record]:
    """The students' runs that were held out at their end, diverged ones too."""
    return [r for r in records if r.model != "bert" and r.metrics and (r.metrics.headline.last is not None or r.status == "diverged")]


def final_loss(record: Record) -> float:
    """Held-out loss in nats after the last step; infinite where the run has diverged, so that its learning rate counts as tried."""
    last = record.metrics.headline.last
    return math.inf if last is None else last


def compared(records: Iterable[Record]) -> list[Record]:
    """The students' runs that stand in XATL's tables: of each model in one setting, that in which most runs did not start from scratch.

    From scratch other settings were tried too, see `xatl_settings.py`.
    """
    records = scored(records)
    budgets = {(setting(r), r.timing["steps"]) for r in records if arm(r) == FROM_SCRATCH}
    kept = [r for r in records if (setting(r), r.timing["steps"]) in budgets]
    inherited = Counter(setting(r) for r in kept if arm(r) != FROM_SCRATCH)
    main = {model: max((s for s in inherited if s[0] == model), key=inherited.__getitem__) for model in dict.fromkeys(s[0] for s in inherited)}
    return [r for r in kept if main.get(r.model) == setting(r)]


@once
def students(results: Results) -> pd.DataFrame:
    """One row a run of a student that was trained from scratch too, on the same batches for as many steps: model, arm, teacher,
    learning_rate, seed, steps, tokens, loss (nats, infinite where it diverged), unigram, s_per_step (alone on `gpu`, one for all runs of a model; None if no
    run measured that), clear, and the record.

    teacher: whose weights it starts with, empty from scratch. clear: whether the final loss is below what token frequencies
    alone give by 0.2 nats or more.
    """
    records = scored(results.adapt)
    shown, rows = compared(records), []
    gpus = {model: _common_gpu([r for r in shown if r.model == model], records) for model in {r.model for r in shown}}
    for r in shown:
        name, gpu = arm(r), gpus[r.model]
        teacher = "" if name == FROM_SCRATCH or r.teacher is None else r.teacher.name
        rows.append({"model": r.model, "arm": name, "teacher": teacher, "learning_rate": r.params["learning_rate"], "seed": r.seed,
                     "steps": r.timing["steps"], "tokens": r.metrics.history[-1]["tokens"],
                     "loss": final_loss(r), "unigram": r.metrics.validation.get("unigram_loss"),
                     "s_per_step": _pace(r, gpu, records), "gpu": gpu, "record": r})
    frame = pd.DataFrame(rows, columns=["model", "arm", "teacher", "learning_rate", "seed", "steps", "tokens", "loss", "unigram",
                                        "s_per_step", "gpu", "record"])
    below = frame["unigram"].astype(float) - frame["loss"]
    frame["clear"], frame["learned"] = below > CLEAR, below > LEARNED
    return frame


def _common_gpu(runs: list[Record], records: list[Record]) -> str | None:
    """The GPU on which most of a student's runs would have a known pace: seconds of two GPUs do not compare."""
    names = sorted({str(r.env.get("device_name")) for r in records})
    return max(names, key=lambda gpu: sum(_pace(r, gpu, records) is not None for r in runs), default=None)


def _pace(record: Record, gpu: str | None, records: list[Record]) -> float | None:
    """Seconds a step alone on `gpu`, wherever the run itself was."""
    if record.env.get("device_name") != gpu:  # its own time says nothing then
        record = record.model_copy(update={"env": {**record.env, "device_name": gpu}, "timing": {**record.timing, "shared": True, "train_seconds": math.inf}})
    seconds = solo_seconds(record, records)
    return seconds and seconds / record.timing["steps"]


def edge(tried: Iterable[float], best: float) -> str:
    """Where among the learning rates tried the best one lies, if not inside: `lowest rate`, `highest rate`, `only rate`."""
    tried = set(tried)
    if len(tried) == 1:
        return "only rate"
    return "lowest rate" if best == min(tried) else "highest rate" if best == max(tried) else ""


def best_rates(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each (model, arm, teacher, steps, seed) the run with the lowest final loss, and the `edge` of its learning rate."""
    rows = []
    for _, part in frame.groupby(["model", "arm", "teacher", "steps", "seed"], sort=False):
        best = part.loc[part["loss"].astype(float).idxmin()]
        rows.append({**best, "edge": edge(part["learning_rate"], best["learning_rate"])})
    return pd.DataFrame(rows, columns=[*frame.columns, "edge"])


@once
def speedups(results: Results) -> pd.DataFrame:
    """One row a (student, from-scratch run, other arm, its teacher): the share of its budget that the arm needs for the same loss.

    `refreshed`: the teacher is one of the preset's `teachers`, which were trained on this text here.

    `speedup`: from-scratch steps over the arm's, at the from-scratch run's final loss, from the arm's runs the one that
    is there first; `at_least`: one is there at its first evaluation, so that it may be more; `at_start`: before any step;
    `equal_speedup`, `equal_at_least`: by runs of as many steps as the from-scratch one;
    `seconds_speedup`: the same in seconds alone on the device, where both paces are known; `loss`, `edge`: of the arm's best
    run of as many steps; `tried`: learning rates of these; `gain`: its final loss below the other's, in nats. None where the arm has no such run.
    """
    frame, rows = students(results), []
    best = best_rates(frame)
    for scratch in best[best["arm"] == FROM_SCRATCH].itertuples():
        rivals = frame[(frame["model"] == scratch.model) & (frame["seed"] == scratch.seed) & (frame["arm"] != FROM_SCRATCH)]
        rows += [{"arm": name, "teacher": teacher, "refreshed": teacher in results.preset.teachers, **_against(scratch, part), **_equal(scratch, part)}
                 for (name, teacher), part in rivals.groupby(["arm", "teacher"], sort=False)]
    return pd.DataFrame(rows, columns=["model", "arm", "teacher", "refreshed", "seed", "steps", "tokens", "scratch_rate", "scratch_loss", "unigram",
                                       "clear", "learned", "scratch_edge", "speedup", "at_least", "at_start", "seconds_speedup", "equal_speedup", "equal_at_least", "rate", "tried", "loss",
                                       "edge", "gain"])


def _against(scratch: Any, part: pd.DataFrame) -> dict[str, Any]:
    """A from-scratch run, a row of `best_rates`, and how much sooner the runs of one arm are at its loss."""
    reached = _reached(scratch.loss, part)
    seconds = [at * pace for at, _, pace in reached if pd.notna(pace)]
    return {"model": scratch.model, "seed": scratch.seed, "steps": scratch.steps, "tokens": scratch.tokens,
            "scratch_rate": scratch.learning_rate, "scratch_loss": scratch.loss, "unigram": scratch.unigram,
            "clear": bool(scratch.clear), "learned": bool(scratch.learned), "scratch_edge": scratch.edge,
            **_first(scratch, reached),
            "at_start": any(points[0][1] <= scratch.loss for _, points, _ in reached),
            "seconds_speedup": scratch.steps * scratch.s_per_step / min(seconds)
            if seconds and pd.notna(scratch.s_per_step) else None}


def _reached(loss: float, part: pd.DataFrame) -> list[tuple[float, list[tuple[float, float]], float | None]]:
    """(step at which it reaches a loss, its curve, seconds a step) of each run that does."""
    curves = [(held_out(r.record, "step"), r.s_per_step) for r in part.itertuples()]
    return [(at, points, pace) for points, pace in curves if (at := crossing(points, loss)) is not None]


def _first(scratch: Any, reached: list[tuple]) -> dict[str, Any]:
    """The speed-up of the run that is there first."""
    first = min(reached, key=lambda found: found[0], default=None)
    return {"speedup": scratch.steps / first[0] if first else None,
            "at_least": bool(first) and at_first_evaluation(first[1], scratch.loss)}


def _equal(scratch: Any, part: pd.DataFrame) -> dict[str, Any]:
    """The arm's best run of as many steps as the from-scratch one; nothing if it has none."""
    equal = part[part["steps"] == scratch.steps]
    if equal.empty:
        return {"equal_speedup": None, "equal_at_least": False, "rate": None, "tried": 0, "loss": None, "edge": "", "gain": None}
    best, sooner = equal.loc[equal["loss"].idxmin()], _first(scratch, _reached(scratch.loss, equal))
    return {"equal_speedup": sooner["speedup"], "equal_at_least": sooner["at_least"], "rate": best["learning_rate"],
            "tried": equal["learning_rate"].nunique(), "loss": best["loss"], "edge": edge(equal["learning_rate"], best["learning_rate"]),
            "gain": scratch.loss - best["loss"]}


def headline(data: pd.DataFrame) -> pd.DataFrame:
    """The rows of `speedups` that the report leads with: the transferred arm, one teacher a (student, budget).

    Of several teachers the one with a run of as many steps; of those a refreshed one (`xatl.as_it_comes` has the others beside it),
    then the one whose arm tried most learning rates, then the one with the most such runs, so that budgets compare; then by name.
    Never a mean over teachers.
    """
    plain = data[data["arm"] == TRANSFERRED]
    equal = plain[plain["loss"].notna()]["teacher"].value_counts()
    first = sorted(set(plain["teacher"]), key=lambda name: (-equal.get(name, 0), natural(name)))
    ranked = plain.assign(leads=plain["refreshed"].astype(bool) & (plain["tried"] > 0),  # none tried: no run of as many steps
                          place=plain["teacher"].map(first.index)).sort_values(["leads", "tried", "place"], ascending=[False, False, True])
    return plain.loc[ranked.drop_duplicates(["model", "seed", "steps"]).index.sort_values()]


def budget_names(rows: pd.DataFrame) -> dict[int, str]:
    """steps -> `1x`, `2x`, ...: from-scratch budgets of one student's `speedups` as multiples of the smallest whose rival is past the
    plateau; of the smallest if none is."""
    budgets, learned = sorted(set(rows["steps"])), rows[rows["learned"].astype(bool)]["steps"]
    return {count: f"{count / (learned.min() if len(learned) else budgets[0]):g}x" for count in budgets}


def times(value: float | None, at_least: bool = False, at_start: bool = False) -> str | None:
    """`5.3x`; `at least 20.0x` where the first evaluation is already below, `(untrained)` where the swap itself is."""
    if value is None or pd.isna(value):
        return None
    return ("at least " if at_least else "") + f"{value:.1f}x" + (" (untrained)" if at_start else "")
