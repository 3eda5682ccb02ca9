"""Figures about why the naive swap fails, what repairs it, and how far a refreshed teacher goes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .config import REPAIRS
from .plots import REPAIRS as REPAIR_COLOURS
from .plots import STYLE, WIDTH, _dashes, _empty, _finish, _panels, colour
from .results import (
    GROUP, NAMED_DESIGNS, Results, chance, data_tag, design, is_ablation, metric_title, model_key, one_precision,
    tagged, task_title, where,
)
from .tables_repair import ablation as ablation_table
from .tables_repair import ablation_runs, padding_frame, padding_title
from .tables_training import teacher_frame

PANELS = {
    "branch_ratio": ("Mixing branch / residual stream (RMS)", "log"),
    "cosine": ("Cosine to the teacher's states", "linear"),
    "cka": ("CKA with the teacher's states", "linear"),
    "padding_shift": ("Largest change under extra padding", "symlog"),
}


def swap_figure(effects: pd.DataFrame, title: str = "What the swap does to the hidden states") -> Figure:
    """One panel a measure, one line a recipe, layers along the x axis; effects: one row per (model, layer)."""
    columns = _measured(effects)
    figure, axes = _panels(len(columns), 2, height=2.4)
    _swap_panels(axes, effects, columns)
    return _finish(figure, title, effects.model)


def _measured(effects: pd.DataFrame) -> list[str]:
    return [column for column in PANELS if column in effects and effects[column].notna().any()]


def _swap_panels(axes: list[Axes], effects: pd.DataFrame, columns: list[str], of: str = "") -> None:
    for axis, column in zip(axes, columns):
        name, scale = PANELS[column]
        for recipe, part in effects.groupby("model", sort=False):
            axis.plot(part.layer, part[column], marker="o", ms=4, lw=1.6, color=colour(recipe), ls=_dashes(recipe))
        axis.set_yscale(scale, **({"linthresh": 1e-4} if scale == "symlog" else {}))
        axis.set_title(f"{name}\n{of}" if of else name, fontsize=9)
        axis.set_xlabel("layer")
        axis.xaxis.get_major_locator().set_params(integer=True)


def swap_in_words(effects: pd.DataFrame) -> str:
    """The figure in numbers: one line a recipe."""
    lines = []
    for recipe, part in effects.groupby("model", sort=False):
        low, high = part["branch_ratio"].min(), part["branch_ratio"].max()
        cka = f" and CKA {part['cka'].iloc[-1]:.3f}" if "cka" in _measured(part) else ""
        lines.append(
            f"{recipe}: the mixing branch is {low:.3g} to {high:.3g} times the residual stream; the last layer's "
            f"states have cosine {part['cosine'].iloc[-1]:.3f}{cka} to the teacher's; extra padding moves a unit by up to "
            f"{part['padding_shift'].max():.2g}")
    return "\n".join(lines)


def swap_effects(results: Results) -> Figure:
    """What the swap does to hidden states before any training, from the newest record of each teacher and task."""
    title = tagged("What the swap does to the hidden states, before any training", data_tag(results.transfer))
    newest = {(r.teacher.name, r.task): r for r in sorted(results.transfer, key=lambda r: r.ended)
              if (r.transfer or {}).get("effects")}
    if not newest:
        return _empty(title, "no transfer records with effects: 02_transfer makes them")
    frames = {key: pd.DataFrame(record.transfer["effects"]) for key, record in newest.items()}
    measured = {key: _measured(frame) for key, frame in frames.items()}
    figure, axes = _panels(sum(len(c) + len(c) % 2 for c in measured.values()), 2, height=2.4)
    place = 0
    for (teacher, task), effects in frames.items():
        columns = measured[teacher, task]
        _swap_panels(axes[place:], effects, columns,
                     f"{task_title(task)}, {teacher.split('/')[-1]}" if len(frames) > 1 else "")
        place += len(columns) + len(columns) % 2
        axes[place - 1].set_visible(len(columns) % 2 == 0)
    if len(frames) == 1:
        title += f"\nteacher {teacher.split('/')[-1]}, sentences of {task_title(task)}"
    return _finish(figure, title, pd.concat(frames.values()).model)


def ablation(results: Results) -> Figure:
    """Which repair weighs how much (left), and every design point's score, all seeds (right). One row a task."""
    title = tagged("What each repair is worth", results.tag)
    groups = list(ablation_runs(results))
    if not groups:
        return _empty(title, "needs runs of fnet-naive, fnet and of recipes with single repairs between them")
    data = ablation_table(results).data
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(WIDTH, 3.9 * len(groups) + 0.9), layout="constrained")
        for part, (key, runs) in zip(np.ravel(figure.subfigures(len(groups), 1)), groups):
            same = (data[[*GROUP, "task", "settings"]].astype(str) == [str(k) for k in key]).all(axis=1)
            left, right, matrix = _ablation_axes(part)
            _weights(left, data[same])
            _design_points(right, matrix, runs)
            training, teacher, task, settings = key
            part.suptitle(f"{task_title(task, runs.note)}, training {training}{settings}, teacher "
                          f"{str(teacher).split('/')[-1]}", fontsize=10)
    return _finish(figure, title, handles=_ablation_marks(data), columns=3)


