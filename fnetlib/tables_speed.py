"""The report's tables about speed: measured side by side (04_efficiency), and as the fine-tuning runs saw it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from . import published
from .params import LEAN, MODES, PADDED, PEER_NAMES
from .records import Record, label
from .results import GROUP, SOLO, Results, footnotes, metric_title, model_key, notes_of, once, tagged, task_title
from .tables import NONE, Table, average, eval_loss, heading, mean_sd, number, train_loss
from .statistics import summarise

SETTING = ["device_name", "shape", "tokens", "precision", "mode", "backend"]  # what the models of a section share
KINDS = ("train", "infer")  # a training step; a forward pass


def speed_frame(records: list[Record]) -> pd.DataFrame:
    """One row a measurement; ratios say how many times better ours is, memory and FLOPs are ours over BERT's."""
    same = [*SETTING, "length", "batch", "padded"]
    frame = pd.DataFrame([_measurement(r) for r in sorted(records, key=lambda r: r.ended)], columns=_COLUMNS)
    frame = frame.drop_duplicates([*same, "model"], keep="last")  # measured again with other repeats: the newest counts
    bert = frame[frame.model.isin(["bert", f"bert{PADDED}"])].set_index(same)[_COUNTS]
    joined = frame.join(bert, on=same, rsuffix="_bert")
    for name in _COUNTS:
        frame[f"{name}_vs_bert"] = joined[name].astype(float) / joined[f"{name}_bert"].astype(float)
    keys = [(*map(str, setting), length, model_key(model)) for *setting, length, model in
            frame[[*SETTING, "length", "model"]].itertuples(index=False)]
    return frame.iloc[sorted(range(len(frame)), key=keys.__getitem__)].reset_index(drop=True)


_COUNTS = ["train_peak_bytes", "infer_peak_bytes", "flops"]
_AGAINST = ("vs_bert", "vs_bound", "vs_unpadded")
_SPREADS = [f"{kind}_{against}{part}" for kind in KINDS for against in _AGAINST
            for part in ("", "_q25", "_q75")]
_TIMES = [f"{kind}_{part}" for kind in KINDS for part in ("s", "s_q25", "s_q75", "n", "launched_s")]
_COLUMNS = ["run_id", "status", "error", "model", *SETTING, "device", "length", "batch", "padded", *_TIMES, *_SPREADS, *_COUNTS]


def _measurement(record: Record) -> dict[str, Any]:
    timing, params = record.timing, record.params
    row = {
        "padded": str(record.model).endswith(PADDED), "run_id": record.run_id, "status": record.status, "error": record.error, "model": record.model,
        "device": record.env.get("device"), "device_name": record.env.get("device_name"),
        **{name: params.get(name) for name in (*SETTING[1:], "length", "batch")},
        # The first records of CUDA graphs have memory, which was not all of it (ERRATA).
        **{name: record.memory.get(name) if params.get("mode") != "graphs" else None for name in _COUNTS[:2]},
        "flops": record.flops.value if record.flops else None,
    }
    for kind in KINDS:
        time = timing.get(kind) or {}
        row |= {f"{kind}_s": time.get("median_s"), f"{kind}_s_q25": time.get("q25_s"),
                f"{kind}_s_q75": time.get("q75_s"), f"{kind}_n": time.get("n"), f"{kind}_launched_s": time.get("launched_s")}
        for against in _AGAINST:
            ratio = (timing.get(against) or {}).get(kind) or {}
            row |= {f"{kind}_{against}": ratio.get("median"), f"{kind}_{against}_q25": ratio.get("q25"),
                    f"{kind}_{against}_q75": ratio.get("q75")}
    return row


