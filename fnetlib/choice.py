"""When to choose what: every model beside BERT, each in the fastest mode that it was measured in, by length."""

from __future__ import annotations

import pandas as pd

from .results import Results, model_key
from .tables import NONE, Table, number
from .tables_speed import RULE, beside_bert

OURS = ("fnet", "fnet+taylor", "hybrid-2", "hybrid-2+taylor")
WORDS = {"train": "training", "infer": "inference"}


def choice(results: Results) -> Table:
    """How many times as fast as BERT our recipes, the bound and the best peer are, a section a device and kind of step."""
    data, sections = beside_bert(results), {}
    for (device, tokens, kind), group in data.groupby(["device_name", "tokens", "kind"], sort=False):
        rows = []
        for length, part in sorted(group.groupby("length"), key=lambda item: item[0]):
            of = part.set_index("model")
            ratios = of["vs_bert"].drop("bound", errors="ignore").dropna()
            rows.append({"Length": length,
                         **{model: _cell(of, model) for model in sorted((*OURS, "bound"), key=model_key)},
                         "fnet × best peer": _against_peer(of, "fnet"), "BERT's mode": of["mode"].get("bert", NONE),
                         "fastest": f"{ratios.idxmax()} ({of['mode'][ratios.idxmax()]})" if len(ratios) else NONE})
        sections[f"{device}, {tokens} tokens a step, {WORDS[kind]}"] = pd.DataFrame(rows)
    notes = [f"Times as fast as BERT, above 1: faster. {RULE} (in brackets: eager, compiled whole or layer by layer, or layers launched as "
             "CUDA graphs). BERT-base's shape; bf16 on a GPU, fp32 on a CPU. The bound does not mix at all. *fnet × best peer*: times as fast "
             "as the peer that comes closest to it in one mode, which is in brackets."]
    return Table("choice", "When to choose what", data, sections, notes if len(data) else ["Nothing was measured in BERT-base's shape."])


def _cell(of: pd.DataFrame, model: str) -> str:
    if model not in of.index or pd.isna(of["vs_bert"][model]):
        return NONE
    return f"{number(of['vs_bert'][model], 2)} ({of['mode'][model]})"


def _against_peer(of: pd.DataFrame, model: str) -> str:
    if model not in of.index or pd.isna(of["vs_best_peer"][model]):
        return NONE
    return f"{number(of['vs_best_peer'][model], 2)} ({of['peer_mode'][model]}) {of['peer'][model]}"


def sentences(results: Results) -> list[str]:
    """One sentence a device and kind of step: where our recipes are faster than BERT."""
    lines, data = [], beside_bert(results)
    for (device, tokens, kind), group in data.groupby(["device_name", "tokens", "kind"], sort=False):
        eager = set(group[(group["model"] == "bert") & (group["mode"] == "eager")]["length"])  # where BERT is fastest so, nothing is said
        ours = group[group["model"].isin(OURS) & group["vs_bert"].notna()].sort_values("length")
        parts = []
        for model, part in sorted(ours.groupby("model"), key=lambda item: model_key(item[0])):
            ratios = ", ".join(f"{number(r.vs_bert, 2)} at {r.length}" + " (eager only)" * (r.mode == "eager" and r.length not in eager)
                               for r in part.itertuples())
            parts.append(f"`{model}` {ratios}")
        lines += [f"- **Against BERT** ({device}, {tokens} tokens a step, {WORDS[kind]}, each in its fastest mode), times as "
                  f"fast by length: {'; '.join(parts)}."] * bool(parts)
    return lines
