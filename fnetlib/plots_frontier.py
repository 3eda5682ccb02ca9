"""Quality against training speed: what each model keeps of BERT, and how fast it is."""

from __future__ import annotations

import math
import re
import textwrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .params import parse_shape
from .plots import _empty, _fill, _finish, _panels, _place, colour
from .recovery import FEWEST_PAIRS, is_placement
from .results import GROUP, Results, cells, metric_title, model_key, recipe_of, tagged, task_title
from .tables_glance import scored_depth
from .tables_speed import SUMMARISED, beside_bert, main_shape, on_one_device

RECIPES = ("tuned_plain", "tuned")  # without either, the first recipe that there is
LENGTH = 512  # tokens
SAME_SPEED = 0.98  # of another model's speed; blocks of one model differ by as much
PLACED = re.compile(r"hybrid-at((?:-\d+)+)")


def frontier(results: Results, length: int = LENGTH) -> Figure:
    """Score against training speed at so many tokens, or the nearest length that was measured; one panel a task, every model with
    both; up and right is better, and what none beats is named. Of the placements of a hybrid's attention, which are all as
    fast, the best by its scores."""
    title = tagged("Quality against training speed", results.tag)
    table = cells(results.primary)
    groups = _chosen(table[table["n"] > 0])
    groups = [_one_placement(group) for group in groups]
    models = {_as_fast_as(label) for group in groups for label in group["label"]}
    speeds = _speeds(results, models, length)
    shown = [part for group in groups if len(part := group[group["label"].map(_as_fast_as).isin(set(speeds["model"]))])]
    if not shown:
        return _empty(title, "needs fine-tuning and efficiency records of the same recipes, beside BERT")
    figure, axes = _panels(len(shown), 2, height=3.6)
    ratios = dict(zip(speeds["model"], speeds["vs_bert"]))
    points = [_draw(axis, part, ratios) for axis, part in zip(axes, shown)]
    without = sorted(models - set(ratios), key=model_key)
    placed = "in I, J: attention kept in these layers; " * any(part["label"].map(is_placement).any() for part in shown)
    names = {_as_fast_as(label) for part in shown for label in part["label"]}
    lines = [_where(speeds), f"scores: mean ± standard deviation; {placed}named: beaten by none", *_depths(results, speeds)]
    _finish(figure, "\n".join([title, *(textwrap.fill(line, 105) for line in lines)]), names, handles=_marks(shown), columns=5, size=9)
    if without:
        figure.legends[0].set_title(textwrap.fill(f"Not shown, for their speed was not measured: {', '.join(without)}.", 110), prop={"size": 8})
    figure.draw_without_rendering()  # labels are placed where the points end up
    for axis, of_panel in zip(axes, points):
        _place(axis, of_panel)
    return figure


def _minutes(label: str) -> float:
    found = re.search(r"@([\d.]+)min", label)
    return float(found[1]) if found else 0.0


def _budget(label: str) -> str:
    """`fnet@2min+task+edits` -> `2 min, edits`; `hybrid-at-1-4@2min` -> `in 1, 4: 2 min`; of several options the first."""
    minutes, *more = re.search(r"@([\d.]+)min(?:\S*\+(\w+))?(?: \[(?:adapt: )?(?:method=)?([^,\]]+).*\])?", label).groups()
    placed = PLACED.match(label)
    where = f"in {', '.join(re.findall(r'[0-9]+', placed[1]))}: " if placed else ""
    return where + ", ".join([f"{float(minutes):.2g} min", *(part for part in more if part not in (None, "distill"))])


def _as_fast_as(label: str) -> str:
    """The recipe whose speed a label's model has: of `hybrid-at-1-4+gated` `hybrid-2+gated`."""
    return PLACED.sub(lambda found: f"hybrid-{len(re.findall('[0-9]+', found[1]))}", recipe_of(label))


def _one_placement(group: pd.DataFrame) -> pd.DataFrame:
    """Without the labels of all placements but the best of as many layers and the same mixer, and of those no better than `hybrid-K`'s best."""
    means, of = group.set_index("label")["mean"].astype(float), group.set_index("label").index.map(_as_fast_as)
    placed = group["label"].map(is_placement).to_numpy()
    best = {name: means[(of == name) & placed].idxmax() for name in set(of[placed])}
    best = {name: label for name, label in best.items() if not means[label] <= means[(of == name) & ~placed].max()}
    return group[~placed | group["label"].isin(best.values())]


