"""The report's figures. Every function returns a matplotlib Figure, closed, so that a notebook shows it once.

A recipe has one colour in all of them (Okabe and Ito's palette, safe for colour-blind readers).
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from . import published
from .params import PADDED, TASKS
from .records import Record
from .results import (
    GROUP, Results, cells, chance, data_note, data_tag, labels, metric_title, model_key, tagged, task_title,
    natural, training_key,
)
from .tables import same_teacher, went_wrong
from .tables_speed import KINDS, SETTING, SUMMARISED, beside_bert, main_shape, on_one_device, speed_frame

MAIN = ("bert", "bound", "fnet", "hybrid-2", "fnet+gated", "fnet+taylor", "hybrid-2+taylor", "modernbert")  # of the short speed figure
WIDTH = 8.6  # inches: what GitHub shows without shrinking it much
COLOURS = {"bert": "#000000", "fnet-naive": "#D55E00", "fnet-paper": "#E69F00", "fnet": "#0072B2",
           "fnet-calibrated": "#CC79A7", "hybrid-2": "#009E73", "hybrid-1": "#56B4E9", "hybrid-3": "#117733",
           "fnet+filter": "#AA4499", "fnet+gated": "#332288", "hybrid-2+gated": "#B8860B", "fnet+aft": "#CC3311",
           "hybrid-2+aft": "#EE7733", "fnet+taylor": "#F06292", "hybrid-2+taylor": "#880E4F", "hybrid-4": "#6B8E23", "hybrid-4+taylor": "#C48BC9", "bound": "#8C8C8C",
           "bert-eager": "#AA3377", "hf-fnet": "#DDCC77", "modernbert": "#88CCEE", "longformer": "#661100", "bigbird": "#88AA55",
           "nystromformer": "#EE99AA"}
REPAIRS = {"norm": "#882255", "mask": "#44AA99", "gain": "#999933", "projection": "#6699CC"}  # Tol's muted palette
_SPARE = ("#88CCEE", "#DDCC77", "#661100", "#88AA55")
STYLE = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
         "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "legend.fontsize": 8, "figure.dpi": 100}


def colour(name: str) -> str:
    """The recipe's colour; with one repair added or left out the repair's; else a spare one, always the same."""
    base = re.split(r"[@: ]", name)[0]
    changed = re.findall(r"(?:\+|-no-)([a-z]+)", base)
    if base not in COLOURS and len(changed) == 1 and changed[0] in REPAIRS:
        return REPAIRS[changed[0]]
    return COLOURS.get(base) or _SPARE[zlib.crc32(base.encode()) % len(_SPARE)]


def _panels(count: int, columns: int, height: float = 2.6, **kwargs: Any) -> tuple[Figure, list[Axes]]:
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, rows * height + 0.6), squeeze=False,
                                    layout="constrained", **kwargs)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def _finish(figure: Figure, title: str, names: Iterable[str] = (), handles: list | None = None,
            columns: int = 6, size: float = 11) -> Figure:
    """Title, one legend below all panels, and close: pyplot must not show the figure a second time."""
    figure.suptitle(title, fontsize=size)
    names = sorted(set(names), key=model_key)
    lines = [plt.Line2D([], [], color=colour(n), marker="o", mfc=_fill(n), ms=5, lw=1.8, ls=_dashes(n), label=n)
             for n in names]
    if handles := [*lines, *(handles or [])]:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def _place(axis: Axes, points: Iterable[tuple[float, float, float, str, str]]) -> None:
    """Names beside their points, each at the nearest place that is free of points, bars and other names; a point may have none."""
    points, dot, frame = list(points), axis.figure.dpi / 72, axis.get_window_extent()
    taken = []
    for x, y, spread, *_ in points:
        (px, low), (_, middle), (_, high) = axis.transData.transform([(x, y - spread), (x, y), (x, y + spread)])
        taken += [Bbox.from_extents(px - 4 * dot, middle - 4 * dot, px + 4 * dot, middle + 4 * dot),
                  Bbox.from_extents(px - dot, low, px + dot, high)]
    for x, y, _, name, ink in sorted((point for point in points if point[3]), key=lambda point: " min" in point[3]):
        text = axis.annotate(name, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=7, color=ink, ha="center", va="center",
                             in_layout=False, zorder=4, path_effects=[withStroke(linewidth=2, foreground="white")])
        box, best = text.get_window_extent(), None
        for reach, (right, up) in itertools.product((6, 11, 17, 24, 32, 42), ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))):
            move = np.array([right * (reach * dot + box.width / 2), up * (reach * dot + box.height / 2)])
            here = box.translated(*move)
            cost = sum(_overlap(here, other) for other in taken) + here.width * here.height - _overlap(here, frame)
            if best is None or cost < best[0] - 1:
                best = cost, move, here, reach
        taken.append(best[2])
        text.set_position(tuple(best[1] / dot))
        if best[3] > 11:
            end = best[1] - np.sign(best[1]) * np.array([box.width, box.height]) / 2
            axis.annotate("", (x, y), xytext=tuple(end / dot), textcoords="offset points", in_layout=False,
                          arrowprops={"arrowstyle": "-", "color": ink, "lw": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 3})


def _overlap(a: Bbox, b: Bbox) -> float:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, width) * max(0.0, height)


def _dashes(name: str) -> str:
    return ":" if "[" in name or PADDED in name else "--" if "@" in name else "-." if "-no-" in name else "-"


def _fill(name: str) -> str:
    """Hollow markers are adapted models, and models with settings of their own."""
    return "white" if "@" in name or "[" in name or "+task" in name else colour(name)


def _empty(title: str, why: str) -> Figure:
    figure, (axis,) = _panels(1, 1, height=0.8)
    axis.axis("off")
    axis.text(0.5, 0.5, why, ha="center", va="center")
    return _finish(figure, title)


def _group_title(training: Any, teacher: Any, task: str) -> str:
    return f"{task}, training {training}, teacher {str(teacher).split('/')[-1]}"


def quality(results: Results) -> Figure:
    """Every seed a point, the mean a bar, the constant predictor's floor and BERT's ceiling as lines."""
    title = tagged("Score after the last epoch: every seed a point, bars are means", results.tag)
    groups = list(results.primary.groupby([*GROUP, "task"], sort=False, dropna=False))
    if not groups:
        return _empty(title, "no fine-tuning records")
    figure, axes = _panels(len(groups), 3, height=3.2)
    for axis, ((training, teacher, task), runs) in zip(axes, groups):
        _strip(axis, runs)
        axis.set_title(f"{task_title(task, runs.note)}\n{training}, {str(teacher).split('/')[-1]}", fontsize=9)
        axis.set_ylabel(metric_title(runs.metric))
    marks = [plt.Line2D([], [], color="#555555", marker="o", ls="", ms=5, label="one seed"),
             plt.Line2D([], [], color="#555555", marker="o", ls="", ms=5, mfc="white", label="predicts one class"),
             plt.Line2D([], [], color="#000000", lw=1, ls=":", label="BERT's mean"),
             plt.Line2D([], [], color="#777777", lw=1, ls="--", label="chance (best constant)")]
    return _finish(figure, title, handles=marks)


def _strip(axis: Axes, runs: pd.DataFrame) -> None:
    table = cells(runs)
    for place, cell in enumerate(table.itertuples()):
        part = runs[runs.label == cell.label].dropna(subset="last")
        offsets = np.linspace(-0.18, 0.18, len(part)) if len(part) > 1 else [0.0]
        for offset, run in zip(offsets, part.itertuples()):
            axis.plot(place + offset, run.last, "o", ms=5, color=colour(cell.label),
                      mfc="white" if run.degenerate else colour(cell.label), zorder=3)
        if cell.n:
            axis.hlines(cell.mean, place - 0.32, place + 0.32, color=colour(cell.label), lw=2)
    floor, bert = chance(runs), table[table.label == "bert"]["mean"].dropna()
    if floor is not None:
        axis.axhline(floor, color="#777777", lw=1, ls="--", zorder=0)
    if len(bert):
        axis.axhline(bert.iloc[0], color="#000000", lw=1, ls=":", zorder=0)
    axis.set_xticks(range(len(table)), list(map(_named, table.itertuples())), rotation=40, ha="right", fontsize=8)
    axis.set_xlim(-0.6, len(table) - 0.4)


def _named(cell: Any) -> str:
    """The model, and how many of its runs have no point: diverged or failed."""
    return "\n".join([cell.label, *(part for part in went_wrong(cell).split(", ") if part and "class" not in part)])


def loss_curves(records: list[Record]) -> Figure:
    """Training and evaluation loss by epoch; thin lines are seeds, thick ones their mean. One row a task."""
    title = tagged("Loss by epoch (thin: seeds, thick: mean)", data_tag(records))
    groups = _curves(records)
    if not groups:
        return _empty(title, "no fine-tuning records with a history")
    figure, axes = _panels(2 * len(groups), 2, height=2.4)
    for row, (name, history) in enumerate(groups.items()):
        for axis, column, word in zip(axes[2 * row:], ("train_loss", "eval_loss"), ("training", "evaluation")):
            _lines(axis, history, column)
            axis.set_title(name, fontsize=9)
            axis.set_ylabel(f"{word} loss")
    return _finish(figure, title, _labels(groups))


def metric_curves(records: list[Record]) -> Figure:
    """The headline metric on the validation set by epoch; thin lines are seeds, the dashed line is chance."""
    title = tagged("Validation score by epoch (thin: seeds, thick: mean)", data_tag(records))
    groups = _curves(records)
    if not groups:
        return _empty(title, "no fine-tuning records with a history")
    figure, axes = _panels(len(groups), 2, height=2.6)
    for axis, (name, history) in zip(axes, groups.items()):
        _lines(axis, history, "score")
        axis.axhline(history.chance.dropna().max(), color="#777777", lw=1, ls="--", zorder=0)
        axis.set_title(name, fontsize=9)
        axis.set_ylabel(metric_title(history.metric))
    chance_line = [plt.Line2D([], [], color="#777777", lw=1, ls="--", label="chance")]
    return _finish(figure, title, _labels(groups), chance_line)


def _labels(groups: dict[str, pd.DataFrame]) -> set[str]:
    return {name for history in groups.values() for name in history.label}


def _curves(records: list[Record]) -> dict[str, pd.DataFrame]:
    """Panel title -> one row an epoch of every run.

    Where some recipes have several epochs those with one are left out: a point is no curve.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    records = [r for r in records if r.stage == "finetune" and r.metrics]
    for r, name in zip(records, labels(records)):
        teacher = r.teacher.name if r.teacher else ""
        key = (training_key(r.training), (natural(teacher), teacher), TASKS.index(r.task))
        metric = r.metrics.headline.name
        rows = groups.setdefault(key, [])
        rows += [{"label": name, "run": r.run_id, "metric": metric, "score": entry.get(metric),
                  "chance": r.metrics.validation.get("chance"), "note": data_note(r),
                  **{k: entry.get(k) for k in ("epoch", "train_loss", "eval_loss")}} for entry in r.metrics.history]
    frames = {key: pd.DataFrame(rows) for key, rows in sorted(groups.items(), key=lambda item: item[0]) if rows}
    last = {key: frame.epoch.astype(float).max() for key, frame in frames.items()}
    frames = {key: frame for key, frame in frames.items() if last[key] > 1 or max(last.values()) <= 1}
    return {_group_title(training, teacher, task_title(TASKS[task], frame.note)): frame
            for ((_, training), (_, teacher), task), frame in frames.items()}