def speed(results: Results) -> Table:
    """Speed, memory and FLOPs beside BERT and beside the bound, on random inputs."""
    data = speed_frame(results.efficiency)
    sections = {}
    for key, group in data.groupby(SETTING, sort=False, dropna=False):
        sections[setting_title(key)] = _speed_section(group)
    notes = ["*train* is a training step, *infer* a forward pass: how many times as fast as BERT (BERT 1.00, more is "
             "faster) and as the bound, the same model with the mixing removed (at most 1.00 but for noise, of a model that has its projection): median "
             "[quartiles] of ratios within interleaved rounds; n rounds. Memory and FLOPs are "
             "ours over BERT's (less is better); FLOPs are of half of the spectrum, also where a GPU takes the whole of it to launch less "
             "(eager, in half precision up to 2,048 tokens), which multiplies about twice as much in the mixing. Inputs are random tokens."]
    if data[[f"{kind}_launched_s" for kind in KINDS]].notna().any(axis=None):
        notes.append("*launched*: the share of a step's time after which the host had launched all of it. Near 100% the GPU waits for the host; it may "
                     "also be that the host waits where more than a thousand launches queue.")
    if data["mode"].isin(LEAN).any():
        kept = ", ".join(f"*{mode}*: {share:.0%}" for mode, share in LEAN.items())
        notes.append(f"Lean modes: layers compiled so that of the memory that activations take till the backward pass a part is kept ({kept}) and "
                     "the rest computed again, of every model alike; what is cheapest to compute again goes first.")
    if data.padded.any():
        notes.append(f"`{PADDED}`: sequences of n/2 to n tokens with their mask, beside BERT and the bound on the same.")
    if data.empty:
        notes = ["No efficiency records here: `04_efficiency` makes them."]
    elif not data.device.astype(str).str.startswith("cuda").all():
        notes.append("Times of a CPU are not shown: only ratios carry over to another machine. Its memory is not "
                     "measured.")
    return Table("speed", "Speed, memory and FLOPs", data, sections, notes)


SUMMARISED = {"gpu": "bf16", "cpu": "fp32"}  # the precision that one would run
RULE = ("Each model is in the fastest of the modes that it was measured in, those that save memory apart, and so is BERT: the ratio to BERT side by side in the model's mode, "
        "times BERT's time in its fastest mode over its time in the model's (medians over all runs, between which it differs by some percent)")


def fastest(records: list[Record], shape: str = "bert-base") -> pd.DataFrame:
    """Every model beside BERT, one row a (where, device, tokens, length, kind, model): how many times as fast as BERT and as
    the bound it is, in `mode`; as the best peer, which is `peer`, in `peer_mode`; its peak memory over BERT's in `peak_mode`, the
    fastest that has it, and in `least_mode`, where it is the smallest share; only there lean modes count, which compute more to keep less.

    RULE says how modes (eager, compiled; the faster of several backends) are compared, with the bound as with BERT; a peer is compared in
    one mode. Ratios are medians within rounds. bf16 on a GPU, fp32 on a CPU. The device that most was measured on comes first.
    """
    data = _summarised(speed_frame(records))
    data = data[data["shape"] == shape]
    measured = data.groupby("device_name")["length"].transform("size")
    data = data.assign(measured=measured).sort_values("measured", ascending=False, kind="stable")
    key, parts = ["where", "device_name", "shape", "tokens", "length"], []
    for values, group in data.groupby(key, sort=False):
        parts += [_beside_bert(group, kind).assign(**dict(zip(key, values)), kind=kind) for kind in KINDS]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*key, "kind", *_BESIDE])


def _summarised(data: pd.DataFrame) -> pd.DataFrame:
    """What finished, without padding, in the precision that one would run; `where` it ran."""
    data = data[(data["status"] == "finished") & ~data["padded"].astype(bool)]
    data = data.assign(where=["gpu" if str(device).startswith("cuda") else "cpu" for device in data["device"]])
    return data[data["precision"] == data["where"].map(SUMMARISED)]


@once
def beside_bert(results: Results, shape: str = "bert-base") -> pd.DataFrame:
    """`fastest` of what a results folder measured."""
    return fastest(results.efficiency, shape)


_BESIDE = ["model", "is_peer", "mode", "vs_bert", "vs_bound", "peer", "peer_mode", "vs_best_peer", "peak_mode", "peak_vs_bert", "least_mode",
           "least_vs_bert"]