def _ablation_axes(part) -> tuple[Axes, Axes, Axes]:
    grid = part.add_gridspec(2, 2, height_ratios=(3, 1), width_ratios=(1, 1.35))
    left, right = part.add_subplot(grid[:, 0]), part.add_subplot(grid[0, 1])
    return left, right, part.add_subplot(grid[1, 1], sharex=right)


def _weights(axis: Axes, data: pd.DataFrame) -> None:
    """Bars: a repair's share of the way, and with the projection as a fourth (pale); triangles: alone, left out."""
    data = data[data.n > 0]
    has = {name: data[data.quantity == name].set_index("of") for name in ("shapley", "shapley_4", "alone", "left_out")}
    for place, repair in enumerate(REPAIRS):
        shade = REPAIR_COLOURS[repair]
        for name, x, alpha in (("shapley", place - 0.21, 1.0), ("shapley_4", place + 0.07, 0.35)):
            if repair in has[name].index:
                row = has[name].loc[repair]
                axis.bar(x, row["mean"], 0.26, color=shade, alpha=alpha, zorder=2)
                _interval(axis, x, row, "#333333")
        for name, x, marker in (("alone", place + 0.28, "^"), ("left_out", place + 0.4, "v")):
            if repair in has[name].index:
                row = has[name].loc[repair]
                _interval(axis, x, row, shade)
                axis.plot(x, row["mean"], marker, ms=6, color=shade, zorder=4,
                          mfc=shade if row.verdict == "significant" else "white")
    for name, x in (("shapley", -0.21), ("shapley_4", 0.07)):
        for repair in has[name].index[has[name].verdict == "significant"]:
            row = has[name].loc[repair]
            top = max(row["mean"], row.high if pd.notna(row.high) else row["mean"], 0)
            axis.annotate("*", (list(REPAIRS).index(repair) + x, top), ha="center", va="bottom", fontsize=11)
    axis.axhline(0, color="#777777", lw=1, zorder=1)
    axis.set_xticks(range(len(REPAIRS)), list(REPAIRS))
    axis.set(xlim=(-0.5, len(REPAIRS) - 0.4), ylabel=f"effect on {data.metric.iloc[0]}")
    axis.margins(y=0.12)
    axis.grid(axis="x", visible=False)


def _interval(axis: Axes, x: float, row: pd.Series, shade: str) -> None:
    if pd.notna(row.low):
        axis.vlines(x, row.low, row.high, color=shade, lw=1.2, zorder=3)


