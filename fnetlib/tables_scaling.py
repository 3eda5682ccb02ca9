"""How time and memory grow with the sequence, where a model overtakes BERT, and what padding costs: from the records of
04_efficiency alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from .params import PADDED
from .records import Record
from .results import Results, model_key
from .tables import NONE, Table, number
from .tables_speed import KINDS, SETTING, SUMMARISED, _spread, beside_bert, main_shape, setting_title, speed_frame

FROM = 512  # tokens; below, what does not depend on the length rules
NAMED = ("bert", "fnet", "hybrid-2", "bound")  # in sentences
FEWEST = 3  # lengths for an exponent


def exponent(lengths: list[float], values: list[float]) -> float | None:
    """e of values ~ lengths^e: the slope of a least-squares line through the logarithms; None below FEWEST points."""
    if len(lengths) < FEWEST:
        return None
    return float(np.polyfit(np.log(np.asarray(lengths, float)), np.log(np.asarray(values, float)), 1)[0])


def crossover(lengths: list[int], ratios: list[float]) -> str:
    """The length from which ratios stay above 1, interpolated on logarithms; words where there is none."""
    if not lengths:
        return NONE
    below = [i for i, ratio in enumerate(ratios) if ratio <= 1]
    if not below:
        return f"all from {lengths[0]}"
    last = below[-1]
    if last == len(lengths) - 1:
        return f"none up to {lengths[-1]}"
    (x0, x1), (y0, y1) = np.log(lengths[last:last + 2]), np.log(ratios[last:last + 2])
    return f"{math.exp(x0 - y0 * (x1 - x0) / (y1 - y0)):.0f}"


def scaling(records: list[Record]) -> Table:
    """Fitted exponents of a sequence's time and memory in its length, and the length from which a model is faster than BERT.

    Each length was measured with the same number of tokens a step; time and memory of a sequence are the step's over its
    batch.
    """
    frame, rows = speed_frame(records), []
    frame = frame[frame["status"] == "finished"] if len(frame) else frame
    for key, group in frame.groupby([*SETTING, "model"], sort=False, dropna=False) if len(frame) else ():
        group = group.sort_values("length")
        long = group[group["length"] >= FROM]
        row = {**dict(zip([*SETTING, "model"], key)), "lengths": ", ".join(map(str, group["length"]))}
        for kind in KINDS:
            ratios = group.dropna(subset=f"{kind}_vs_bert")
            memory = long.dropna(subset=f"{kind}_peak_bytes")
            row |= {f"{kind}_exponent": exponent(list(long["length"]), list(long[f"{kind}_s"].astype(float) / long["batch"])),
                    f"{kind}_memory_exponent": exponent(list(memory["length"]), list(memory[f"{kind}_peak_bytes"].astype(float)
                                                                                     / memory["batch"])),
                    f"{kind}_faster_from": crossover(list(ratios["length"]), list(ratios[f"{kind}_vs_bert"].astype(float)))}
        rows.append(row)
    data, sections = pd.DataFrame(rows), {}
    several = data[data["lengths"].str.contains(",")] if len(data) else data
    for key, group in several.groupby(SETTING, sort=False, dropna=False) if len(several) else ():
        shown = sorted(group.itertuples(), key=lambda r: model_key(r.model))
        sections[setting_title(key)] = pd.DataFrame([{
            "Model": r.model, "Lengths": r.lengths,
            **{f"{kind} time": number(getattr(r, f"{kind}_exponent"), 2) for kind in KINDS},
            **{f"{kind} memory": number(getattr(r, f"{kind}_memory_exponent"), 2) for kind in KINDS},
            **{f"{kind} faster than BERT from": NONE if r.model.removesuffix(PADDED) == "bert" else
               getattr(r, f"{kind}_faster_from") for kind in KINDS}} for r in shown])
    notes = [f"Exponents e of n^e, of a sequence's time and peak memory, fitted to the lengths from {FROM} tokens ({FEWEST} at least): "
             "1 is linear, 2 quadratic. *faster from*: interpolated between measured lengths."]
    return Table("scaling", "Growth with the sequence's length", data, sections, notes if sections else ["Not measured here: it needs several lengths."])


def padding(records: list[Record]) -> Table:
    """Speed on padded batches as a share of the same model's without padding."""
    frame = speed_frame(records)
    data = frame.dropna(subset="train_vs_unpadded") if len(frame) else frame
    sections = {setting_title(key): pd.DataFrame([
        {"Model": r.model, "Length": r.length, **{f"{kind} × unpadded": _spread(r, f"{kind}_vs_unpadded") for kind in KINDS}}
        for r in group.itertuples()]) for key, group in (data.groupby(SETTING, sort=False, dropna=False) if len(data) else ())}
    notes = ["Sequences of n/2 to n tokens with their mask, against as many full-length sequences without one: the time without "
             "over the time with (1: padding costs nothing). The tokens computed on are the same; what differs is the mask's work."]
    return Table("padded-speed", "What a mask costs", data, sections,
                 notes if len(data) else [f"No model was measured both ways: add e.g. fnet{PADDED} to the models."])