def _beside_bert(group: pd.DataFrame, kind: str) -> pd.DataFrame:
    rows = group.dropna(subset=f"{kind}_s").sort_values(f"{kind}_s").drop_duplicates(["model", "mode"])
    rows = rows[["model", "mode"]].assign(seconds=rows[f"{kind}_s"].astype(float), peak_vs_bert=rows[f"{kind}_peak_bytes_vs_bert"],
                                          **{name: rows[f"{kind}_{name}"].astype(float) for name in ("vs_bert", "vs_bound")})
    least = rows.dropna(subset="peak_vs_bert").sort_values("peak_vs_bert", kind="stable").drop_duplicates("model")
    rows = rows[~rows["mode"].isin(LEAN)]
    for name in ("vs_bert", "vs_bound"):
        rows[name] = rows[name] * _worth(rows, name)
    rows = rows.sort_values(["vs_bert", "seconds"], ascending=[False, True])  # of each model its fastest mode first
    found = rows.drop_duplicates("model").assign(is_peer=lambda r: r["model"].isin(PEER_NAMES)).drop(columns="peak_vs_bert")
    peaks = rows.dropna(subset="peak_vs_bert").drop_duplicates("model")[["model", "mode", "peak_vs_bert"]]
    found = found.merge(peaks.rename(columns={"mode": "peak_mode"}), on="model", how="left")
    found = found.merge(least[["model", "mode", "peak_vs_bert"]].set_axis(["model", "least_mode", "least_vs_bert"], axis=1), on="model", how="left")
    return found.merge(_best_peer(rows), on="model", how="left")[_BESIDE]


def _worth(rows: pd.DataFrame, ratio: str) -> pd.Series:
    """For every row, what a ratio to a reference in the row's mode is worth against the reference's fastest mode: at most 1.

    The reference's time in a mode: the median of what it took beside each of the rows.
    """
    seconds = (rows["seconds"] * rows[ratio]).groupby(rows["mode"]).median()
    return seconds.min() / rows["mode"].map(seconds)


