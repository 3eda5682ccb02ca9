"""Figures about why the naive swap fails and what repairs it."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from .plots import colour

PANELS = {
    "branch_ratio": ("Mixing branch / residual stream (RMS)", "log"),
    "cosine": ("Cosine to the teacher's state", "linear"),
    "cka": ("CKA with the teacher's states", "linear"),
    "padding_shift": ("Largest change under extra padding", "symlog"),
}


def swap_figure(effects: pd.DataFrame, title: str = "What the swap does to the hidden states") -> Figure:
    """One panel a measure, one line a recipe, layers along the x axis."""
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    for axis, (column, (name, scale)) in zip(figure.subplots(1, len(PANELS)), PANELS.items()):
        for recipe, part in effects.groupby("model", sort=False):
            axis.plot(part["layer"], part[column], marker="o", markersize=4, label=recipe, color=colour(recipe))
        axis.set_yscale(scale, **({"linthresh": 1e-4} if scale == "symlog" else {}))
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("layer")
        axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def swap_in_words(effects: pd.DataFrame) -> str:
    """The figure in numbers: one line a recipe."""
    lines = []
    for recipe, part in effects.groupby("model", sort=False):
        low, high = part["branch_ratio"].min(), part["branch_ratio"].max()
        lines.append(
            f"{recipe}: the mixing branch is {low:.3g} to {high:.3g} times the residual stream; the last layer's states "
            f"have cosine {part['cosine'].iloc[-1]:.3f} to the teacher's; extra padding moves a unit by up to "
            f"{part['padding_shift'].max():.2g}")
    return "\n".join(lines)