def _lines(axis: Axes, history: pd.DataFrame, column: str) -> None:
    data = history.assign(value=history[column].astype(float), epoch=history.epoch.astype(float)).dropna(
        subset=["value", "epoch"])
    for name, runs in data.groupby("label"):
        for _, run in runs.groupby("run"):
            axis.plot(run.epoch, run.value, color=colour(name), lw=0.7, alpha=0.5, ls=_dashes(name))
        mean = runs.groupby(runs.epoch.round(2)).value.mean()
        axis.plot(mean.index, mean.values, color=colour(name), lw=2, ls=_dashes(name), marker="o", ms=3.5,
                  mfc=_fill(name))
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)


def speed_against_bert(results: Results) -> Figure:
    """The short of it: how many times as fast as BERT the main models are by length, each in its fastest mode, on the GPU that most was
    measured on; the shaded part no mixing can reach. `speed_by_length` has every model and mode."""
    measured = beside_bert(results, main_shape(results.efficiency))
    data = pd.concat([on_one_device(measured, MAIN, kind) for kind in KINDS])
    data = data[data["model"].isin(MAIN)]
    if data.empty:
        return _empty("Speed against BERT", "no efficiency records beside BERT")
    first = data.iloc[0]
    figure, axes = _panels(2, 2, height=3.2, sharey=True)
    for axis, kind, word in zip(axes, KINDS, ("training step", "inference")):
        part = data[data["kind"] == kind]
        axis.axhline(1, color=colour("bert"), lw=1.5)
        for model, line in part.sort_values("length").groupby("model"):
            if model == "bound":
                axis.fill_between(line["length"].astype(float), line["vs_bert"], 2 * data["vs_bert"].max(), color="#777777", alpha=0.15, lw=0)
            elif model != "bert":
                axis.plot(line["length"].astype(float), line["vs_bert"], color=colour(model), marker="o", ms=4, lw=1.6)
        axis.set(title=word, xlabel="sequence length", ylabel="× BERT, log scale")
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_ylim(0.8 * data["vs_bert"].min(), 1.15 * data["vs_bert"].max())
        _length_axis(axis, sorted(data["length"].unique()))
    shade = [plt.Rectangle((0, 0), 1, 1, color="#777777", alpha=0.15, lw=0, label="faster than no mixing at all")] * bool(data["model"].eq("bound").any())
    return _finish(figure, f"Times as fast as BERT, each in its fastest mode\n{first['shape']}, {first['tokens']} tokens a step, {SUMMARISED[first['where']]}, {first['device_name']}",
                   set(data["model"]) - {"bound"}, handles=list(shade), size=10)


