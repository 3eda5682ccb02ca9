"""When to choose what: every model in its fastest mode beside BERT in its own, by length, and what is left of the quality."""

from __future__ import annotations

import re

import pandas as pd

from .results import Results, cells, model_key, task_title
from .tables import NONE, Table, number
from .tables_speed import fastest

OURS = ("fnet", "hybrid-2")
WORDS = {"train": "training", "infer": "inference"}


def choice(results: Results) -> Table:
    """How many times as fast as BERT our recipes, the bound and the best peer are, a section a device and kind of step."""
    data, sections = fastest(results.efficiency), {}
    for (device, tokens, kind), group in data.groupby(["device_name", "tokens", "kind"], sort=False):
        rows = []
        for length, part in sorted(group.groupby("length"), key=lambda item: item[0]):
            of = part.set_index("model")
            peers = of[of["is_peer"]]
            best = peers["vs_bert"].astype(float).idxmax() if peers["vs_bert"].notna().any() else None
            rows.append({"Length": length,
                         **{model: _cell(of, model) for model in sorted((*OURS, "bound"), key=model_key)},
                         "best peer": f"{_cell(of, best)} {best}" if best else NONE,
                         "BERT's mode": of["mode"].get("bert", NONE),
                         "fastest of all": max((m for m in of.index if m != "bound"), key=lambda m: -of["seconds"][m])})
        sections[f"{device}, {tokens} tokens a step, {WORDS[kind]}"] = pd.DataFrame(rows)
    notes = ["Times as fast as BERT, each model in the fastest of its measured modes (in brackets: eager, compiled whole or layer "
             "by layer), BERT-base's shape; bf16 on a GPU, fp32 on a CPU. Above 1: faster than BERT. The bound does not mix at all."]
    return Table("choice", "When to choose what", data, sections, notes if len(data) else ["Nothing was measured in BERT-base's shape."])


def _cell(of: pd.DataFrame, model: str) -> str:
    if model not in of.index or pd.isna(of["vs_bert"][model]):
        return NONE
    return f"{number(of['vs_bert'][model], 2)} ({of['mode'][model]})"


def sentences(results: Results) -> list[str]:
    """One sentence a device and kind of step: where our recipes are faster than BERT; one a task: what is left of quality."""
    lines, data = [], fastest(results.efficiency)
    data = data[data["model"].isin(OURS) & data["vs_bert"].notna()]
    for (device, tokens, kind), group in data.groupby(["device_name", "tokens", "kind"], sort=False):
        parts = []
        for model, part in sorted(group.sort_values("length").groupby("model"), key=lambda item: model_key(item[0])):
            ratios = ", ".join(f"{number(r.vs_bert, 2)} at {r.length}" for r in part.itertuples())
            parts.append(f"`{model}` {ratios}")
        lines.append(f"- **Against BERT, each in its fastest mode** ({device}, {tokens} tokens a step, {WORDS[kind]}), times as fast by "
                     f"length: {'; '.join(parts)}.")
    return lines + _left(results) * bool(lines)


def _left(results: Results) -> list[str]:
    runs = cells(results.primary[results.primary["training"].isin(["study", "tuned"])])
    runs = runs.assign(model=[re.split(r"[@ ]", label)[0] for label in runs["label"]])
    runs = runs[runs["model"].isin(OURS) & runs["recovery"].notna()]
    best = runs.loc[runs.groupby(["task", "model"], sort=False)["recovery"].apply(lambda part: part.astype(float).idxmax())]
    parts = [f"{task_title(task, set(filter(None, group['note'])))} "
             + ", ".join(f"`{r.label}` {number(100 * r.recovery, 0)}%" for r in group.itertuples())
             for task, group in best.groupby("task", sort=False)]
    return [f"- **What is left of BERT's lead over chance**, the best of the study's and the tuned recipe: {'; '.join(parts)}."] * bool(parts)
