"""The report's headline figures under fixed names, for machines: `summary.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from . import mixing_speed, recovery, tables_repair, tables_scaling, tables_speed, tables_throughput, xatl
from .results import GROUP, Results, cells, footnotes, once, write_text


@once
def figures(results: Results) -> dict[str, Any]:
    """Headline figures under fixed names: `quality_study.<task>.<model>` and so on = {mean, sd, n, recovery}, `quality` being the tuned
    recipe, with the adapted models `<model>@<minutes>min` of recovery.entries, and
    `ablation.<task>.<repair>` = {alone, left_out, shapley}, see tables_repair.ablation, `xatl.<student>`, see
    xatl.entries, `speed` and `memory`, see tables_speed.entries, `mask`, see tables_scaling.entries, `mixing`, see mixing_speed.entries,
    `throughput`, see tables_throughput.entries.

    Of several teachers, recipe `study` shows the preset's, every other recipe the one whose BERT is best at the task;
    `about.teachers` names the choice.
    """
    data = cells(results.reported)
    found: dict[str, Any] = {"about": {"preset": results.name, "data": results.tag or "GLUE", "teachers": {},
                                       "notes": [note.removeprefix("\\* ") for note in footnotes(results.reported)]}}
    for (training, task), group in data.groupby(["training", "task"], sort=False, dropna=False):
        name = "quality" if training == "tuned" else f"quality_{training}"
        teacher = _teacher(group, training, results)
        found["about"]["teachers"].setdefault(name, {})[task] = teacher
        found.setdefault(name, {})[task] = {
            r.label: {"mean": _plain(r.mean), "sd": _plain(r.sd), "n": int(r.n), "recovery": _plain(r.recovery)}
            for r in group[group.teacher == teacher].itertuples()}
    for task, models in recovery.entries(results).items():
        found.setdefault("quality", {}).setdefault(task, {}).update(models)
    if shares := _ablation(results):
        found["ablation"] = shares
    if inherited := xatl.entries(results):
        found["xatl"] = inherited
    found |= tables_speed.entries(results)
    more = {"mask": tables_scaling.entries(results.efficiency), "mixing": mixing_speed.entries(results.stage("mixing")),
            "throughput": tables_throughput.entries(results)}
    found |= {name: figures for name, figures in more.items() if figures}
    return found


def _ablation(results: Results) -> dict[str, dict[str, dict[str, float | None]]]:
    """task -> repair -> {alone, left_out, shapley}: means of each task's first ablation, the study's if it has one."""
    data = tables_repair.ablation(results).data
    data = data[data.quantity.isin(_SHARES)]
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for task, part in data.groupby("task", sort=False):
        first = part[(part[_ABLATION] == part[_ABLATION].iloc[0]).all(axis=1)]
        for r in first.itertuples():
            found.setdefault(task, {}).setdefault(r.of, dict.fromkeys(_SHARES))[r.quantity] = _plain(r.mean)
    return found


_ABLATION = [*GROUP, "settings"]
_SHARES = ("alone", "left_out", "shapley")


def _teacher(group: pd.DataFrame, training: str, results: Results) -> str:
    if training == "study" and results.preset.teacher in set(group.teacher):
        return results.preset.teacher
    berts = group[(group.label == "bert") & group["mean"].notna()]
    if len(berts):
        return berts.loc[berts["mean"].astype(float).idxmax(), "teacher"]
    return group.teacher.value_counts().index[0]


def _plain(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else round(float(value), 6)


def write(results: Results) -> Path:
    path = write_text(results.folder / "summary.json", json.dumps(figures(results), indent=1) + "\n")
    results.written += [path] * (path not in results.written)
    return path
