"""Where a training step's time goes: torch's profiler, its operators assigned to the parts of the model.

Modules open a named range while they run; an operator belongs to the innermost range around it, one of the backward pass
to the range of the forward operator that autograd numbered alike. On a GPU the time is that of the kernels an operator
launched, on a CPU its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function

from .plots import _empty, _finish, _panels
from .records import Record
from .results import model_key

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else every profile prints two lines, into notebooks too

PARTS = ("mixing", "projection", "feed-forward", "norms", "embeddings", "head", "optimiser", "rest", "launch gaps")
INK = {"mixing": "#0072B2", "projection": "#56B4E9", "feed-forward": "#B8B8B8", "norms": "#E69F00", "embeddings": "#CC79A7",
       "head": "#882255", "optimiser": "#009E73", "rest": "#DDDDDD", "launch gaps": "#D55E00"}
RANGE = "part: "
BACKWARD = "autograd::engine::evaluate_function: "
OPTIMISER = "Optimizer.step#"


def part_of(path: str, module: nn.Module) -> str | None:
    """The part that a module is, by its place in the model; None where the module around it decides."""
    name, inner = path.rsplit(".", 1)[-1].lower(), path.lower()
    if isinstance(module, nn.LayerNorm) or "norm" in name:
        return "norms"
    if "layer" not in inner:
        return next((part for word, part in (("embedding", "embeddings"), ("encoder", "mixing"), ("pooler", "head"),
                                             ("classifier", "head"), ("head", "head")) if word in name), None)
    around = inner.split("layer", 1)[1].split(".")[1:]  # within the encoder: layers.3.attention.output.dense, say
    of_mixing = any(word.startswith(("attention", "attn", "fourier")) for word in around)
    if name in ("dense", "wo") and "output" in around or name == "wo":
        return "projection" if of_mixing else "feed-forward"
    if name == "output":  # a residual sum with its dropout and norm, and the product before them
        return "norms"
    if name.startswith(("attention", "attn", "fourier")):
        return "mixing"
    return "feed-forward" if name in ("intermediate", "mlp") else None


@contextlib.contextmanager
def ranges(model: nn.Module) -> Iterator[None]:
    """Within, every module that is a part runs in its range."""
    open_ranges: list[Any] = []

    def enter(part: str) -> Callable:
        def hook(*_: Any) -> None:
            open_ranges.append(record_function(RANGE + part))
            open_ranges[-1].__enter__()
        return hook

    def leave(*_: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    hooks = []
    try:
        for path, module in model.named_modules():
            if part := part_of(path, module):
                hooks += [module.register_forward_pre_hook(enter(part)), module.register_forward_hook(leave)]
        yield
    finally:
        for hook in hooks:
            hook.remove()


def seconds_by_part(events: Iterable[Any], on_gpu: bool) -> dict[str, float]:
    """Seconds by part of the profiler's events: operators with `name`, `cpu_parent`, `sequence_nr`, and their own time."""
    events = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    forward: dict[int, str] = {}  # autograd's number -> part
    for event in events:
        if event.sequence_nr >= 0 and (part := _forward_part(event)):
            forward.setdefault(event.sequence_nr, part)
    found = dict.fromkeys(PARTS[:-1], 0.0)
    for event in events:
        own = sum(kernel.duration for kernel in event.kernels) if on_gpu else event.self_cpu_time_total
        if own:
            found[_forward_part(event) or _backward_part(event, forward)] += own / 1e6
    return found