def _design_points(axis: Axes, matrix: Axes, runs: pd.DataFrame) -> None:
    """Every seed a point, the mean a bar; below, which repairs are in (dots), fewest first, without projection last."""
    points = {label: design(part.record.iloc[0]) for label, part in runs.groupby("label", sort=False)}
    order = sorted(points, key=lambda name: ("projection" not in points[name], len(points[name]), model_key(name)))
    gaps = [0.7 * ("projection" not in points[name]) for name in order]
    for place, (name, gap) in enumerate(zip(order, gaps)):
        x, have = place + gap, points[name]
        part = runs[(runs.label == name)].dropna(subset="last")
        # In one colour: the dots below say what a point is; the named recipes keep theirs.
        shade = colour(name) if have in NAMED_DESIGNS.values() else "#777777"
        spread = np.linspace(-0.2, 0.2, len(part)) if len(part) > 1 else [0.0]
        for offset, run in zip(spread, part.itertuples()):
            fill = "white" if run.degenerate else shade
            axis.plot(x + offset, run.last, "o", ms=3.5, color=shade, mfc=fill, zorder=3)
        if len(part):
            axis.hlines(part["last"].astype(float).mean(), x - 0.36, x + 0.36, color=shade, lw=2)
        for row, repair in enumerate(REPAIRS):
            matrix.plot(x, row, "o", ms=5, color=REPAIR_COLOURS[repair] if repair in have else "#E0E0E0")
    floor = chance(runs)
    if floor is not None:
        axis.axhline(floor, color="#777777", lw=1, ls="--", zorder=0)
    axis.set_ylabel(metric_title(runs.metric))
    axis.tick_params(labelbottom=False)
    matrix.set_yticks(range(len(REPAIRS)), list(REPAIRS))
    matrix.set(xlim=(-0.6, len(order) - 0.4 + max(gaps)), ylim=(len(REPAIRS) - 0.5, -0.5))
    matrix.grid(visible=False)
    matrix.tick_params(length=0)
    for side in ("left", "bottom"):
        matrix.spines[side].set_visible(False)
    named = [(place + gap, name) for place, (name, gap) in enumerate(zip(order, gaps))
             if points[name] in NAMED_DESIGNS.values()]
    matrix.set_xticks([x for x, _ in named], [name.replace("-", "-\n") for _, name in named], fontsize=8)


def _ablation_marks(data: pd.DataFrame) -> list:
    has = set(data[data.n > 0].quantity)
    shade = "#555555"
    marks = [plt.Rectangle((0, 0), 1, 1, color=shade, label="share of the way from fnet-naive to fnet (Shapley)")
             if "shapley" in has else None,
             plt.Rectangle((0, 0), 1, 1, color=shade, alpha=0.35, label="share of the way from fnet-paper to fnet")
             if "shapley_4" in has else None,
             plt.Line2D([], [], color=shade, marker="^", ls="", ms=6, label="added alone to fnet-naive"),
             plt.Line2D([], [], color=shade, marker="v", ls="", ms=6, label="left out alone of fnet"),
             plt.Line2D([], [], color=shade, marker="^", ls="", ms=6, mfc="white", 
                          label="hollow: not significant, or not testable"),
             plt.Line2D([], [], color="#000000", marker="$*$", ls="", ms=6, label="significant share"),
             plt.Line2D([], [], color=shade, marker="o", ls="", ms=4, label="one seed"),
             plt.Line2D([], [], color=shade, marker="o", ls="", ms=4, mfc="white", label="predicts one class"),
             plt.Line2D([], [], color="#777777", lw=1, ls="--", label="chance")]
    return [mark for mark in marks if mark]


def padding(results: Results) -> Figure:
    """Score against padding length, mean and standard deviation; filled markers: some prediction changed in a run.

    Of the ablation's points `fnet` without its mask is shown: a naive swap may predict one class, however padded.
    """
    title = tagged("The same models, padded further: score by padding length", results.tag)
    without_mask = NAMED_DESIGNS["fnet"] - {"mask"}
    data = padding_frame(one_precision(where(
        results.scored, lambda r: not is_ablation(r.record) or design(r.record) == without_mask)))
    groups = list(data.groupby([*GROUP, "task"], sort=False, dropna=False))
    if not groups:
        return _empty(title, "no fine-tuning records with scores by padding length")
    figure, axes = _panels(len(groups), 3, height=2.6)
    for axis, ((training, teacher, task), group) in zip(axes, groups):
        lengths, names = sorted(group.padded_to.unique()), list(dict.fromkeys(group.label))
        for number, name in enumerate(names):
            part = group[group.label == name]
            x = [lengths.index(length) + 0.1 * (number - (len(names) - 1) / 2) for length in part.padded_to]
            axis.errorbar(x, part["mean"].astype(float), yerr=part.sd.astype(float).fillna(0), color=colour(name),
                          lw=1.4, elinewidth=0.7, ls=_dashes(name))
            for place, row in zip(x, part.itertuples()):
                axis.plot(place, row.mean, "o", ms=5, color=colour(name), mfc=colour(name) if row.changed else "white",
                          zorder=4)
        axis.set_xticks(range(len(lengths)), [padding_title(n).removesuffix(" length") for n in lengths])
        axis.set_title(f"{task_title(task, group.note)}\n{training}, {str(teacher).split('/')[-1]}", fontsize=9)
        axis.set(xlabel="tokens, at least", ylabel=metric_title(group.metric))
    marks = [plt.Line2D([], [], color=colour(name), lw=1.8, ls=_dashes(name), label=name)
             for name in sorted(set(data.label), key=model_key)]
    marks += [plt.Line2D([], [], color="#555555", marker="o", ls="", ms=5, label="some prediction changed"),
              plt.Line2D([], [], color="#555555", marker="o", ls="", ms=5, mfc="white", label="none changed")]
    return _finish(figure, title, handles=marks)


