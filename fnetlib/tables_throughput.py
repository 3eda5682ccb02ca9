"""Fine-tuning as users run it: steps a second on the real tasks, alone on the device, and what helps every model alike.

Short sentences padded to the longest of their batch: launches and padding rule here, not the operations that
`efficiency.py` measures at one length.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from .params import STUDY
from .records import Record, label, task_distilled
from .results import SOLO, Results, data_note, footnotes, model_key, tagged, task_title
from .tables import NONE, Table, number
from .teacher import RANDOM

COLUMNS = ["device", "teacher", "task", "note", "way", "model", "seed", "steps_per_s", "samples_per_s", "steps", "wall_s", "vs_bert"]


def way(record: Record) -> str:
    """How the batches are made and the steps launched: `batch 16, fp32`, `batch 16, fp32, lengths grouped, CUDA graphs`."""
    params = record.params
    parts = [f"batch {params['batch_size'] * params.get('accumulate', 1)}", params["precision"]]
    parts += ["lengths grouped"] if params.get("group_by_length") else []
    parts += [f"padded to multiples of {params['pad_to']}"] if params.get("pad_to", 1) > 1 else []
    parts += {"no": [], "default": ["compiled"], "graphs": ["CUDA graphs"]}[params.get("compile", "no")]
    return ", ".join(parts)


def frame(results: Results) -> pd.DataFrame:
    """One row a run of recipe `solo` that learns from labels: warm training steps a second, and those over BERT's of the same way and seed."""
    runs = [r for r in results.finetune[results.finetune["training"] == SOLO]["record"]
            if r.timing and not r.timing["shared"] and r.timing.get("steady_steps_per_s") and not task_distilled(r)]
    rows = [[r.env["device_name"], r.teacher.name, r.task, data_note(r), way(r), label(r), r.seed,
             r.timing["steady_steps_per_s"], r.timing["steady_steps_per_s"] * r.params["batch_size"] * r.params.get("accumulate", 1),
             r.timing.get("steps"), r.timing.get("wall_s")] for r in runs]
    data = pd.DataFrame(rows, columns=COLUMNS[:-1])
    key = ["device", "teacher", "task", "way", "seed"]
    bert = data[data["model"] == "bert"].set_index(key)["steps_per_s"]
    data["vs_bert"] = [r.steps_per_s / bert[found] if (found := tuple(getattr(r, name) for name in key)) in bert.index else None
                       for r in data.itertuples()]
    return data.astype({"vs_bert": float, "steps": float, "wall_s": float})


def table(results: Results) -> Table:
    """Steps a second and times BERT's, a section a task, a row a way, a column a model."""
    data, sections = frame(results), {}
    for title, group in _tasks(data):
        models = sorted(set(group["model"]), key=model_key)
        rows = []
        for name, part in sorted(group.groupby("way"), key=lambda item: len(item[0])):
            cells = {model: _cell(part[part["model"] == model]) for model in models}
            rows.append({"Batches": name, **cells})
        sections[title] = pd.DataFrame(rows)
    lengths = sorted({int(steps) for steps in data["steps"].dropna()})
    notes = ["Training steps a second once the run is warm, alone on the device; in brackets times as fast as BERT in the same row, mean "
             f"[lowest, highest] over seeds (n). A run is {' to '.join(f'{n:,}' for n in dict.fromkeys([*lengths[:1], *lengths[-1:]]))} steps, "
             "and single short ones differ by tenths: read the spread."
             + (f" *{RANDOM}...*: random weights of that shape; the scores mean nothing." if data["teacher"].str.startswith(RANDOM).any() else "")]
    return Table("throughput", tagged("Fine-tuning as users run it", results.tag), data, sections, _notes(results, data, notes))


def _tasks(data: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(f"{task_title(task, [n for n in group['note'].unique() if n])}: teacher `{teacher}`, {device}", group)
            for (device, teacher, task), group in data.groupby(["device", "teacher", "task"], sort=False)]


