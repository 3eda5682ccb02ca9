"""Where attention stays: what each placement scores, against how far its student's states are from the teacher's."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .plots import _empty, _finish, _panels, _place, colour
from .results import GROUP, Results, metric_title, tagged
from .tables import NONE
from .tables_placement import FEWEST, frame, rank_correlation

MAPPED = 10  # pairs of layers that make a map


def figure(results: Results) -> Figure:
    """Score (mean ± sd) against the states' mean error before fine-tuning, a panel a task and number of layers; a point a placement.
    Of many pairs of layers a map too."""
    title = tagged("Where attention stays: score against the distance to the teacher's states before fine-tuning", results.tag)
    data = frame(results).dropna(subset=["error"])
    groups = [part for _, part in data.groupby([*GROUP, "count", "minutes", "task"], sort=False) if len(part) >= FEWEST]
    if not groups:
        return _empty(title, f"needs {FEWEST} placements of one task that were distilled alike")
    maps = [part for part in groups if part["count"].iloc[0] == 2 and len(part) >= MAPPED]
    made, axes = _panels(len(groups) + len(maps), 2, height=3.2)
    points = [_scatter(axis, part) for axis, part in zip(axes, groups)]
    for axis, part in zip(axes[len(groups):], maps):
        _map(axis, part)
    _finish(made, title, handles=[])
    made.draw_without_rendering()  # names are placed where the points end up
    for axis, of_panel in zip(axes, points):
        _place(axis, of_panel)
    return made


def _title(part: pd.DataFrame, more: str = "") -> str:
    return f"{part['task_title'].iloc[0]}, {part['count'].iloc[0]} layers of attention, {part['minutes'].iloc[0]:g} minutes{more}"


def _scatter(axis: Axes, part: pd.DataFrame) -> list[tuple[float, float, float, str, str]]:
    """Its points with their names, for `plots._place`."""
    ink, ranks, spread = colour(f"hybrid-{part['count'].iloc[0]}"), rank_correlation(part), part["sd"].fillna(0)
    axis.errorbar(part["error"].astype(float), part["mean"], yerr=spread, fmt="o", ms=5, lw=0.7, color=ink)
    axis.set_title(_title(part, f", ρ {ranks:.2f}" if ranks is not None else ""), fontsize=9)
    axis.set(xlabel="mean error of the states, share of the variance", ylabel=metric_title(part["metric"]))
    axis.margins(x=0.15, y=0.08)
    names = part["layers"] + [f" ({named})" * (named != NONE) for named in part["placement"].str.replace(" and ", ", ")]
    return list(zip(part["error"].astype(float), part["mean"], spread, names, [ink] * len(part)))


def _map(axis: Axes, part: pd.DataFrame) -> None:
    """The score of every pair of layers, the lower one down the side."""
    pairs = [tuple(map(int, layers.split(", "))) for layers in part["layers"]]
    depth = 1 + max(map(max, pairs))
    scores = np.full((depth, depth), np.nan)
    for (low, high), score in zip(pairs, part["mean"]):
        scores[low, high] = score
    axis.imshow(np.ma.masked_invalid(scores[:-1, 1:]), cmap="YlGn", aspect="auto")
    middle = (np.nanmin(scores) + np.nanmax(scores)) / 2
    for low, high in pairs:
        dark = scores[low, high] > middle + (np.nanmax(scores) - middle) / 2
        axis.text(high - 1, low, f"{scores[low, high]:.3f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axis.set_xticks(range(depth - 1), range(1, depth))
    axis.set_yticks(range(depth - 1), range(depth - 1))
    axis.grid(False)
    axis.set(xlabel="the other layer with attention", ylabel="one layer with attention")
    axis.set_title(_title(part, f": {metric_title(part['metric'])}"), fontsize=9)
