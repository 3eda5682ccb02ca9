"""Inference on the CPU: the exported model in onnxruntime beside the same model in torch, interleaved, and their logits.

Both run in float32 on one process' threads (`torch.get_num_threads()` for either), on random token ids of full length.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from . import efficiency
from .contender import Setting
from .efficiency import rounds, spread
from .modeling import FNetBertForSequenceClassification
from .onnx_export import INPUTS, export
from .params import PADDED, PEER_NAMES, EfficiencyParams
from .provenance import code, environment, now
from .records import Record, RecordStore, make_run_id
from .results import model_key
from .tables import Table, number


class Runtime:
    """A contender of `efficiency.rounds`: a function of the three inputs."""

    def __init__(self, name: str, setting: Setting, call: Callable[[], Any]):
        self.name, self.setting, self.call, self.error = name, setting, call, None
        self.times: dict[str, list[float]] = {"infer": []}
        self.launched: dict[str, list[float]] = {"infer": []}

    def prepare(self, kind: str) -> None:
        pass

    def step(self, kind: str) -> None:
        self.call()

    def drop(self, error: str | None = None) -> None:
        self.error, self.call = error, None


def measure(params: EfficiencyParams, store: RecordStore, clock: Callable[[], float] = time.perf_counter) -> list[Record]:
    """One record of stage `onnx` for each (recipe, length); those that exist are kept. Peers and padded batches are not
    exported. Of a device that is elsewhere (`-p device NAME`) its records are shown, nothing is measured. Raises
    ParameterError where the extra `onnx` is not installed."""
    names = [name for name in params.all_models if name not in PEER_NAMES and not name.endswith(PADDED)]
    lengths, device = [int(n) for n in params.lengths.split(",")], environment("cpu", "fp32")["device_name"]
    here, asked = efficiency.resolve_device(params)
    if here is None:
        return [r for name in names for n in lengths for r in store.all("onnx")
                if (r.model, r.params["length"], r.params["device"], r.params["shape"]) == (name, n, asked, params.shape)]
    kept = {(name, n): None if params.force else store.get(run_id(params, name, n, device)) for name in names for n in lengths}
    with tqdm(names, unit="model", desc="onnxruntime") as bar:
        for name in bar:
            lacking = [n for n in lengths if kept[name, n] is None]
            if lacking:
                for record in _measure_model(params, name, lacking, device, clock):
                    store.write(record, force=params.force)
                    kept[name, record.params["length"]] = record
    return list(kept.values())


def record_params(params: EfficiencyParams, length: int, device_name: str) -> dict[str, Any]:
    return {"shape": params.shape, "length": length, "batch": max(1, params.tokens // length), "repeats": params.repeats,
            "warmup": params.warmup, "threads": torch.get_num_threads(), "device": device_name}


def run_id(params: EfficiencyParams, model: str, length: int, device_name: str) -> str:
    return make_run_id("onnx", None, model, params.seed, record_params(params, length, device_name))


def _measure_model(params: EfficiencyParams, name: str, lengths: list[int], device: str, clock: Callable[[], float]) -> list[Record]:
    torch.manual_seed(params.seed)
    model = FNetBertForSequenceClassification(efficiency.model_config(params, name, max(lengths))).eval()
    with tempfile.TemporaryDirectory() as folder:
        file = export(model, Path(folder) / "model.onnx")
        import onnxruntime  # export says what is lacking

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return [_measure_length(params, name, model, session, n, device, clock, onnxruntime.__version__) for n in lengths]


def _measure_length(params: EfficiencyParams, name: str, model: torch.nn.Module, session: Any, length: int, device: str,
                    clock: Callable[[], float], version: str) -> Record:
    started, setting = now(), Setting(length, max(1, params.tokens // length), "fp32", "eager", "cpu")
    ids = torch.randint(0, model.config.vocab_size, (setting.batch, length))
    inputs = dict(zip(INPUTS, (ids, torch.ones_like(ids), torch.zeros_like(ids))))
    arrays = {key: value.numpy() for key, value in inputs.items()}

    def in_torch() -> np.ndarray:
        with torch.inference_mode():
            return model(**inputs).logits.numpy()

    def in_onnxruntime() -> np.ndarray:
        return session.run(["logits"], arrays)[0]

    error = float(np.abs(in_torch() - in_onnxruntime()).max())
    both = [Runtime("torch", setting, in_torch), Runtime("onnxruntime", setting, in_onnxruntime)]
    rounds(both, "infer", params.warmup, params.repeats, clock)
    times = [r.times["infer"] for r in both]
    timing = {**{r.name: {**spread(r.times["infer"], "_s"), "n": params.repeats} for r in both},
              "vs_torch": spread([a / b for a, b in zip(*times, strict=True)]), "largest_logit_error": error}
    env = environment("cpu", "fp32")
    return Record(run_id=run_id(params, name, length, device), stage="onnx", model=name, seed=params.seed, status="finished",
                  params=record_params(params, length, device), timing=timing, code=code(), started=started, ended=now(),
                  env={**env, "versions": {**env["versions"], "onnxruntime": version}})


def table(records: list[Record]) -> Table:
    """How many times as fast as torch, beside BERT in onnxruntime, and the largest error of a logit."""
    rows = []
    for r in records:
        bert = next((b for b in records if b.model == "bert" and b.params == r.params), None)
        own = r.timing["onnxruntime"]["median_s"]
        rows.append({**r.params, "model": r.model, **{k: r.timing["vs_torch"][k] for k in ("median", "q25", "q75")},
                     "vs_bert": bert.timing["onnxruntime"]["median_s"] / own if bert else None,
                     "largest_logit_error": r.timing["largest_logit_error"]})
    data = pd.DataFrame(rows)
    sections = {f"{device}, {threads} threads: shape {shape}": pd.DataFrame([{
        "Model": r.model, "Length": r.length, "Batch": r.batch,
        "onnxruntime × torch": f"{number(r.median, 2)} [{number(r.q25, 2)}, {number(r.q75, 2)}]",
        "onnxruntime × BERT's": number(r.vs_bert, 2), "Largest error of a logit": f"{r.largest_logit_error:.0e}"}
        for r in sorted(group.itertuples(), key=lambda r: (r.length, model_key(r.model)))])
        for (device, threads, shape), group in (data.groupby(["device", "threads", "shape"]) if rows else ())}
    note = ("Inference on the CPU in float32: torch's time over onnxruntime's in the same round, median [quartiles]; and BERT's "
            "median in onnxruntime over the model's.")
    return Table("onnx", "onnxruntime", data, sections, [note] if rows else ["Not measured: onnx=True does it."])