def _notes(results: Results, data: pd.DataFrame, notes: list[str]) -> list[str]:
    runs = results.finetune
    return notes + footnotes(runs[runs["training"] == SOLO]) if len(data) else [
        f"Not measured: it needs runs of recipe `{SOLO}` that had the device to themselves."]


def runtimes(results: Results) -> Table:
    """Wall time of the same runs, and samples a second: a section a task, a row a way, model and number of steps."""
    data, sections = frame(results), {}
    for title, group in _tasks(data):
        rows = []
        for (name, model, steps), part in sorted(group.groupby(["way", "model", "steps"], dropna=False),
                                                 key=lambda item: (len(item[0][0]), model_key(item[0][1]), item[0][2])):
            rows.append({"Batches": name, "Model": model, "Samples/s": number(part["samples_per_s"].mean(), 0),
                         "Wall time, s": number(part["wall_s"].mean(), 1), "of steps": number(steps, 0), "n": len(part)})
        sections[title] = pd.DataFrame(rows)
    notes = ["Means over seeds (n). Samples a second once the run is warm; the wall time is that of the whole run, its start and "
             "evaluations included, which weigh more in so short a run than in one of several epochs."]
    return Table("runtimes", tagged("Wall time of fine-tuning", results.tag), data, sections, _notes(results, data, notes))


def _cell(runs: pd.DataFrame) -> str:
    if runs.empty:
        return NONE
    speed, ratio = number(runs["steps_per_s"].mean(), 1), runs["vs_bert"].dropna()
    if ratio.empty or (runs["model"] == "bert").all():
        return f"{speed} ({len(runs)})"
    return f"{speed} (× {number(ratio.mean(), 2)} [{number(ratio.min(), 2)}, {number(ratio.max(), 2)}], {len(ratio)})"


def as_the_study(data: pd.DataFrame) -> pd.DataFrame:
    """Of `frame` the runs by its way: batches of its size as they come, eager, in fp32."""
    return data[data["way"] == f"batch {STUDY['batch_size']}, fp32"]


def entries(results: Results) -> dict[str, Any]:
    """The summary's figures: `throughput.<task>.<model>` = {vs_bert, lowest, highest, n, device}: steps a second as the study ran it over
    BERT's of the same seed, mean, lowest and highest; of each task the device with most runs. `throughput.<task>@<shape>`: the same of random
    weights of another shape than the teacher's."""
    found: dict[str, Any] = {}
    data = as_the_study(frame(results))
    shape = data["teacher"].where(data["teacher"].str.startswith(RANDOM), "").str.replace(RANDOM, "@", n=1)
    for task, group in data.groupby(data["task"] + shape, sort=False):
        (device, _), part = max(group.groupby(["device", "teacher"], sort=False), key=lambda item: len(item[1]))
        for model, ratios in part.groupby("model", sort=False)["vs_bert"]:
            if (known := ratios.dropna()).size and model != "bert":
                found.setdefault(task, {})[model] = {
                    "vs_bert": round(float(known.mean()), 4), "lowest": round(float(known.min()), 4), "highest": round(float(known.max()), 4),
                    "n": len(known), "device": device}
    return found


def sentences(results: Results) -> list[str]:
    """One sentence a task: our models' steps a second over BERT's, as the study ran it."""
    lines, data = [], frame(results)
    for (device, teacher, task), group in data.groupby(["device", "teacher", "task"], sort=False):
        plain = as_the_study(group)
        means: dict[str, Any] = plain[plain["model"] != "bert"].groupby("model")["vs_bert"].mean().dropna().to_dict()
        parts = [f"`{model}` {number(100 * (means[model] - 1), 0, sign=True)}%" for model in sorted(means, key=model_key)]
        lines += [f"- **Steps a second in fine-tuning, {task_title(task, [n for n in group['note'].unique() if n])}** (teacher `{teacher}`, {device}, "
                  f"as the 2023 study ran it), against BERT: {', '.join(parts)}."] * bool(parts)
    return lines
