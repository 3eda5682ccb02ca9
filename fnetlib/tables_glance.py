"""The report's first table: what each way to swap keeps of BERT, and how fast it is. One line a model."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .params import SHAPES
from .results import GROUP, Results, cells, chance, footnotes, model_key, recipe_of, tagged, task_title, where
from .statistics import paired_recovery
from .tables import NONE, Table, bert_is_clear, mean_sd, number
from .tables_speed import RULE, SUMMARISED, beside_bert, on_one_device

RECIPES = ("tuned", "tuned_plain")  # as they are, and after training on; without any, the first recipe there is
MODELS = ("fnet-naive", "fnet", "hybrid-2", "fnet+taylor", "hybrid-2+taylor")  # where some recipe has adapted students, beside BERT
LENGTHS = (512, 2048, 8192)
BASE_LAYERS = SHAPES["bert-base"][0]  # of the shape whose speeds are shown


def glance(results: Results) -> Table:
    """Scores with the share of BERT's lead over chance, of several seeds only, and training speed against BERT's."""
    runs = results.primary
    wanted = runs[runs.training.isin(RECIPES)].groupby(GROUP, sort=False).filter(
        lambda group: group.training.iloc[0] == RECIPES[0] or bool(group.minutes.gt(0).any()))  # the others only with students
    runs = wanted if len(wanted) else runs[runs.training == (runs.training.iloc[0] if len(runs) else "")]
    data = cells(runs)
    if len(wanted) and runs["minutes"].gt(0).any():
        shortest = runs[runs["minutes"].gt(0)].groupby("model")["minutes"].min()
        kept = {"bert", *MODELS, *(f"{model}@{minutes:g}min" for model, minutes in shortest.items() if model in MODELS)}
        data = where(data, lambda r: r.label in kept)
    data = data[(data.n > 1) | data.failed.gt(0) | data.diverged.gt(0)] if (data.n > 1).any() else data
    shown = runs[runs.label.isin([*data.label, "bert"])]
    data = data.assign(recovery=data.join(_paired(shown), on=[*GROUP, "task", "label"])["paired"])
    speed = speeds(results, set(data.label.map(recipe_of)))
    rows = {}
    for (training, teacher), group in data.groupby(GROUP, sort=False, dropna=False):
        for label in sorted(set(group.label), key=model_key):
            row = rows[training, teacher, label] = {"Model": label, "Recipe": training}
            for cell in group[group.label == label].itertuples():
                row[task_title(cell.task, cell.note)] = _score(cell, bert_is_clear(group[group.task == cell.task]) is not False)
            row |= {f"× BERT, {length}": speed.get((recipe_of(label), length), NONE) for length in LENGTHS} if speed else {}
    frame = pd.DataFrame(rows.values())
    scores = [name for name in dict.fromkeys(name for row in rows.values() for name in row)
              if name not in ("Model", "Recipe") and not name.startswith("×")]
    order = ["Model", "Recipe", *scores, *[name for name in frame if name.startswith("×")]] if rows else []
    notes = ["Mean ± standard deviation (seeds); in brackets what is left of BERT's lead over a constant prediction, at the seeds that both have, BERT of the same "
             "recipe and teacher being 100% (none where BERT itself is within two standard deviations of it). *model@2min*: after two minutes of adaptation, the shortest; longer ones are in "
             "`recovery.md`. † some runs predict one class."]
    if speed:
        notes.append(f"*× BERT, n*: training steps of n tokens against BERT's, BERT-base's shape{other_depth(results)}; "
                     f"{speed['device']} in {speed['precision']}. {RULE}; "
                     "a mode is named where it is not BERT's.")
    return Table("glance", tagged("At a glance", results.tag), data, {"": frame[order]} if rows else {}, notes + footnotes(runs))


def _paired(runs: pd.DataFrame) -> pd.Series:
    """Share of BERT's lead over chance by the seeds that a label and BERT both have, as in `recovery.py`."""
    rows = []
    for key, group in runs.groupby([*GROUP, "task"], sort=False, dropna=False):
        scores = {label: part.drop_duplicates("seed").set_index("seed")["last"] for label, part in group.groupby("label")}
        bert = scores.get("bert", pd.Series(dtype=float))
        rows += [(*key, label, paired_recovery(ours, bert, chance(group)).mean) for label, ours in scores.items()]
    names = [*GROUP, "task", "label"]
    return pd.DataFrame(rows, columns=[*names, "paired"]).set_index(names)["paired"].astype(float)


def other_depth(results: Results) -> str:
    """What to add to speeds of BERT-base's shape where the models that were scored have another number of layers."""
    depth = scored_depth(results)
    return f" ({BASE_LAYERS} layers, not {depth}, so that a hybrid keeps attention in a smaller share of them)" if depth not in (None, BASE_LAYERS) else ""


def scored_depth(results: Results) -> int | None:
    """Layers of the models that were scored; None where they differ."""
    depths = {len(r.params["recipe"]["mixers"]) for r in results.primary.record if r.params.get("recipe")}
    return depths.pop() if len(depths) == 1 else None


def _score(cell: Any, has_lead: bool) -> str:
    share = "" if cell.label == "bert" or pd.isna(cell.recovery) or not has_lead else f" [{number(100 * cell.recovery, 0)}%]"
    return mean_sd(cell.mean, cell.sd, cell.n) + share + "†" * bool(cell.degenerate)


def speeds(results: Results, models: set[str]) -> dict[Any, str]:
    """(model, length) -> times as fast in training as BERT, on the device that most of `models` were measured on, which is under
    `device`."""
    data = on_one_device(beside_bert(results), models)
    data = data[data["where"] == "gpu"]
    if data.empty:
        return {}
    modes = data[data["model"] == "bert"].set_index("length")["mode"]
    return {"device": data["device_name"].iloc[0], "precision": SUMMARISED["gpu"],
            **{(r.model, r.length): number(r.vs_bert, 2) + f" ({r.mode})" * (r.mode != modes.get(r.length)) for r in data.itertuples()}}
