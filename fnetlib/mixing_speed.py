"""The mixing alone: what each way to compute it takes, beside what the memory and the matrix units allow.

All ways are timed in rounds, like the models of `efficiency.py`, on one random tensor `[batch, n, width]` in the
precision's dtype: forward, and forward with backward (`train`). Each measurement is several calls in a row, so that on a
GPU launching one hides behind computing the one before. (A compiled call is launched for longer than so little takes: on a
GPU only eager times tell the ways apart.) Beside them:

- `copy`: the tensor is read and written twice, which a transform over two axes at least does: the memory's bound, and twice that
  with the backward pass. Never compiled: joined into one kernel it would be read once;
- `product`: a large square matrix product, the matrix units' speed (Williams 2009, the roofline model's two ceilings);
- `projection`: BERT's output projection. `folded` mixing is part of it and is shown as the time beyond it.

A GPU's kernels are also timed by the profiler, without the gaps between them: at 32,768 tokens a copy takes no longer than its launch.

With `padded`, sequences have n/2 to n tokens and a mask, and each gets its own length's transform.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from . import breakdown, efficiency, flops
from .compiling import AUTOTUNED
from .contender import KINDS, Setting, real_tokens
from .efficiency import rounds, spread
from .mixers.folded import FOLDED_MASKED_MAX_LENGTH, fold_projections, folded_mix, plan_folded
from .mixers.fourier import fourier_mix, hidden_dft, plan_fourier
from .mixers.whole import with_whole_spectrum
from .params import EfficiencyParams, parse_shape
from .plots import _empty, _finish, _panels
from .provenance import code, environment, now
from .records import Record, RecordStore, make_run_id
from .tables import Table, number

CALLS = 5  # of one measurement
SQUARE = 4096  # of the large product on a GPU; smaller on a CPU
WAYS = ("fft", "matmul", "whole", "folded")
BESIDE = ("copy", "projection", "product")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
INK = {"fft": "#009E73", "matmul": "#0072B2", "whole": "#56B4E9", "folded": "#D55E00"}


class Block(NamedTuple):
    """What the ways are compared on."""

    setting: Setting
    width: int
    padded: bool


def function(way: str, block: Block, weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """One way, as a function of `[batch, n, width]`. Plans are made here: a model makes one for all of its layers."""
    s, width, dtype = block.setting, block.width, weight.dtype
    if way == "copy":
        return lambda x: x.clone().clone()
    if way == "product":
        square = torch.randn(SQUARE if s.device == "cuda" else width, SQUARE if s.device == "cuda" else width).to(weight)
        return lambda x: square @ square
    if way == "projection":
        return lambda x: F.linear(x, weight)
    real = real_tokens(s.batch, s.length).to(s.device) if block.padded else None
    hidden = tuple(matrix.to(s.device) for matrix in hidden_dft(width))
    if way == "folded":
        plan = plan_folded(s.length, width, real, "ortho", s.device, dtype)
        return lambda x: folded_mix(x, plan, fold_projections(weight[None], plan, hidden, dtype)[0])
    backend = "matmul" if way == "whole" else way
    plan = plan_fourier(s.length, width, real, "ortho", backend, s.device, dtype)
    if way == "whole":
        plan = with_whole_spectrum(plan, hidden)
    return lambda x: fourier_mix(x, plan, hidden)


class Way:
    """A contender of `efficiency.rounds`."""

    def __init__(self, name: str, block: Block, seed: int):
        self.name, self.block, self.setting, self.seed = name, block, block.setting, seed
        self.times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.launched: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.kernels: dict[str, float] = {}
        self.drop()

    def build(self) -> None:
        s = self.setting
        torch.manual_seed(self.seed)
        dtype = DTYPES.get(s.precision, torch.float32)
        weight = torch.randn(self.block.width, self.block.width, device=s.device, dtype=dtype) / self.block.width**0.5
        made = function(self.name, self.block, weight.requires_grad_(self.name in ("projection", "folded")))
        compiled = s.mode != "eager" and self.name != "copy"
        self.call = torch.compile(made, fullgraph=True, dynamic=False, options=AUTOTUNED if s.mode == "autotuned" else None) if compiled else made
        self.x = torch.randn(s.batch, s.length, self.block.width, device=s.device, dtype=dtype, requires_grad=True)
        self.gradient, self.inputs = torch.randn_like(self.x), [self.x, weight] if weight.requires_grad else [self.x]
        for kind in KINDS:
            self.step(kind)

    def prepare(self, kind: str) -> None:
        pass

    def step(self, kind: str) -> None:
        for _ in range(CALLS):
            if kind == "infer" or self.name == "product":
                with torch.inference_mode():
                    self.call(self.x)
            else:
                torch.autograd.grad(self.call(self.x), self.inputs, self.gradient)  # not added to an older one: that is no mixing

    def take_apart(self) -> None:
        """The kernels' seconds of one call, the median of as many steps as a call is repeated."""
        if self.setting.device == "cuda" and self.error is None:
            with contextlib.suppress(RuntimeError):  # no profiler, no kernels; the times stand
                self.kernels = {kind: float(np.median([breakdown.kernel_seconds(lambda: self.step(kind)) for _ in range(CALLS)])) / CALLS
                                for kind in KINDS}

    def drop(self, error: str | None = None) -> None:
        self.error = error
        self.call = self.x = self.gradient = self.inputs = None

    def flops(self) -> float | None:
        """Of one forward call."""
        s, n, d = self.setting, self.setting.length, self.block.width
        if self.name == "product":
            return 2.0 * (SQUARE if s.device == "cuda" else d) ** 3
        counts = {"fft": flops.fourier_bluestein_flops if self.block.padded else flops.fourier_fft_flops,
                  "matmul": flops.fourier_matmul_flops, "folded": lambda n, d: beyond_projection(n, d, self.block.padded),
                  "whole": lambda n, d: 4.0 * n * d * d + 4.0 * n * n * d, "projection": lambda n, d: 2.0 * n * d * d}
        count = counts[self.name](n, d) if self.name in counts else 0.0
        return s.batch * count if count > 0 else None


