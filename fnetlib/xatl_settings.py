"""In which setting does a student learn from scratch at all? XATL's rivals (Choi 2024), by what was varied: budget, learning rate,
batch, lengths of the sequences, depth, warm-up, and the recipe's norms, mask, gain and projection.

Training from scratch first finds how often tokens are, then rests on a plateau, half a nat to a nat below.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from .plots import _empty, _finish
from .records import Record
from .results import Results, model_key, once, tagged
from .tables import Table, number
from .xatl_runs import (
    CLEAR, FROM_SCRATCH, LEARNED, TRANSFERRED, arm, at_first_evaluation, compared, crossing, final_loss, headline, held_out, scored, setting, speedups, times,
)

WORDS = {"layers": "{} layers", "batch_size": "batch {}", "shortest": "{} to {} tokens", "warmup": "warm-up {:.0%}"}
STAND_IN = "fnet"
COLUMNS = ["model", "setting", "learning_rate", "seed", "steps", "tokens", "loss", "below_unigram", "learned", "speedup", "at_least", "by", "record"]


@once
def frame(results: Results) -> pd.DataFrame:
    """One row a student's run from scratch: setting (in words, what differs from most; empty where nothing does), steps, tokens, loss (held out,
    nats), below_unigram (nats), learned (by more than LEARNED), and how much sooner a transferred student of the same setting is there
    (`speedup`, `at_least`: see `xatl_runs.speedups`; None where none is), `by` which: its teacher and its own steps."""
    records = scored(results.adapt)
    shown = {r.model: r for r in compared(records)}
    main, seeds = {name: setting(r) for name, r in shown.items()}, {name: r.seed for name, r in shown.items()}
    runs = [r for r in records if arm(r) == FROM_SCRATCH and seeds.get(r.model, r.seed) == r.seed]  # other seeds: `xatl_seeds.table`
    leading = {(main[r.model], r.steps): r for r in headline(speedups(results)).itertuples()}
    usual = {name: pd.Series([r.params.get(name) or 0 for r in runs], dtype=float).mode().get(0) for name in WORDS}
    rows = []
    for r in runs:
        loss, unigram = final_loss(r), r.metrics.validation.get("unigram_loss")
        below = None if unigram is None else unigram - loss
        rows.append([r.model, in_words(r, usual), r.params["learning_rate"], r.seed, r.timing["steps"], r.metrics.history[-1]["tokens"], loss,
                     below, below is not None and below > LEARNED, *_sooner(r, records, leading), r])
    rows.sort(key=lambda row: (model_key(row[0]), row[1], row[4], row[2]))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"below_unigram": float, "speedup": float})


def in_words(record: Record, usual: dict[str, Any]) -> str:
    """What sets a run apart: `2 layers, batch 256`."""
    parts = []
    for name, words in WORDS.items():
        value = record.params.get(name) or 0
        if value != usual[name]:
            whole = name == "shortest" and not value
            parts.append(f"{record.params['length']} tokens each" if whole else words.format(value, record.params["length"]))
    return ", ".join(parts)


def _sooner(scratch: Record, records: list[Record], leading: dict[tuple, Any]) -> tuple[float | None, bool, str]:
    """How many times sooner a transferred student of its setting reaches its loss, whether that is a lower bound, and which does.

    leading: of XATL's own setting by setting and steps, see `xatl_runs.headline`. A recipe that no student was transferred
    by is compared with `fnet`, which is what a swap would use.
    """
    if (row := leading.get((setting(scratch), scratch.timing["steps"]))) is not None:
        return row.speedup, bool(row.at_least), f"`{row.teacher}`" if pd.notna(row.speedup) else ""
    loss = final_loss(scratch)
    inherited = [r for r in records if arm(r) == TRANSFERRED and setting(r)[1:] == setting(scratch)[1:]]  # whatever the recipe
    own = [r for r in inherited if r.model == scratch.model] or [r for r in inherited if r.model == STAND_IN]
    reached = [(at, r) for r in own if (at := crossing(held_out(r, "step"), loss)) is not None]
    if not reached:
        nearest = min(own, key=final_loss, default=None)
        return None, False, "" if nearest is None else f"not reached: {_run(nearest, scratch)} ends at {number(final_loss(nearest))}"
    at, first = min(reached, key=lambda found: found[0])
    return scratch.timing["steps"] / at, at_first_evaluation(held_out(first, "step"), loss), _run(first, scratch)


def _run(inherited: Record, scratch: Record) -> str:
    """`minilm`, 2,400 steps; the student too where it is another."""
    other = "" if inherited.model == scratch.model else f"`{inherited.model}` from "
    return f"{other}`{inherited.teacher.name}`, {inherited.timing['steps']:,} steps"


def best(results: Results) -> pd.DataFrame:
    """Of `frame` the learning rate with the lowest loss, of each student, setting and number of steps; `rates`: those tried."""
    data = frame(results)
    key = ["model", "setting", "seed", "steps"]
    chosen = data.loc[data.groupby(key, sort=False)["loss"].idxmin()] if len(data) else data
    tried = data.groupby(key)["learning_rate"].agg(lambda found: sorted(set(found)))
    return chosen.assign(rates=[tried[tuple(getattr(r, name) for name in key)] for r in chosen.itertuples()])


def table(results: Results) -> Table:
    """Final held-out loss from scratch by setting and budget, the best learning rate of those tried."""
    data = best(results)
    sections = {f"`{model}`": pd.DataFrame([{
        "Setting": r.setting or "as XATL's arms", "Steps": f"{r.steps:,}", "M tokens": number(r.tokens / 1e6, 1),
        "Rate": f"{r.learning_rate:g} of {', '.join(f'{rate:g}' for rate in r.rates)}" if len(r.rates) > 1 else f"{r.learning_rate:g}",
        "Loss": number(r.loss), "Below frequencies, nats": number(r.below_unigram), "": _progress(r),
        "Transferred, sooner": _cell(r)} for r in part.itertuples()])
        for model, part in data.groupby("model", sort=False)}
    unigram = [value for r in data["record"] if (value := r.metrics.validation.get("unigram_loss")) is not None]
    notes = ["Held-out masked-LM loss after the last step of students from scratch, one seed, the best of the learning rates tried; every "
             "setting is held out on the same sequences of 128 tokens. *As XATL's arms*: "
             f"{_usual(data)}; other settings say what differs. "
             + (f"Token frequencies alone give {number(unigram[0], 2)} nats. " if unigram else "")
             + f"*Plateau*: less than {LEARNED:g} nats below that. *Sooner*: the transferred student of the same setting, from which teacher, and "
             f"how long its run was, since the rate falls till its end; where none has that recipe `{STAND_IN}` stands in, the swap that one would use."]
    if data.empty:
        notes = ["No student was trained from scratch here: `02_transfer` with `-p groups none`."]
    return Table("xatl-settings", tagged("Learning from scratch", results.tag), data.drop(columns=["record", "rates"]), sections, notes)


def _cell(row: Any) -> str | None:
    sooner = times(row.speedup, row.at_least)
    return f"{sooner} ({row.by})" if sooner else row.by or None


def _usual(data: pd.DataFrame) -> str:
    plain = data[data["setting"] == ""]["record"]
    if plain.empty:
        return "the values that most have"
    params = plain.iloc[0].params
    lengths = f"{params['shortest']} to {params['length']}" if params.get("shortest") else str(params["length"])
    return f"batches of {params['batch_size']} x 128 tokens cut to sequences of {lengths}, the teacher's depth, warm-up {params.get('warmup') or 0:.0%}"


def _progress(row: Any) -> str:
    return "learns" if row.learned else "plateau" if row.below_unigram > CLEAR else "near frequencies"


def curves(results: Results) -> Figure:
    """Held-out loss against tokens, a line a student and setting: its longest run at the best rate. Above the dotted line only token
    frequencies are known, below the dashed one it is past the plateau."""
    title, data = tagged("Learning from scratch, by setting", results.tag), best(results)
    if data.empty:
        return _empty(title, "no student was trained from scratch: 02_transfer with groups none does")
    longest = data.loc[data.groupby(["model", "setting"], sort=False)["steps"].idxmax()].sort_values("loss")
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axis, ink = figure.subplots(), plt.get_cmap("tab10" if len(longest) <= 10 else "tab20")
    for i, r in enumerate(longest.itertuples()):
        points = held_out(r.record, "tokens")[1:]
        axis.plot([tokens / 1e6 for tokens, _ in points], [loss for _, loss in points], lw=1.6 if not r.setting else 1.1,
                  ls="-" if not r.setting else "--", color=ink(i % ink.N), label=f"{r.model}{', ' + r.setting if r.setting else ''}: {r.loss:.2f} after {r.tokens / 1e6:.0f} M")
    unigram = next((value for r in longest["record"] if (value := r.metrics.validation.get("unigram_loss"))), None)
    if unigram:
        axis.axhline(unigram, color="0.5", lw=0.8, ls=":", label="token frequencies alone")
        axis.axhline(unigram - LEARNED, color="0.5", lw=0.8, ls="--", label="past the plateau")
        axis.set_ylim(min(longest["loss"].min(), unigram - LEARNED) - 0.2, unigram + 0.3)
    axis.set(xscale="log", xlabel="tokens seen, millions", ylabel="held-out loss, nats")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)
    return _finish(figure, title, handles=axis.get_legend_handles_labels()[0], columns=3)


def sentences(results: Results) -> list[str]:
    """What it takes to learn from scratch, one sentence a student that was tried in several settings or budgets."""
    lines = []
    for model, part in best(results).groupby("model", sort=False):
        plain, other = part[part["setting"] == ""], part[part["setting"] != ""]
        if len(plain) < 2:
            continue
        past, last = plain[plain["learned"]], plain.iloc[-1]
        lines.append(f"- **From scratch, `{model}`**: past the plateau (more than {LEARNED:g} nats below token frequencies) "
                     + (f"after {number(past.iloc[0].tokens / 1e6, 1)} M tokens" if len(past) else f"not within {number(last.tokens / 1e6, 1)} M tokens")
                     + f", at {number(last.loss)} nats after {number(last.tokens / 1e6, 1)} M"
                     + "".join(f"; {r.setting}: {number(r.loss)} after {number(r.tokens / 1e6, 1)} M" for r in other.itertuples()) + ".")
    return lines