def teachers(results: Results) -> Figure:
    """BERT's scores by the tokens its teacher was trained on with; then the held-out loss on the way there."""
    title = tagged("The teacher, refreshed by masked-LM training: bert under the study's recipe", results.tag)
    data = teacher_frame(results)
    tasks = [(task, part) for task, part in data.dropna(subset="task").groupby("task", sort=False) if part.tokens.any()]
    if not tasks:
        return _empty(title, "no runs of bert from a teacher that was trained on with text")
    figure, axes = _panels(len(tasks) + 1, 3, height=2.7)
    ticks = sorted(data.tokens.astype(float).unique())
    for axis, (task, part) in zip(axes, tasks):
        _teacher_scores(axis, part, ticks)
        floor = chance(results.finetune[results.finetune.task == task])
        if floor is not None:
            axis.axhline(floor, color="#777777", lw=1, ls="--", zorder=0)
        axis.set_title(task_title(task, part.note), fontsize=9)
        axis.set_ylabel(part.metric.iloc[0])
    for record in (r for r in results.adapt if r.model == "bert" and r.metrics):
        # From the first evaluation during training: the masked-LM head is new, its loss before says nothing.
        points = [(e["tokens"], e["eval_loss"]) for e in record.metrics.history if e.get("eval_loss") and e["tokens"]]
        axes[-1].plot(*zip(*points), marker="o", ms=3, lw=1.2, color=colour("hybrid-1"))
    axes[-1].set_title("while the teacher is trained", fontsize=9)
    axes[-1].set_ylabel("held-out masked-LM loss, nats")
    for axis in axes:
        _token_axis(axis, ticks)
    marks = [plt.Line2D([], [], color=colour("bert"), marker="o", ls="", ms=4, alpha=0.6, label="one seed"),
             plt.Line2D([], [], color=colour("hybrid-1"), marker="_", ms=12, mew=2, lw=1, label="mean over seeds"),
             plt.Line2D([], [], color=colour("hybrid-1"), marker="o", ms=3, lw=1.2, label="one training"),
             plt.Line2D([], [], color="#777777", lw=1, ls="--", label="chance")]
    return _finish(figure, title, handles=marks)


def _teacher_scores(axis: Axes, part: pd.DataFrame, ticks: list[float]) -> None:
    step = 0.03 * _fewest(ticks)
    for r in part.itertuples():
        offsets = np.linspace(-1, 1, len(r.scores)) if len(r.scores) > 1 else np.zeros(len(r.scores))
        places = r.tokens * (1 + 0.06 * offsets) if r.tokens else step * offsets
        axis.plot(places, r.scores, "o", ms=4, alpha=0.6, color=colour("bert"))
    axis.plot(part.tokens.astype(float), part["mean"].astype(float), "_-", ms=14, mew=2, lw=1, color=colour("hybrid-1"))


def _fewest(ticks: list[float]) -> float:
    return min((t for t in ticks if t), default=1.0)


def _token_axis(axis: Axes, ticks: list[float]) -> None:
    """Logarithmic in tokens, with the plain teacher (no tokens) at its left end."""
    axis.set_xscale("symlog", linthresh=_fewest(ticks), linscale=0.5)
    axis.set_xlim(-0.25 * _fewest(ticks), 1.4 * max(ticks))
    axis.set_xticks(ticks, ["plain" if not t else f"{t / 1e6:.3g}" for t in ticks])
    axis.minorticks_off()
    axis.set_xlabel("tokens seen, millions")
