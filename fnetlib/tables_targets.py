"""What was aimed for, and what came out: a preset's targets beside the report's headline figures (`summary.json`)."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd

from .presets import Target
from .recovery import FEWEST_PAIRS
from .results import Results, tagged
from .summary import figures
from .tables import NONE, Table, number

COLUMNS = ["what", "at", "least", "most", "value", "low", "high", "at_least", "limit", "by", "met"]


def look_up(found: dict[str, Any], at: str) -> Any:
    """The figure at a path of names, `quality/qnli/fnet@2min/recovery`; None where it is not there."""
    for name in at.split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def best_within(found: dict[str, Any], at: str, minutes: float, anywhere: bool = False) -> str:
    """Of `quality/qnli/fnet/recovery` the path to the best adapted `fnet` with at most these minutes and enough pairs; `at` if there is
    none. anywhere: a hybrid may keep as many layers of attention wherever it likes, `hybrid-at-1-4` counts as `hybrid-2`."""
    *parents, model, figure = at.split("/")
    names, hybrid = re.escape(model), re.fullmatch(r"hybrid-(\d+)(\+\w+)?", model)
    if hybrid and anywhere:
        names += rf"|hybrid-at(-\d+){{{hybrid[1]}}}{re.escape(hybrid[2] or '')}"
    entries = {name: entry for name, entry in (look_up(found, "/".join(parents)) or {}).items() if re.match(rf"({names})@", name)
               and entry.get("minutes", math.inf) <= minutes and entry["pairs"] >= FEWEST_PAIRS and entry[figure] is not None}
    best = max(entries, key=lambda name: entries[name][figure], default=model)
    return "/".join([*parents, best, figure])


def frame(results: Results) -> pd.DataFrame:
    """One row a target; `low`, `high`: the interval that stands beside the figure, `at_least`: it is a lower bound, `limit`: of the
    model that does not mix, `by`: the model that it is of (and the best whose layers of attention scores chose), the mode in which a speed was measured, the
    spread over seeds, or that a rival is on the plateau; `met`: None where nothing was measured."""
    found, rows = figures(results), []
    for target in results.preset.targets:
        at, chosen = target.at, ""
        if target.within is not None:
            anywhere = best_within(found, target.at, target.within, anywhere=True)
            at = best_within(found, target.at, target.within)
            at = anywhere if at == target.at else at  # where no spread one was scored
            chosen = "" if anywhere == at else f"; layers that scores chose {number(look_up(found, anywhere), 3)}, {_model(anywhere)}"
        parent, _, name = at.rpartition("/")
        value, beside = None if target.within and at == target.at else look_up(found, at), look_up(found, parent) or {}
        met = None if value is None else (target.least is None or value >= target.least) and (target.most is None or value <= target.most)
        rows.append([target.what, at, target.least, target.most, value, beside.get("low"), beside.get("high"),
                     bool(look_up(found, f"{parent}_is_lower_bound/{name}")), look_up(found, target.limit),
                     _by(at, name, beside, chosen) or _rival(found, parent, name) or _share(found, parent, name), met])
    return pd.DataFrame(rows, columns=COLUMNS)


def table(results: Results) -> Table:
    """Target, measured, met or missed; a target that was missed is said so."""
    data = frame(results)
    rows = [{"Target": target.what, "Aim": _aim(target), "Measured": _measured(r), "The bound's": number(r.limit, 2),
             "": "not measured" if r.met is None else "met" if r.met else "**missed**"}
            for target, r in zip(results.preset.targets, data.itertuples())]
    notes = ["The aims are those of the study's plan; those of `+taylor` and `+gated`, later additions, are their plain models'. Figures are those of `summary.json`, square brackets their 95% intervals, round ones the model, the mode that a speed was measured in, by its newest block of models, or lowest and highest over n seeds or within each of the blocks, where both models are in one mode; within so many minutes the best of "
             f"what was tried, at {FEWEST_PAIRS} seeds or more, which the same scores choose. *The bound*: the "
             "same model with no mixing at all, as fast as a mixer that costs nothing. A hybrid keeps its attention spread; *layers that scores chose*: the best with it elsewhere, by a search that is not in the minutes. *Plateau*: `xatl.md`. *Aim*: what the plan hopes for beyond; met or missed goes by the first figure. "
             "Speeds and memory are of BERT-base's shape, steps in fine-tuning of this preset's teacher."]
    if not rows:
        notes = ["This preset sets no targets."]
    return Table("targets", tagged("Targets", results.tag), data, {"": pd.DataFrame(rows)} if rows else {}, notes)


def _aim(target: Target) -> str:
    words = " and ".join(f"{word} {value:g}" for word, value in (("at least", target.least), ("at most", target.most)) if value is not None)
    return words if target.aim is None else f"{words}, aim {target.aim:g}"


def _rival(found: dict[str, Any], parent: str, name: str) -> str | None:
    """Of a speed-up over training from scratch, where that had hardly begun to learn, or no choice of its learning rate."""
    student = parent.removesuffix("/speedup")
    if look_up(found, f"{student}/rival_learned/{name}") is False:
        return "its rival on the plateau"
    return "its rival by one learning rate" if look_up(found, f"{student}/rival_one_rate/{name}") else None


def _share(found: dict[str, Any], parent: str, name: str) -> str | None:
    """Of a gain over training from scratch: whose weights it started with, and where the transferred student was trained for a share of the steps only."""
    share, teacher = look_up(found, f"{parent}_share_of_steps/{name}"), look_up(found, f"{parent}_teacher/{name}")
    words = [f"`{teacher}`"] if teacher else []
    return ", ".join(words + ([] if share is None else [f"with {share:g} of its rival's steps"])) or None


def _model(at: str) -> str | None:
    return next((f"`{part}`" for part in at.split("/") if "@" in part and at.startswith("quality/")), None)


def _by(at: str, name: str, beside: dict[str, Any], chosen: str) -> str | None:
    if model := _model(at):
        return model + chosen
    if "lowest" in beside:
        return f"{number(beside['lowest'], 2)} to {number(beside['highest'], 2)}, n={beside['n']}"
    if name in (beside.get("blocks") or {}):
        low, median, high = beside["blocks"][name]
        return f"{beside['mode']}; {number(low, 2)} to {number(high, 2)}, median {number(median, 2)}, within {beside['blocks']['n']} compiled blocks"
    return beside.get({"vs_best_peer": "peer_mode", "least_vs_bert": "least_mode"}.get(name, "mode"))


def _measured(row: Any) -> str:
    if pd.isna(row.value):
        return NONE
    by = f" ({row.by})" if isinstance(row.by, str) else ""
    close = round(row.value, 3) in (row.least, row.most) and not row.met  # rounded it would look met
    bounds = "" if pd.isna(row.low) else f" [{number(row.low, 2)}, {number(row.high, 2)}]"
    return "at least " * row.at_least + number(row.value, 5 if close else 3) + bounds + by
