"""The report's answer in a few lines: what each way to swap keeps of BERT after the shortest adaptation, and how fast it is."""

from __future__ import annotations

import re

from . import recovery, tables_glance
from .results import Results, footnotes, where
from .tables import number

WAYS = {  # in the order of the story
    "fnet-naive": "The plain transform in attention's place",
    "fnet": "The repaired transform, nothing else",
    "hybrid-2": "The transform, with attention kept in two layers",
    "fnet+taylor": "No attention layer, but filters expanded in the query (sub-quadratic)",
    "hybrid-2+taylor": "These filters, with attention kept in two layers",
}
LENGTHS = (512, 8192)


def lines(results: Results) -> list[str]:
    """One line a way: share of BERT's lead over chance by task (paired by seed), then training speed against BERT."""
    data, others = recovery.main(results), recovery.others(results)
    alike = {model: _as_large_a_share(model, results) for model in WAYS}
    speed = tables_glance.speeds(results, {*WAYS, *alike.values()})
    found = []
    for model, words in WAYS.items():
        part = data[data["model"] == model]
        if part.empty:
            continue
        minutes = min(part["minutes"][part["minutes"].gt(0)], default=0.0)
        shares = [f"{number(100 * r.recovery, 0)}% on {recovery.title_of(r)} (n={r.pairs})" for r in part[part["minutes"] == minutes].itertuples()]
        fast = [f"{speed[model, n].split()[0]} times as fast as BERT at {n:,} tokens"
                + (f" ({speed[alike[model], n].split()[0]} with as large a share of attention)" if alike[model] != model and (alike[model], n) in speed else "")
                for n in LENGTHS if (model, n) in speed]
        tasks = where(others, lambda r: r.model == model and r.pairs >= recovery.FEWEST_PAIRS and recovery.task_is_distilled(r.method))
        more = [f"{number(100 * r.recovery, 0)}% on {recovery.title_of(r)} (n={r.pairs}, {r.minutes:g} minutes) if the task is distilled too{_examples(r.method)}"
                for r in tasks.sort_values("recovery").drop_duplicates("task", keep="last").itertuples()]
        after = f", {minutes:g} minute{'s' * (minutes != 1)} of distillation" if minutes else ""
        found.append(f"- **{words}** (`{model}`{after}) keeps {', '.join(shares)} of BERT's lead over chance"
                     + "".join(f", {part}" for part in more) + (f", and trains {', '.join(fast)}" if fast else "") + ".")
    return found


def _examples(method: str) -> str:
    """What it is distilled on besides its own examples."""
    return {"edits": ", on edited sentences", "pairs": ", on new pairs"}.get(method.split("+")[-1], "")


def _as_large_a_share(model: str, results: Results) -> str:
    """The hybrid whose share of attention layers is at BERT-base's depth what `model`'s is where it was scored."""
    depth, kept = tables_glance.scored_depth(results), re.match(r"hybrid-(\d+)(.*)", model)
    return f"hybrid-{int(kept[1]) * tables_glance.BASE_LAYERS // depth}{kept[2]}" if kept and depth else model


def markdown(results: Results) -> str:
    """The lines as Markdown, what their numbers are of, and footnotes."""
    data = recovery.main(results)
    if data.empty:
        return "*No student was adapted before its task yet.*\n"
    first, speed = data.iloc[0], tables_glance.speeds(results, set(WAYS))
    note = f"Recipe `{first['training']}`, teacher `{first['teacher']}`; shares are paired by seed (n pairs)" + (
        f"; speeds are of BERT-base's shape{tables_glance.other_depth(results)}, {speed['device']}, {speed['precision']}" if speed else "") + "."
    return "\n".join([*lines(results), "", note, *(f"\n{line}" for line in footnotes(results.primary))]) + "\n"