def _ancestors(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _forward_part(event: Any) -> str | None:
    for around in _ancestors(event):
        if around.name.startswith(RANGE):
            return around.name.removeprefix(RANGE)
        if around.name.startswith(OPTIMISER):
            return "optimiser"
        if around.name.startswith(BACKWARD):
            return None
    return None


def _backward_part(event: Any, forward: dict[int, str]) -> str:
    for around in _ancestors(event):
        if around.name.startswith(BACKWARD):
            return forward.get(around.sequence_nr, "rest")
    return "rest"


def parts(model: nn.Module, step: Callable[[], Any], device: str) -> dict[str, float]:
    """Seconds by part of one training step: `step` runs forward, backward and the optimiser."""
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with ranges(model):
        step()
        with torch.profiler.profile(activities=activities) as profile:
            step()
            if on_gpu:
                torch.cuda.synchronize()
    return seconds_by_part(profile.events(), on_gpu)


def kernel_seconds(step: Callable[[], Any]) -> float:
    """Seconds that a GPU's kernels take in one `step`, without the gaps between them."""
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profile.key_averages() if event.device_type == DeviceType.CUDA) / 1e6


def with_gaps(found: dict[str, float], step_seconds: float, on_gpu: bool) -> dict[str, float]:
    """Adds what is missing to the step's time without the profiler: on a GPU, waiting for the next kernel."""
    return {**found, "launch gaps": max(0.0, step_seconds - sum(found.values()))} if on_gpu else found


def frame(records: list[Record]) -> pd.DataFrame:
    """One row a (record with `timing.parts`, part): seconds, and the share of that model's whole."""
    rows = []
    for r in records:
        whole = sum(r.timing.get("parts", {}).values())
        rows += [{"model": r.model, "length": r.params["length"], "precision": r.params["precision"],
                  "on_gpu": str(r.env.get("device")).startswith("cuda"), "part": part, "seconds": seconds, "share": seconds / whole}
                 for part, seconds in r.timing.get("parts", {}).items()]
    return pd.DataFrame(rows)


def figure(records: list[Record]) -> Figure:
    """Stacked bars of a training step, a bar a model, a panel a (length, precision): ms on a GPU, BERT's steps on a CPU."""
    title, data = "Where a training step's time goes (eager)", frame(records)
    if data.empty:
        return _empty(title, "no step was taken apart: eager steps are, as they are measured")
    groups = list(data.groupby(["precision", "length"], sort=False))
    most = max(group["model"].nunique() for _, group in groups)
    made, axes = _panels(len(groups), 2, height=0.24 * most + 0.9)
    for axis, ((precision, length), group) in zip(axes, groups):
        table = group.pivot_table(index="model", columns="part", values="seconds", sort=False)
        table = table.loc[sorted(table.index, key=model_key)]
        unit = 1e3 if group["on_gpu"].all() else 1 / float(table.loc["bert" if "bert" in table.index else table.index[0]].sum())
        left = pd.Series(0.0, table.index)
        for part in (part for part in PARTS if part in table):
            axis.barh(range(len(table)), table[part] * unit, left=left, color=INK[part], height=0.78, zorder=2)
            left += table[part] * unit
        axis.set_yticks(range(len(table)), table.index)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set(title=f"{length} tokens, {precision}", xlabel="ms" if group["on_gpu"].all() else f"× {'BERT' if 'bert' in table.index else table.index[0]}'s step")
    shown = [part for part in PARTS if part in set(data["part"])]
    devices = ", ".join(dict.fromkeys(r.env["device_name"] for r in records if r.timing.get("parts")))
    return _finish(made, f"{title}\n{devices}", handles=[Patch(color=INK[part], label=part) for part in shown])


def sentences(records: list[Record]) -> str:
    """What share the mixing, the feed-forward and the gaps take, one line a model and length; Markdown."""
    data, lines = frame(records), []
    for (precision, length, model), group in data.groupby(["precision", "length", "model"], sort=False) if len(data) else ():
        share = group.set_index("part")["share"]
        words = [f"{part} {share[part]:.0%}" for part in ("mixing", "projection", "feed-forward", "norms", "optimiser", "launch gaps")
                 if share.get(part, 0) >= 0.005]
        lines.append(f"- `{model}`, {length} tokens, {precision}: {', '.join(words)}.")
    return "\n".join(["Of a training step:", "", *lines]) if lines else "No step was taken apart."