def _best_peer(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each model the peer that leaves it the smallest lead, both in one mode, the model's fastest that the peer has too."""
    peers = rows[rows["model"].isin(PEER_NAMES)].rename(columns={"model": "peer", "vs_bert": "peer_vs_bert"})
    pairs = rows.merge(peers[["peer", "mode", "peer_vs_bert"]], on="mode").drop_duplicates(["model", "peer"])
    pairs = pairs.assign(vs_best_peer=pairs["vs_bert"] / pairs["peer_vs_bert"]).dropna(subset="vs_best_peer")
    pairs = pairs.sort_values("vs_best_peer", kind="stable").drop_duplicates("model")
    return pairs.rename(columns={"mode": "peer_mode"})[["model", "peer", "peer_mode", "vs_best_peer"]]


def on_one_device(data: pd.DataFrame, models: Collection[str], kind: str = "train") -> pd.DataFrame:
    """Of `data`, rows of `fastest`, those with a ratio to BERT on the one device, a GPU if there is any, that most of `models` were measured on."""
    data = data[(data["kind"] == kind) & data["vs_bert"].notna()]
    data = data[data["where"] == "gpu"] if (data["where"] == "gpu").any() else data
    groups = [group for _, group in data.groupby(["device_name", "tokens"], sort=False)]
    return max(groups, key=lambda group: len(set(group["model"]) & set(models)), default=data)


def main_shape(records: list[Record]) -> str:
    """BERT-base's, where it was measured; else that of the first record."""
    shapes = [record.params["shape"] for record in records]
    return "bert-base" if "bert-base" in shapes or not shapes else shapes[0]


def of_one_device(records: list[Record]) -> list[Record]:
    """The newest records of our recipes in the main shape and the precision that one would run, shortest sequences first, on the
    device, a GPU if there is any, that most recipes were measured on: devices beside one another are no curve."""
    found: dict[tuple, dict[tuple, Record]] = {}
    for r in sorted(records, key=lambda r: r.ended):
        gpu, p = str(r.env.get("device")).startswith("cuda"), r.params
        recipe = not r.model.endswith(PADDED) and r.model not in PEER_NAMES and p.get("backend") in (None, "auto")
        if recipe and r.status == "finished" and (p["shape"], p["precision"]) == (main_shape(records), SUMMARISED["gpu" if gpu else "cpu"]):
            found.setdefault((gpu, r.env["device_name"], p["tokens"]), {})[r.model, p["length"], p["mode"]] = r
    best = max(found, key=lambda key: (key[0], len({model for model, *_ in found[key]}), len(found[key])), default=None)
    return sorted(found.get(best, {}).values(), key=lambda r: (r.params["length"], model_key(r.model)))


def entries(results: Results) -> dict[str, Any]:
    """The summary's figures: `speed.<gpu|cpu>.n<length>.<train|infer>.<model>` = {vs_bound, vs_bert, vs_best_peer, device, tokens, mode,
    peer, peer_mode}, how many times as fast (tokens: of a step; peer, peer_mode: of vs_best_peer), with `blocks` where several were
    compiled, see `block_ranges`, and `memory.n<length>.<model>` = {vs_bert, device,
    mode, least_vs_bert, least_mode}, peak memory of a training step on a GPU as a share of BERT's in the same mode: the fastest mode that
    has it, and the one where the share is smallest. RULE says how modes are compared."""
    found: dict[str, Any] = {"speed": {}, "memory": {}}
    ranges = block_ranges(results.efficiency)
    for r in _of_one_batch(beside_bert(results)).itertuples():
        place = found["speed"].setdefault(r.where, {}).setdefault(f"n{r.length}", {}).setdefault(r.kind, {})
        ratios = {name: _known(getattr(r, name)) for name in ("vs_bound", "vs_bert", "vs_best_peer")}
        blocks = ranges.get((r.device_name, r.shape, r.tokens, r.length, r.model, r.kind))
        place.setdefault(r.model, {**ratios, "device": r.device_name, "tokens": int(r.tokens), "mode": r.mode,
                                   **{name: None if pd.isna(value) else value for name, value in (("peer", r.peer), ("peer_mode", r.peer_mode))},
                                   **({"blocks": blocks} if blocks else {})})
        if (r.where, r.kind) == ("gpu", "train") and pd.notna(r.peak_vs_bert):
            found["memory"].setdefault(f"n{r.length}", {}).setdefault(
                r.model, {"vs_bert": _known(r.peak_vs_bert), "device": r.device_name, "mode": r.peak_mode,
                          "least_vs_bert": _known(r.least_vs_bert), "least_mode": r.least_mode})
    return {name: values for name, values in found.items() if values}


def block_ranges(records: list[Record]) -> dict[tuple, dict[str, Any]]:
    """(device, shape, tokens, length, model, kind) -> {n, vs_bert: [lowest, median, highest], vs_bound: the same}: ratios within each of the n
    compiled blocks that were ever measured, two or more, whichever mode or newer block the report goes by; lean modes apart."""
    data = _summarised(pd.DataFrame([_measurement(r) for r in records], columns=_COLUMNS))
    data = data[data["mode"].isin(set(MODES) - {"eager", *LEAN}) & data["backend"].fillna("auto").eq("auto")]
    found = {}
    for key, group in data.groupby(["device_name", "shape", "tokens", "length", "model"], sort=False):
        for kind in KINDS:
            values = {name: group[f"{kind}_{name}"].dropna().astype(float) for name in ("vs_bert", "vs_bound")}
            if min(len(ratios) for ratios in values.values()) > 1:
                found[*key, kind] = {"n": min(map(len, values.values())), **{name: [_known(f(ratios)) for f in (min, np.median, max)] for name, ratios in values.items()}}
    return found


def _of_one_batch(data: pd.DataFrame) -> pd.DataFrame:
    """Of `fastest`, where a device measured a model at one length with several numbers of tokens a step, that beside most models."""
    one = ["where", "device_name", "length", "kind"]
    beside = data.groupby([*one, "tokens"])["model"].transform("size")
    return data.assign(beside=beside).sort_values("beside", ascending=False, kind="stable").drop_duplicates([*one, "model"]).sort_index()


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else round(float(value), 4)


def setting_title(key: tuple) -> str:
    device, shape, tokens, precision, mode, backend = key
    chosen = "" if pd.isna(backend) or backend == "auto" else f", backend {backend}"
    return f"{device}: shape {shape}, {tokens} tokens a step, {precision}, {mode}{chosen}"


def _speed_section(group: pd.DataFrame) -> pd.DataFrame:
    on_gpu = group.device.astype(str).str.startswith("cuda").all()
    rows = []
    for r in group.itertuples():
        row = {"Model": r.model, "Length": r.length, "Batch": r.batch}
        if r.status != "finished":
            rows.append({**row, "What went wrong": f"{r.status}: {(r.error or 'no reason stored').splitlines()[0]}"})
            continue
        for kind in KINDS:
            row[f"{kind} × BERT"] = _spread(r, f"{kind}_vs_bert")
            row[f"{kind} × bound"] = _spread(r, f"{kind}_vs_bound")
            if on_gpu:
                row[f"{kind} ms"] = number(_times(getattr(r, f"{kind}_s"), 1000), 2)
                if group[f"{kind}_launched_s"].notna().any():
                    row[f"{kind} launched"] = _share(getattr(r, f"{kind}_launched_s"), getattr(r, f"{kind}_s"))
                row[f"{kind} memory"] = number(getattr(r, f"{kind}_peak_bytes_vs_bert"), 2)
        rows.append({**row, "FLOPs": number(r.flops_vs_bert, 2), "n": number(r.train_n, 0)})
    frame = pd.DataFrame(rows)
    return frame[[c for c in frame if c != "What went wrong"] + ["What went wrong"] * ("What went wrong" in frame)]


def _share(part: float | None, whole: float) -> str:
    return NONE if part is None or pd.isna(part) else f"{number(100 * part / whole, 0)}%"


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None or pd.isna(value) else value * factor


def _spread(row: Any, name: str) -> str:
    low, high = getattr(row, f"{name}_q25"), getattr(row, f"{name}_q75")
    median = number(getattr(row, name), 2)
    return median if median == NONE or pd.isna(low) else f"{median} [{number(low, 2)}, {number(high, 2)}]"


# The 2023 study's columns: our name -> (where it is, decimals); those of the first kind are read from a run's timing.
_THROUGHPUT = {"train_runtime_s": ("Train runtime, s", 1), "train_samples_per_s": ("Train samples/s", 1),
               "train_steps_per_s": ("Train steps/s", 2), "eval_runtime_s": ("Eval runtime, s", 2),
               "eval_samples_per_s": ("Eval samples/s", 1), "eval_steps_per_s": ("Eval steps/s", 2)}


@once
def finetuning(results: Results) -> Table:
    """The 2023 study's columns: runtimes, throughput, FLOs, losses and score, with the change against BERT."""
    runs, alone = results.reported, solo_runs(results.finetune)
    rows, sections = [], {}
    for key, group in runs.groupby([*GROUP, "task", "gpu"], sort=False, dropna=False):
        timed = {name: alone.get(_pace(part.record.iloc[0]), []) for name, part in group.groupby("label", sort=False)}
        training, teacher, task, device = key
        part = [dict(zip([*GROUP, "task", "device_name"], key)) | _finetuning_row(name, of_model, timed)
                for name, of_model in group.groupby("label", sort=False)]
        sections[f"{heading(training, teacher, task_title(task, group.note))}, {device}"] = _finetuning_section(
            pd.DataFrame(part, columns=_FINETUNING))
        rows += part
    data = pd.DataFrame(rows, columns=_FINETUNING)
    return Table("finetuning", tagged("Fine-tuning, in the 2023 study's columns", results.tag), data, sections,
                 _finetuning_notes(data) + footnotes(runs))


_FINETUNING = [*GROUP, "task", "device_name", "label", "n", "n_timed", "throughput", *_THROUGHPUT, "flops",
               "train_loss", "eval_loss", "metric", "mean", "sd", "note"]


def _finetuning_notes(data: pd.DataFrame) -> list[str]:
    solo = data.throughput == SOLO
    own = ("Throughput is the Trainer's, over the runs that had the device to themselves (*timed*); what is measured "
           "with care is the table *Speed, memory and FLOPs*. ")
    notes = ["Means over n runs; in brackets the change against BERT in the same section, computed from the means. "
             f"{'' if len(data) and solo.all() else own}FLOs as the run's record counts them."]
    if solo.any():
        notes.append(f"*(derived)*: in these sections the throughput is that of separate runs (recipe `{SOLO}`: a few "
                     "hundred steps, alone on the device) with the same teacher, task, model, batch and precision, and "
                     "*timed* counts them. Train steps/s are those once the run is warm, samples/s are that times the "
                     "batch size, and the train runtime is the number of steps of the runs that are scored divided by "
                     "it: no measurement, and without the evaluations.")
    if (data[~solo].n_timed < data[~solo].n).any():
        notes.append("*shared*: other jobs ran on the device at the same time, so these runs' throughput is no "
                     "measurement and is left out.")
    return notes


def solo_runs(runs: pd.DataFrame) -> dict[tuple, list[Record]]:
    """The runs made to measure throughput, by what decides it; one that was disturbed after all measures nothing."""
    found: dict[tuple, list[Record]] = {}
    for record in runs[runs.training == SOLO].record:
        if record.timing and not record.timing.get("shared"):
            found.setdefault(_pace(record), []).append(record)
    return found


def _pace(record: Record) -> tuple:
    """What must be equal for one run's throughput to stand for another's."""
    names = ("batch_size", "accumulate", "max_length", "precision", "compile", "pad_to", "group_by_length")
    settings = [record.params.get(name) for name in names]
    return (record.teacher.name if record.teacher else None, record.task, label(record), record.env.get("device_name"),
            *settings)


def _finetuning_row(name: str, group: pd.DataFrame, alone: dict[str, list[Record]]) -> dict[str, Any]:
    """One model of a section; alone: its models' solo runs, which if there are any give the throughput of all."""
    score = summarise(group["last"])
    timed = [r.timing for r in group.record if r.timing and not r.timing.get("shared")]
    throughput = {column: average(t.get(column) for t in timed) for column in _THROUGHPUT}
    if any(alone.values()):
        timed, throughput = alone[name], _solo_throughput(list(group.record), alone[name])
    return {
        "label": name, "n": score.n, "n_timed": len(timed), "mean": score.mean, "sd": score.sd,
        "throughput": SOLO if any(alone.values()) else "own", **throughput,
        "metric": next(iter(group.metric.dropna()), None), "note": notes_of(group),
        "flops": average(r.flops.value if r.flops else None for r in group.record),
        "train_loss": average(train_loss(r) for r in group.record),
        "eval_loss": average(eval_loss(r) for r in group.record),
    }


def _solo_throughput(runs: list[Record], alone: list[Record]) -> dict[str, float | None]:
    """The columns of _THROUGHPUT for `runs`, from the runs that were alone on the device."""
    steps = average(r.timing.get("steps") or r.metrics.history[-1].get("step") for r in runs if r.metrics)
    pace = average(r.timing.get("steady_steps_per_s") or r.timing.get("train_steps_per_s") for r in alone)
    batch = average(r.params["batch_size"] * r.params.get("accumulate", 1) for r in alone)
    evaluation = [column for column in _THROUGHPUT if column.startswith("eval")]
    return {"train_runtime_s": None if steps is None or pace is None else steps / pace,
            "train_samples_per_s": None if pace is None else batch * pace, "train_steps_per_s": pace,
            **{column: average(r.timing.get(column) for r in alone) for column in evaluation}}


def _finetuning_section(part: pd.DataFrame) -> pd.DataFrame:
    berts = part[part.label == "bert"]
    bert = berts.iloc[0] if len(berts) else None
    metric, solo = metric_title(part.metric), bool((part.throughput == SOLO).all())
    rows = []
    for _, r in part.iterrows():
        row = {"Model": r.label, f"{metric} (n)": mean_sd(r["mean"], r.sd, r.n)}
        for name, (title, digits) in _THROUGHPUT.items():
            title += " (derived)" * (solo and name == "train_runtime_s")
            shared = r.n and not r.n_timed and not solo
            row[title] = "shared" if shared else _changed(r, bert, name, number(r[name], digits))
        row["Timed"] = r.n_timed
        row["Total FLOs"] = _changed(r, bert, "flops", f"{r.flops:.3e}" if pd.notna(r.flops) else NONE)
        row |= {"Train loss": number(r.train_loss), "Eval loss": number(r.eval_loss)}
        rows.append(row)
    return pd.DataFrame(rows)


def _changed(row: pd.Series, bert: pd.Series | None, name: str, shown: str) -> str:
    change = percent_change(row[name], None if bert is None else bert[name])
    return shown if change is None or row.label == "bert" else f"{shown} ({number(change, 1, sign=True)}%)"


def percent_change(value: float | None, reference: float | None) -> float | None:
    if value is None or reference is None or pd.isna(value) or pd.isna(reference) or not reference:
        return None
    return 100 * (value / reference - 1)


def published_speed(results: Results) -> Table:
    """`fnet-naive` over `bert`, as the 2023 study saw it and as our fine-tuning runs did."""
    ours = finetuning(results).data
    ours = ours[(ours.training == published.TRAINING)] if not results.tag else ours.iloc[:0]
    rows = []
    for (teacher, task, device), part in ours.groupby(["teacher", "task", "device_name"], sort=False, dropna=False):
        by_model = part.set_index("label")
        if task in published.study_ratios().index and {"bert", "fnet-naive"} <= set(by_model.index):
            rows.append({"teacher": teacher, "task": task, "device_name": device, **_ratios(task, by_model)})
    values = [f"{who}_{name}" for name in _RATIOS for who in ("published", "ours")]
    data = pd.DataFrame(rows, columns=["teacher", "task", "device_name", *values])
    notes = [f"Published: {published.SOURCE}, bert-base-uncased on a Colab GPU, computed from its absolute numbers. "
             "Teacher, GPU and padding decide these ratios, so they compare in direction, not in value."]
    if data.empty:
        notes = ["Not compared: these records are of SYNTHETIC data." if results.tag else
                 "Nothing to compare: it needs runs of `bert` and `fnet-naive` with the study's recipe."]
    sections = {"": _published_speed_section(data)} if len(data) else {}
    return Table("published-speed", tagged("Naive FNet over BERT, beside the 2023 study", results.tag), data, sections,
                 notes)


_RATIOS = {"train_steps_per_s": "train steps/s", "eval_samples_per_s": "eval samples/s", "flops": "total FLOs"}


def _ratios(task: str, by_model: pd.DataFrame) -> dict[str, float | None]:
    values = {}
    for name in _RATIOS:
        change = percent_change(by_model.loc["fnet-naive", name], by_model.loc["bert", name])
        values |= {f"published_{name}": published.study_ratios().loc[task, name],
                   f"ours_{name}": None if change is None else 1 + change / 100}
    return values


def _published_speed_section(data: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([{
        "Task": task_title(r["task"]), "Teacher": r.teacher, "Device": r.device_name,
        **{f"{title}, published → ours": f"{number(r[f'published_{name}'], 2)} → {number(r[f'ours_{name}'], 2)}"
           for name, title in _RATIOS.items()},
    } for _, r in data.iterrows()])