def entries(records: list[Record]) -> dict[str, Any]:
    """The summary's figures: `mask.<gpu|cpu>.n<length>.<train|infer>.<model>` = {vs_unpadded, device, mode}: speed on sequences of n/2 to n
    tokens with their mask over that without one, in the mode in which the model is fastest with it; of the device that most was measured on,
    and its most usual tokens a step."""
    frame, found = speed_frame(records), {}
    measured = frame["device_name"].value_counts()
    frame = frame[frame["backend"].isna() | frame["backend"].eq("auto")].dropna(subset="train_vs_unpadded")
    for where, precision in SUMMARISED.items() if len(frame) else ():
        here = frame["device"].astype(str).str.startswith("cuda") == (where == "gpu")
        data = frame[here & frame["precision"].eq(precision) & frame["shape"].eq(main_shape(records))]
        _, data = max(data.groupby(["device_name", "tokens"], sort=False), key=lambda item: (measured[item[0][0]], len(item[1])), default=("", data))
        for kind in KINDS:
            for r in data.sort_values(f"{kind}_s", kind="stable").itertuples():
                place = found.setdefault(where, {}).setdefault(f"n{r.length}", {}).setdefault(kind, {})
                place.setdefault(r.model.removesuffix(PADDED), {"vs_unpadded": round(float(getattr(r, f"{kind}_vs_unpadded")), 4),
                                                                "device": r.device_name, "mode": r.mode})
    return found


def sentences(results: Results) -> list[str]:
    """A line a GPU: how much there is to win at all, how time grows with the length, and what a mask costs. Of a training step; growth
    and masks in the mode in which BERT is fastest at most lengths of those that it has most of."""
    beside = beside_bert(results)
    beside, lines = beside[(beside["where"] == "gpu") & (beside["kind"] == "train")], []
    measured = speed_frame(results.efficiency)
    measured = measured[measured["backend"].isna() | measured["backend"].eq("auto")]
    for (device, shape, tokens), group in beside.groupby(["device_name", "shape", "tokens"], sort=False):
        for mode in _modes(measured, device, shape, tokens)[:1]:
            same = {"device_name": device, "shape": shape, "tokens": tokens, "mode": mode, "precision": SUMMARISED["gpu"], "status": "finished"}
            rows = measured[(measured[list(same)] == pd.Series(same)).all(axis=1)].sort_values("length")
            own = " ".join(part for part in (_growth(rows), _mask(rows)) if part)
            said = " ".join(part for part in (_limit(group), f"Measured as {mode}: {own[0].lower()}{own[1:]}" if own else "") if part)
            lines += [f"- **What limits speed** ({device}, training, {SUMMARISED['gpu']}): {said}"] * bool(said)
    return lines


def _modes(measured: pd.DataFrame, device: str, shape: str, tokens: int) -> list[str]:
    """Modes that BERT was measured in: those with most lengths first, of these the one in which it is fastest at most of them."""
    bert = measured[(measured["model"] == "bert") & (measured["device_name"] == device) & (measured["shape"] == shape) & (measured["tokens"] == tokens)
                    & (measured["precision"] == SUMMARISED["gpu"]) & (measured["status"] == "finished")]
    fastest = bert.sort_values("train_s").drop_duplicates("length")["mode"].value_counts()
    lengths = bert.groupby("mode", sort=False)["length"].nunique()
    return sorted(lengths.index, key=lambda mode: (-lengths[mode], -fastest.get(mode, 0)))


def _limit(group: pd.DataFrame) -> str:
    bound = group[(group["model"] == "bound") & (group["length"] >= FROM)].dropna(subset="vs_bert").sort_values("length")
    first, *others = [f"{number(r.vs_bert, 2)}{' times as fast as BERT, each in its fastest mode,' * (i == 0)} at {r.length}{' tokens' * (i == 0)}"
                      for i, r in enumerate(bound.itertuples())] or [""]
    return f"without any mixing (`bound`) a model is {', '.join([first, *others])}; no mixer before the same projection can be faster." if first else ""


def _growth(rows: pd.DataFrame) -> str:
    found = {}
    for model in NAMED:
        part = rows[(rows["model"] == model) & (rows["length"] >= FROM)]
        found[model] = exponent(list(part["length"]), list(part["train_s"].astype(float) / part["batch"]))
    parts = [f"n^{number(e, 2)} for `{model}`" for model, e in found.items() if e is not None]
    return f"From {FROM} tokens on a sequence's time grows as {', '.join(parts)}." if parts else ""


def _mask(rows: pd.DataFrame) -> str:
    parts = []
    for model in NAMED:
        part = rows[(rows["model"] == f"{model}{PADDED}") & (rows["length"] >= FROM)].dropna(subset="train_vs_unpadded")
        shares = ", ".join(f"{number(100 * r.train_vs_unpadded, 0)}% at {r.length}" for r in part.itertuples())
        parts += [f"`{model}` {shares}"] * bool(shares)
    return f"Of its speed without a mask a model keeps with one: {'; '.join(parts)}." if parts else ""
