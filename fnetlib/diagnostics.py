"""What the swap does to a BERT's hidden states, before any training: the causes of the naive swap's failure."""

from __future__ import annotations

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch.nn.functional import cosine_similarity, pad

from .plots import colour
from .teacher import Teacher
from .transfer import branches, build_student, rms

Batch = dict[str, torch.Tensor]


@torch.no_grad()
def states(model, batch: Batch) -> list[torch.Tensor]:
    """Hidden states of real tokens, embedding output first: one `[tokens, hidden]` a layer."""
    base = getattr(model, "bert", model).eval()
    real = batch["attention_mask"].bool()
    return [h[real] for h in base(**batch, output_hidden_states=True).hidden_states]


def pad_batch(batch: Batch, extra: int) -> Batch:
    """The same examples with `extra` more padding tokens (id 0, mask 0) at the end."""
    return {name: pad(tensor, (0, extra)) for name, tensor in batch.items()}


@torch.no_grad()
def swap_effects(teacher: Teacher, recipes: list[str], batch: Batch, extra_padding: int = 16) -> pd.DataFrame:
    """Per recipe and layer, on `batch` (`[batch, seq]` tensors), without any training:

    branch_ratio: RMS of what the mixing sub-layer adds over RMS of the residual stream it adds to, on the student's
    own states; cosine: mean over tokens of the cosine to the teacher's state after that layer; padding_shift: largest
    change of any unit of that state when `extra_padding` padding tokens are added (states are LayerNorm outputs).
    """
    reference, _ = build_student(teacher, "bert", head="none")
    target, rows = states(reference, batch), []
    for recipe in recipes:
        student, _ = build_student(teacher, recipe, head="none", batch=batch)
        own, padded = states(student, batch), states(student, pad_batch(batch, extra_padding))
        for number, part in enumerate(branches(student, batch)):
            rows.append({
                "model": recipe, "layer": number, "branch_ratio": rms(part["branch"]) / rms(part["residual"]),
                "cosine": float(cosine_similarity(own[number + 1], target[number + 1], dim=-1).mean()),
                "padding_shift": float((own[number + 1] - padded[number + 1]).abs().max()),
            })
    return pd.DataFrame(rows)


PANELS = {
    "branch_ratio": ("Mixing branch / residual stream (RMS)", "log"),
    "cosine": ("Cosine to the teacher's state", "linear"),
    "padding_shift": ("Largest change under extra padding", "symlog"),
}


def swap_figure(effects: pd.DataFrame, title: str = "What the swap does to the hidden states") -> Figure:
    """One panel a measure, one line a recipe, layers along the x axis."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
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


def in_words(effects: pd.DataFrame) -> str:
    """The figure in numbers: one line a recipe."""
    lines = []
    for recipe, part in effects.groupby("model", sort=False):
        low, high = part["branch_ratio"].min(), part["branch_ratio"].max()
        lines.append(
            f"{recipe}: the mixing branch is {low:.3g} to {high:.3g} times the residual stream; the last layer's states "
            f"have cosine {part['cosine'].iloc[-1]:.3f} to the teacher's; extra padding moves a unit by up to "
            f"{part['padding_shift'].max():.2g}")
    return "\n".join(lines)