def _chosen(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Of each task the recipe and teacher with most models."""
    wanted = table[table["training"].isin(RECIPES)]
    wanted = wanted if len(wanted) else table[table["training"] == (table["training"].iloc[0] if len(table) else "")]
    return [max((group for _, group in part.groupby(GROUP, sort=False, dropna=False)), key=len)
            for _, part in wanted.groupby("task", sort=False)]


def _speeds(results: Results, models: set[str], length: int) -> pd.DataFrame:
    data = on_one_device(beside_bert(results, main_shape(results.efficiency)), models)
    data = data[data["model"].isin(models)]
    nearest = min(data["length"], key=lambda n: abs(math.log(n / length)), default=length)
    return data[data["length"] == nearest]


def _where(speeds: pd.DataFrame) -> str:
    first, (usual, *others) = speeds.iloc[0], speeds["mode"].value_counts().index
    named = [f"{mode}: {', '.join(sorted(speeds['model'][speeds['mode'] == mode], key=model_key))}" for mode in others]
    modes = "; ".join([usual, *named])
    return f"speed: {first['shape']}, {first['length']} tokens, {SUMMARISED[first['where']]}, {first['device_name']}; mode {modes}"


def _depths(results: Results, speeds: pd.DataFrame) -> list[str]:
    """Where speeds are of more or fewer layers than scores: that a hybrid's K layers are not the same share of them."""
    depth, layers = scored_depth(results), parse_shape(speeds["shape"].iloc[0])[0]
    if not speeds["model"].str.startswith("hybrid").any() or depth in (None, layers):
        return []
    return [f"a hybrid-K keeps K of {layers} layers where its speed is measured, of {depth} where its scores are: as large a share would be "
            f"{'slower' if layers > depth else 'faster'}"]


def _draw(axis: Axes, group: pd.DataFrame, ratios: dict[str, float]) -> list[tuple[float, float, float, str, str]]:
    """The points of a panel and the line of the best; returns (x, y, spread, name, colour) of each point, the name empty where it is not
    among the best."""
    points, group = [], group.assign(model=group["label"].map(_as_fast_as), minutes=group["label"].map(_minutes))
    group = group.assign(speed=group["model"].map(ratios).astype(float), mean=group["mean"].astype(float))
    best = _best(group)
    edge = group.loc[best].sort_values("speed")
    axis.plot(edge["speed"], edge["mean"], color="#777777", lw=0.8, zorder=0)
    for model, part in group.groupby("model", sort=False):
        axis.plot(part["speed"], part["mean"], color=colour(model), lw=0.8, alpha=0.6, zorder=1)
    for cell in group.itertuples():
        spread, ink = 0.0 if pd.isna(cell.sd) else cell.sd, colour(cell.model)
        axis.errorbar(cell.speed, cell.mean, yerr=spread, marker=_marker(cell.label), ms=_size(cell.n), color=ink, mfc=_fill(cell.label),
                      elinewidth=0.6, alpha=1 if cell.Index in best else 0.7)
        points.append((cell.speed, cell.mean, spread, _name(cell) if cell.Index in best else "", ink))
    axis.axhline(group["chance"].dropna().max(), color="#777777", lw=1, ls="--", zorder=0)
    bert = group[group["label"] == "bert"]["mean"]
    if len(bert):
        axis.axhline(bert.iloc[0], color="#000000", lw=1, ls=":", zorder=0)
    training, teacher = group["training"].iloc[0], str(group["teacher"].iloc[0]).split("/")[-1]
    axis.set_title(f"{task_title(group['task'].iloc[0], group['note'])}: recipe {training}, teacher {teacher}", fontsize=9)
    axis.set(xlabel="training speed, × BERT", ylabel=metric_title(group["metric"]))
    axis.margins(x=0.22, y=0.08)
    return points


def _best(group: pd.DataFrame) -> list[Any]:
    """Index of the points that no other beats: a better score at no less speed, where a hundredth or two is none."""
    return [cell.Index for cell in group.itertuples()
            if not ((group["mean"] > cell.mean) & (group["speed"] >= SAME_SPEED * cell.speed)).any()]


def _name(cell: Any) -> str:
    """`fnet`, or where it was adapted `fnet, 2 min`; without the settings that tell it from others of its kind."""
    return f"{cell.model}, {_budget(cell.label.split(' [')[0])}" if cell.minutes else cell.label


def _marker(label: str) -> str:
    return "^" if "+task" in label else "o"


def _size(seeds: int) -> float:
    return 6 if seeds >= FEWEST_PAIRS else 3.5


def _marks(shown: list[pd.DataFrame]) -> list[Line2D]:
    """What the markers mean, of those that are there."""
    cells = pd.concat(shown)
    kinds = [("o", 6, "#555555", "from the teacher", True), ("o", 6, "white", "after minutes of adaptation", True),
             ("^", 6, "white", "and its task distilled", cells["label"].str.contains("+task", regex=False).any()),
             ("o", _size(1), "#555555", f"fewer than {FEWEST_PAIRS} seeds", cells["n"].lt(FEWEST_PAIRS).any())]
    marks = [Line2D([], [], color="#555555", marker=marker, ls="", ms=size, mfc=fill, label=word) for marker, size, fill, word, there in kinds if there]
    return [*marks, Line2D([], [], color="#777777", lw=0.8, label="beaten by none"),
            Line2D([], [], color="#000000", lw=1, ls=":", label="BERT"), Line2D([], [], color="#777777", lw=1, ls="--", label="chance")]
