"""Does a fine-tuned model's score depend on how far its examples are padded? It must not, and naive mixing's does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

NO_PADDING = 0


@torch.no_grad()
def logits_padded_to(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, at_least: int,
                     batch_size: int = 64) -> np.ndarray:
    """Logits `[examples, labels]` with every example padded to exactly max(its own length, at_least) tokens.

    examples: tokenised, `input_ids` and so on. Batches hold examples of one padded length, so none is padded further.
    """
    model.eval()
    names = [name for name in examples.column_names if name in tokenizer.model_input_names]
    rows = [dict(zip(names, values)) for values in zip(*(examples[name] for name in names))]
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(max(len(row["input_ids"]), at_least), []).append(i)
    found: dict[int, np.ndarray] = {}
    for length, members in groups.items():
        for start in range(0, len(members), batch_size):
            part = members[start:start + batch_size]
            batch = tokenizer.pad([rows[i] for i in part], padding="max_length", max_length=length, return_tensors="pt")
            logits = model(**batch.to(model.device)).logits
            found |= zip(part, logits.float().cpu().numpy())
    return np.stack([found[i] for i in range(len(rows))])


def score_by_padding(predict, score, lengths: list[int]) -> list[dict[str, Any]]:
    """The score without padding and with every example padded to at least each length.

    predict: length -> predictions `[examples]`; score: predictions -> float. Returns {padded_to, score, changed}:
    `changed` counts the predictions that differ from those without any padding (padded_to 0).
    """
    own = predict(NO_PADDING)
    rows = [{"padded_to": NO_PADDING, "score": score(own), "changed": 0}]
    for length in lengths:
        padded = predict(length)
        rows.append({"padded_to": length, "score": score(padded), "changed": int((padded != own).sum())})
    return rows
