"""The longest sequence of which one training step (batch 1, eager) fits into a GPU's memory: tried, not computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from . import efficiency
from .contender import Contender, Setting
from .params import PADDED, EfficiencyParams
from .provenance import code, environment, now
from .records import Record, RecordStore, make_run_id
from .tables import NONE, Table, number

GB = 10**9  # as a GPU's size is advertised: one of 140 GB has no 140 GiB
RESERVED = 1.0  # GB that the driver and the libraries take before the first tensor
STEP = 128  # lengths are multiples
START, LIMIT, RATIO = 512, 2**20, 1.05
FASTEST = 8  # so many times as long as the last that fits the next may be: what few tokens take says little of many


def longest(needs: Callable[[int], float | None], allowed: float, start: int = START, limit: int = LIMIT, ratio: float = RATIO) -> int:
    """The largest multiple of STEP that fits, up to `ratio`; 0 if even `start` does not. What is shorter than a length that
    fits must fit.

    needs: the bytes that a length takes, None where it does not fit; allowed: the bytes that there are. Attention's time grows with
    the square of the length and memory nearly with the length, so few long sequences are tried: the line through the last two that
    fit says where the next would end. Where it ended too early, steps beyond it grow.
    """
    low, high, failed, known, following, step = 0, 0, 0, [], start, ratio  # high: the shortest that does not fit, 0 before there is one
    while low < limit:
        taken = needs(following)
        if taken is None:
            high, failed = following, failed + 1
        else:
            low, known = following, [*known[-1:], (following, taken)]
        if not low or high and high <= max(ratio * low, low + STEP):
            break
        if high:  # one step below a guess that was too long, then bisection
            aim = STEP * math.ceil(high / ratio / STEP) if failed == 1 else math.sqrt(low * high)
        else:
            aim = _end(known, allowed) / math.sqrt(ratio)
            if aim < step * low:
                aim, step = step * low, step**2
            aim = min(aim, FASTEST * low, limit)
        following = max(STEP * int(aim / STEP), low + STEP)
    return low


def _end(known: list[tuple[int, float]], allowed: float) -> float:
    """Where the line through two (length, bytes) meets what is allowed; infinite where there is none."""
    (n, taken), (m, more) = known[0], known[-1]
    return m + (allowed - more) * (m - n) / (more - taken) if more > taken else math.inf


def measure(params: EfficiencyParams, store: RecordStore, sizes_gb: list[int]) -> list[Record]:
    """One record of stage `fit` for each (model, size), in the first of the precisions; those that exist are kept. None on
    a CPU, and none for a size that the GPU does not have."""
    device, name = efficiency.resolve_device(params)
    models = [model for model in params.all_models if not model.endswith(PADDED)]
    if device is None:  # what is there is shown
        found = [store.get(run_id(params, model, size, name)) for size in sizes_gb for model in models]
        return [record for record in found if record]
    if device != "cuda":
        return []
    total = torch.cuda.get_device_properties(0).total_memory
    tries = [(model, size) for size in sizes_gb if size * GB <= total for model in models]
    records = []
    with tqdm(tries, unit="model", desc="longest sequence") as bar:
        for model, size in bar:
            bar.set_postfix_str(f"{model}, {size} GB")
            record = None if params.force else store.get(run_id(params, model, size, name))
            if record is None:
                record = _search(params, model, size, name, total)
                store.write(record, force=params.force)
            records.append(record)
    return records


def record_params(params: EfficiencyParams, size: int, device_name: str) -> dict[str, Any]:
    return {"shape": params.shape, "precision": params.precisions.split(",")[0], "mode": "eager", "batch": 1, "gb": size,
            "reserved_gb": RESERVED, "backend": params.backend, "ratio": RATIO, "device": device_name}


def run_id(params: EfficiencyParams, model: str, size: int, device_name: str) -> str:
    return make_run_id("fit", None, model, params.seed, record_params(params, size, device_name))


def _search(params: EfficiencyParams, model: str, size: int, name: str, total: int) -> Record:
    started, allowed, error, tried = now(), (size - RESERVED) * GB, None, {}
    precision = params.precisions.split(",")[0]

    def needs(length: int) -> int | None:
        taken = trains(params, model, length, precision)
        tried[length] = taken is not None
        return taken

    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
    try:
        with efficiency._products(precision):
            found = longest(needs, allowed)
    except Exception as reason:  # a model that cannot run at all is no reason to lose the others
        found, error = None, f"{type(reason).__name__}: {(str(reason).strip() or 'no message').splitlines()[0][:300]}"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        efficiency._free("cuda")
    return Record(run_id=run_id(params, model, size, name), stage="fit", model=model, seed=params.seed,
                  status="failed" if error else "finished", params=record_params(params, size, name), error=error,
                  memory={"longest": found, "limit_bytes": allowed, "tried": {str(n): fit for n, fit in tried.items()}},
                  env=environment("cuda", precision), code=code(), started=started, ended=now())


def trains(params: EfficiencyParams, model: str, length: int, precision: str) -> int | None:
    """The peak in bytes of two training steps of one sequence, None where they run out of memory; the second holds the optimiser's
    state too."""
    contender = Contender(model, efficiency.model_config(params, model, length), Setting(length, 1, precision, "eager", "cuda"),
                          params.seed)
    try:
        torch.cuda.reset_peak_memory_stats()
        contender.build()
        contender.prepare("train")
        for _ in range(2):
            contender.step("train")
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    except torch.OutOfMemoryError:
        return None
    finally:
        contender.drop()
        efficiency._free("cuda")


def table(records: list[Record]) -> Table:
    """Longest sequences by memory size, and how many times BERT's: one section a device, shape and precision."""
    sections: dict[str, pd.DataFrame] = {}
    for settings in dict.fromkeys(_settings(r) for r in records):
        sections[settings] = _rows([r for r in records if _settings(r) == settings])
    data = pd.DataFrame([{**r.params, "model": r.model, "longest": r.memory["longest"], "error": r.error} for r in records])
    notes = [f"Tokens of the longest sequence, within {RATIO - 1:.0%}, that trains in so much memory, {RESERVED:g} GB of which are "
             "left to the driver and the libraries; a dash, or a model that is not here: not tried. A T4, as on Colab, has 16 GB."]
    days: dict[str, list[str]] = {}
    for r in records:
        days.setdefault(r.started[:10], []).append(f"`{r.model}` ({r.params['precision']}, {r.params['gb']} GB)")
    if len(days) > 1:
        notes.append("By the code of " + "; of ".join(f"{day}: {', '.join(which)}" for day, which in sorted(days.items())) + ".")
    notes += [f"`{r.model}`, {r.params['precision']}, {r.params['gb']} GB: {r.error}" for r in records if r.error]
    return Table("fit", "The longest sequence that fits", data, sections,
                 notes if sections else ["Not measured: it needs a GPU, and fit_gb, e.g. 16."])


def _settings(record: Record) -> str:
    p = record.params
    return f"{p['device']}: shape {p['shape']}, {p['precision']}, one sequence, eager"


def _rows(records: list[Record]) -> pd.DataFrame:
    sizes = sorted({r.params["gb"] for r in records})
    found = {(r.model, r.params["gb"]): r.memory["longest"] for r in records}
    rows = []
    for model in dict.fromkeys(r.model for r in records):
        row = {"Model": model}
        for size in sizes:
            own, bert = found.get((model, size)), found.get(("bert", size))
            row |= {f"{size} GB": NONE if own is None else str(own),
                    f"{size} GB × BERT": number(own / bert if own is not None and bert else None, 2)}
        rows.append(row)
    return pd.DataFrame(rows)