def beyond_projection(n: int, d: int, padded: bool) -> float:
    """FLOPs of the folded transform over those of a projection by itself; negative where folding saves more than it takes."""
    return flops.fourier_folded_flops(n, d, padded) + flops.folded_projection_flops(n, d, padded) - 2.0 * n * d * d


def ways(block: Block) -> list[str]:
    """What is measured: long padded sequences are not folded, see `mixers/folded.py`."""
    folds = not block.padded or block.setting.length <= FOLDED_MASKED_MAX_LENGTH
    return [way for way in (*BESIDE, *WAYS) if folds or way != "folded"]


def measure(params: EfficiencyParams, store: RecordStore, clock: Callable[[], float] = time.perf_counter,
            say: Callable[[str], None] = print) -> list[Record]:
    """One record of stage `mixing` for each (length, precision, mode), full and padded; those that exist are kept.

    A way that fails is said, and missing from the record. Raises ParameterError as `efficiency.measure` does.
    """
    (device, name), width = efficiency.resolve_device(params), parse_shape(params.shape)[1]
    blocks = [Block(Setting(length, max(1, params.tokens // length), precision, mode, device), width, padded)
              for length, precision, mode in params.blocks() for padded in (False, True)]
    records = []
    with efficiency._quiet_collector(), tqdm(blocks, unit="block", desc="mixing alone") as bar:
        for block in bar:
            bar.set_postfix_str(f"{block.setting.length} tokens, {block.setting.precision}, {block.setting.mode}")
            identity = run_id(params, block, name)
            record = None if params.force else store.get(identity)
            if record is None and device is None:
                raise efficiency.not_measured(params, store, f"the mixing alone at {block.setting.length} tokens")
            if record is None:
                record = _measure_block(params, block, name, clock, say)
                store.write(record, force=params.force)
            records.append(record)
    return records


def run_id(params: EfficiencyParams, block: Block, device_name: str) -> str:
    return make_run_id("mixing", None, "fnet", params.seed, record_params(params, block, device_name))


def record_params(params: EfficiencyParams, block: Block, device_name: str) -> dict[str, Any]:
    s = block.setting
    return {"width": block.width, "length": s.length, "batch": s.batch, "precision": s.precision, "mode": s.mode,
            "padded": block.padded, "repeats": params.repeats, "warmup": params.warmup, "calls": CALLS, "device": device_name}


def _measure_block(params: EfficiencyParams, block: Block, name: str, clock: Callable[[], float],
                   say: Callable[[str], None]) -> Record:
    s, started = block.setting, now()
    contenders = [Way(way, block, params.seed) for way in ways(block)]
    with efficiency._products(s.precision), efficiency._compiler(s.mode):
        env = environment(s.device, s.precision, s.mode != "eager")
        for way in contenders:
            efficiency._try(way, way.build, s.device)
        for kind in KINDS:
            rounds(contenders, kind, params.warmup, params.repeats, clock)
        for way in contenders:
            way.take_apart()
    for way in contenders:
        if way.error:
            say(f"{way.name}, {s.length} tokens, {s.precision}, {s.mode}: {way.error}")
    timing = {way.name: {"flops": way.flops(), **{kind: {**spread([t / CALLS for t in way.times[kind]], "_s"), "n": params.repeats,
                                                         **({"kernels_s": way.kernels[kind]} if way.kernels else {})}
                                                  for kind in KINDS}} for way in contenders if way.error is None}
    efficiency._free(s.device)
    return Record(run_id=run_id(params, block, name), stage="mixing", model="fnet", seed=params.seed,
                  status="finished" if timing else "failed", params=record_params(params, block, name), timing=timing,
                  env=env, code=code(), started=started, ended=now(),
                  error="; ".join(f"{way.name}: {way.error}" for way in contenders if way.error) or None)


def frame(records: list[Record]) -> pd.DataFrame:
    """One row a (block, way): seconds of a forward call and of one with backward, beyond the projection for `folded`;
    times the memory's bound, by the kernels alone too; whether it is the fastest of its block in training."""
    rows = []
    for r in records:
        found = [{**r.params, "on_gpu": r.env["device"].startswith("cuda"), "way": way, "flops": r.timing[way]["flops"],
                  **{f"{kind}_s": _beyond(r, way, kind, "median_s") for kind in KINDS},
                  **{f"{kind}_vs_copy": _vs_copy(r, way, kind, "median_s") for kind in KINDS},
                  **{f"{kind}_kernels_vs_copy": _vs_copy(r, way, kind, "kernels_s") for kind in KINDS}}
                 for way in WAYS if way in r.timing]
        fastest = min(found, key=lambda row: row["train_s"], default=None)
        rows += [{**row, "fastest": row is fastest} for row in found]
    return pd.DataFrame(rows)


def _seconds(r: Record, way: str, kind: str, of: str) -> float:
    return ((r.timing.get(way) or {}).get(kind) or {}).get(of, np.nan)


def _beyond(r: Record, way: str, kind: str, of: str) -> float:
    """Of a way's seconds what is mixing: `folded` is a projection too, if one was measured."""
    projection = _seconds(r, "projection", kind, of) if way == "folded" else 0.0
    return _seconds(r, way, kind, of) - (0.0 if np.isnan(projection) else projection)


def _vs_copy(r: Record, way: str, kind: str, of: str) -> float:
    copied = _seconds(r, "copy", "infer", of)
    return _beyond(r, way, kind, of) / (copied if kind == "infer" else 2 * copied)  # a backward pass moves no less than a forward one


def entries(records: list[Record]) -> dict[str, Any]:
    """The summary's figures: `gpu.n<length>.<train|infer>` = {vs_memory, way, device, mode}: the least time of the kernels, full
    sequences in bf16, over that of the memory's two passes; of the device with most records."""
    data = frame(records)
    found: dict[str, Any] = {}
    data = data[data["on_gpu"] & data["precision"].eq("bf16") & ~data["padded"].astype(bool)] if len(data) else data
    data = data[data["device"].eq(data["device"].mode()[0])] if len(data) else data
    for (length, kind) in ((n, kind) for n in sorted(set(data["length"])) for kind in KINDS) if len(data) else ():
        known = data[data["length"].eq(length) & data[f"{kind}_kernels_vs_copy"].notna()]
        if len(known):
            best = known.loc[known[f"{kind}_kernels_vs_copy"].idxmin()]
            found.setdefault(f"n{length}", {})[kind] = {
                "vs_memory": round(float(best[f"{kind}_kernels_vs_copy"]), 4), "way": best["way"], "device": best["device"], "mode": best["mode"]}
    return {"gpu": found} if found else {}


def table(records: list[Record]) -> Table:
    """Time over the memory's bound by way and length; on a GPU the time too. The fastest in training is bold."""
    data, sections = frame(records), {}
    for (device, width, precision, mode, padded), group in (data.groupby(
            ["device", "width", "precision", "mode", "padded"]) if len(data) else ()):
        rows = {}
        for r in group.itertuples():
            cell = f"{number(r.train_vs_copy, 1)} ({number(r.infer_vs_copy, 1)})"
            cell += f", {number(r.train_s * 1e3, 3)} ({number(r.infer_s * 1e3, 3)}) ms" * r.on_gpu
            if not np.isnan(r.train_kernels_vs_copy):
                cell += f"; kernels {number(r.train_kernels_vs_copy, 1)} ({number(r.infer_kernels_vs_copy, 1)})"
            rows.setdefault(r.length, {"Length": r.length, "Batch": r.batch})[r.way] = f"**{cell}**" if r.fastest else cell
        title = f"{device}: width {width}, {precision}, {mode}, {'n/2 to n tokens, masked' if padded else 'full length'}"
        sections[title] = pd.DataFrame([rows[length] for length in sorted(rows)])
    notes = ["Times over that of reading and writing the tensor twice, and twice again in the backward pass: forward with backward, in "
             "brackets forward alone; medians. *folded* is the time beyond the projection that it is part of. Bold: the fastest with backward. *Kernels*: the same by the "
             "kernels' own time, without the gaps between them."]
    return Table("mixing", "The mixing alone", data, sections, notes if len(data) else ["Not measured here."])


def roofline(records: list[Record]) -> Figure:
    """FLOP/s of each way's forward pass by its FLOPs a byte of two passes over the tensor, below the two ceilings."""
    title = "Roofline of the mixing, forward (number: sequence length)"
    shown = [r for r in records if not r.params["padded"] and {"copy", "product"} <= set(r.timing)
             and r.env["device"].startswith("cuda")]
    if not shown:
        return _empty(title, "needs a GPU")
    groups: dict[tuple, list[Record]] = {}
    for r in shown:
        groups.setdefault((r.params["device"], r.params["precision"], r.params["mode"]), []).append(r)
    figure, axes = _panels(len(groups), 2, height=3.2)
    for axis, ((device, precision, mode), found) in zip(axes, sorted(groups.items())):
        size = 2 if precision in DTYPES else 4
        moved = [4 * size * r.params["batch"] * r.params["length"] * r.params["width"] for r in found]
        bandwidth = max(m / r.timing["copy"]["infer"]["median_s"] for m, r in zip(moved, found))
        peak = max(r.timing["product"]["flops"] / r.timing["product"]["infer"]["median_s"] for r in found)
        points = frame(found)
        points["flops"] = points["flops"].astype(float)  # none where folding saves FLOPs
        points["intensity"] = points["flops"] / np.array([4 * size * b * n * w for b, n, w in
                                                          zip(points["batch"], points["length"], points["width"])])
        ends = np.array([points["intensity"].min() / 2, points["intensity"].max() * 2])
        grid = np.geomspace(*ends, 50)
        axis.plot(grid, np.minimum(grid * bandwidth, peak) / 1e12, color="#444444", lw=1.4,
                  label=f"{bandwidth / 1e12:.1f} TB/s copied, {peak / 1e12:.0f} TFLOP/s in products")
        for way, part in points.groupby("way", sort=False):
            label = f"{way} (saves FLOPs)" if part["flops"].isna().all() else way
            axis.scatter(part["intensity"], part["flops"] / part["infer_s"] / 1e12, s=22, color=INK[way], label=label, zorder=3)
            for r in part.itertuples():
                axis.annotate(str(r.length), (r.intensity, r.flops / r.infer_s / 1e12), xytext=(3, 3), fontsize=6,
                              textcoords="offset points")
        axis.set(xscale="log", yscale="log", xlabel="FLOPs a byte", ylabel="TFLOP/s", title=f"{device}, {precision}, {mode}")
        axis.legend(fontsize=7, loc="lower right")
    return _finish(figure, title, handles=[])


def sentences(records: list[Record]) -> str:
    """Which way is fastest where, in words; Markdown."""
    data, lines = frame(records), []
    for (precision, mode, padded), group in data.groupby(["precision", "mode", "padded"], sort=False) if len(data) else ():
        best = group[group["fastest"]].sort_values("length")
        runs = [f"{r.length}: {r.way} ({r.train_vs_copy:.1f} times the memory's bound)" for r in best.itertuples()]
        lines.append(f"- {precision}, {mode}, {'padded' if padded else 'full length'}: " + "; ".join(runs) + ".")
    return "\n".join(["Fastest in training, by length:", "", *lines]) if lines else "The mixing alone was not measured."
