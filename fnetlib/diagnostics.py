"""What the swap does to a BERT's hidden states, before any training: the causes of the naive swap's failure."""

from __future__ import annotations

import pandas as pd
import torch
from torch.nn.functional import cosine_similarity, pad

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


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Linear centred kernel alignment of `[tokens, a]` and `[tokens, b]`, 0 to 1 (Kornblith 2019, section 3).

    Unlike the cosine it does not see rotations and scalings: whether the tokens' geometry survives, in any basis.
    """
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    cross, own_x, own_y = ((a.T @ b).norm() for a, b in ((x, y), (x, x), (y, y)))
    return float(cross**2 / (own_x * own_y))


@torch.no_grad()
def swap_effects(teacher: Teacher, recipes: list[str], batch: Batch, extra_padding: int = 16) -> pd.DataFrame:
    """Per recipe and layer, on `batch` (`[batch, seq]` tensors), without any training:

    branch_ratio: RMS of what the mixing sub-layer adds over RMS of the residual stream it adds to, on the student's
    own states; cosine: mean over tokens of the cosine to the teacher's state after that layer; cka: linear centred
    kernel alignment with it; padding_shift: largest change of any unit of that state when `extra_padding` padding tokens
    are added (states are LayerNorm outputs).
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
                "cka": linear_cka(own[number + 1], target[number + 1]),
                "padding_shift": float((own[number + 1] - padded[number + 1]).abs().max()),
            })
    return pd.DataFrame(rows)
