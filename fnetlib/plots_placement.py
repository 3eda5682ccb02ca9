"""Where attention stays: what each placement scores, against how far its student's states are from the teacher's."""

from __future__ import annotations

from matplotlib.figure import Figure

from .plots import _empty, _finish, _panels, colour
from .results import GROUP, Results, metric_title, tagged
from .tables import NONE
from .tables_placement import FEWEST, frame, rank_correlation


def figure(results: Results) -> Figure:
    """Score (mean ± sd) against the states' mean error before fine-tuning, a panel a task and number of layers; a point a placement."""
    title = tagged("Where attention stays: score against the distance to the teacher's states before fine-tuning", results.tag)
    data = frame(results).dropna(subset=["error"])
    groups = [(key, part) for key, part in data.groupby([*GROUP, "count", "minutes", "task"], sort=False) if len(part) >= FEWEST]
    if not groups:
        return _empty(title, f"needs {FEWEST} placements of one task that were distilled alike")
    made, axes = _panels(len(groups), 2, height=3.2)
    for axis, ((training, teacher, count, minutes, _), part) in zip(axes, groups):
        ink = colour(f"hybrid-{count}")
        axis.errorbar(part["error"].astype(float), part["mean"], yerr=part["sd"].fillna(0), fmt="o", ms=5, lw=1, capsize=2, color=ink)
        for r in part.itertuples():
            right = r.error > part["error"].mean()  # names point inwards
            axis.annotate(r.layers + f" ({r.placement})" * (r.placement != NONE), (r.error, r.mean), xytext=(-5 if right else 5, 3),
                          textcoords="offset points", fontsize=7, ha="right" if right else "left")
        ranks = rank_correlation(part)
        axis.set_title(f"{part['task_title'].iloc[0]}, {count} layers of attention, {minutes:g} minutes" + (f", ρ {ranks:.2f}" if ranks is not None else ""),
                       fontsize=9)
        axis.set(xlabel="mean error of the states, share of the variance", ylabel=metric_title(part["metric"]))
        axis.margins(x=0.15)
    return _finish(made, title, handles=[])