def speed_by_length(results: Results) -> Figure:
    """How many times as fast as BERT, by sequence length: medians with quartiles of interleaved rounds. Of several GPUs the one that
    most was measured on."""
    title = "Speed against BERT by sequence length (more is faster; bars are quartiles)"
    data = speed_frame(results.efficiency)
    data = data.dropna(subset=["train_vs_bert", "infer_vs_bert"], how="all") if len(data) else data
    if data.empty:
        return _empty(title, "no efficiency records with a ratio to BERT")
    usual = data[data["backend"].isna() | data["backend"].eq("auto")]
    groups = list((usual if len(usual) else data).groupby(SETTING, sort=False, dropna=False))
    groups = [(key, group) for key, group in groups if group["length"].nunique() > 1] or groups  # a single length is no curve
    gpus = data[data["device"].astype(str).str.startswith("cuda")]["device_name"].value_counts().index
    groups = [(key, group) for key, group in groups if key[0] not in gpus[1:]] or groups
    title += "\nother GPUs: speed.md" * (len(gpus) > 1)
    figure, axes = _panels(2 * len(groups), 2, height=2.7)
    for row, ((device, shape, tokens, precision, mode, backend), group) in enumerate(groups):
        mode += f", {backend}" * (pd.notna(backend) and backend != "auto")
        for axis, kind, word in zip(axes[2 * row:], ("train", "infer"), ("training step", "inference")):
            for name, part in group.groupby("model"):
                _ratio_line(axis, part.sort_values("length"), f"{kind}_vs_bert", str(name))
            axis.set_title(f"{word}: {shape}, {precision}, {mode}\n{tokens} tokens a step, {device}", fontsize=9)
            axis.set(xlabel="sequence length", ylabel="× BERT, log scale")
            axis.set_yscale("log", base=2)
            axis.yaxis.set_major_formatter("{x:g}")
            _length_axis(axis, sorted(group.length.unique()))
    return _finish(figure, title, data.model[data.model != f"bert{PADDED}"])


def _ratio_line(axis: Axes, part: pd.DataFrame, column: str, name: str) -> None:
    ratio = part[column].astype(float)
    bars = [(ratio - part[f"{column}_q25"].astype(float)).clip(lower=0).fillna(0),
            (part[f"{column}_q75"].astype(float) - ratio).clip(lower=0).fillna(0)]
    if name.removesuffix(PADDED) == "bert":  # 1 by definition
        axis.axhline(1, color=colour(name), lw=1.5)
        return
    axis.errorbar(part.length.astype(float), ratio, yerr=bars, color=colour(name), marker="o", ms=4, lw=1.6, capsize=2,
                  ls=_dashes(name))


def _length_axis(axis: Axes, lengths: list[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [str(n) if n < 1024 else f"{n // 1024}k" for n in lengths])
    axis.minorticks_off()


def beside_published(results: Results) -> Figure:
    """The 2023 study's single runs (diamonds) beside every seed of ours, same training recipe."""
    title = tagged("The 2023 study's published scores beside ours", results.tag)
    theirs = published.study()
    ours = results.reported
    ours = ours[(ours.training == published.TRAINING) & ours.task.isin(theirs.task) & ours.label.isin(theirs.model)]
    if results.tag or ours.empty:
        return _empty(title, "not compared: these records are not of GLUE with the study's recipe")
    groups = list(ours.groupby(["teacher", "task"], sort=False))
    figure, axes = _panels(len(groups), 3, height=2.8)
    for axis, ((teacher, task), runs) in zip(axes, groups):
        rows = theirs[theirs.task == task]
        for place, row in enumerate(rows.itertuples()):
            scores = runs[runs.label == row.model]["last"].dropna().astype(float)
            axis.plot(place - 0.15, row.score, "D", ms=8, mfc="white", color=colour(row.model))
            axis.plot(np.full(len(scores), place + 0.15), scores, "o", ms=5, alpha=0.6, color=colour(row.model))
            if len(scores):
                axis.hlines(scores.mean(), place + 0.03, place + 0.27, color=colour(row.model), lw=2)
        floor = chance(runs)
        if floor is not None:
            axis.axhline(floor, color="#777777", lw=1, ls="--", zorder=0)
        axis.set_xticks(range(len(rows)), list(rows.model))
        axis.set(xlim=(-0.6, len(rows) - 0.4), ylabel=metric_title(rows.metric))
        axis.set_title(f"{task_title(task, runs.note)}\nours: {str(teacher).split('/')[-1]}", fontsize=9)
    if not ours.teacher.map(same_teacher).all():
        title += f"\nteachers differ: theirs is {published.TEACHER}"
    marks = [plt.Line2D([], [], color="#555555", marker="D", mfc="white", ls="", ms=7, label="published, 1 run"),
             plt.Line2D([], [], color="#555555", marker="o", ls="", ms=5, label="ours, every seed; bar: mean"),
             plt.Line2D([], [], color="#777777", lw=1, ls="--", label="chance")]
    return _finish(figure, title, handles=marks)
