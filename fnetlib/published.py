"""What the 2023 study published, as data, so that our tables can stand beside it.

Source: github.com/Joqsan/bert-vs-fnet (2023). bert-base-uncased against the same model with attention replaced by an
unnormalised 2-D Fourier transform (our recipe `fnet-naive`), GLUE validation sets, learning rate 2e-5 linear,
5 epochs, batch 16, weight decay 0.01, one seed (42), values after the last epoch, fp32, one Colab GPU.
"""

from __future__ import annotations

import pandas as pd

SOURCE = "https://github.com/Joqsan/bert-vs-fnet"
TEACHER = "bert-base-uncased"
TRAINING = "study"  # our name of its training recipe
SEED = 42

_COLUMNS = ["task", "model", "metric", "score", "digits", "train_steps_per_s", "train_runtime_s",
            "eval_samples_per_s", "flops", "train_loss", "eval_loss"]
_ROWS = [
    ("cola", "bert", "matthews_correlation", 0.5580, 4, 8.449, 316.6, 762.8, 4.555e14, 0.2273, 0.8711),
    ("qnli", "bert", "accuracy", 0.9156, 4, 3.548, 9227.0, 175.8, 2.407e16, 0.1523, 0.5563),
    ("rte", "bert", "accuracy", 0.6570, 4, 1.919, 406.4, 95.4, 1.047e15, 0.3968, 1.0747),
    ("cola", "fnet-naive", "matthews_correlation", 0.0000, 4, 11.000, 243.2, 998.8, 3.424e14, 0.6132, 0.6197),
    ("qnli", "fnet-naive", "accuracy", 0.6010, 4, 4.687, 6984.6, 235.3, 1.809e16, 0.6659, 0.6622),
    ("rte", "fnet-naive", "accuracy", 0.4838, 4, 2.526, 308.7, 126.5, 7.871e14, 0.7003, 0.6932),
]


def study() -> pd.DataFrame:
    """One row per (task, model): score, speeds, FLOs and final losses (train: the mean over the whole run)."""
    return pd.DataFrame(_ROWS, columns=_COLUMNS)


def study_ratios() -> pd.DataFrame:
    """Per task, `fnet-naive` over `bert`: how many times the steps and samples per second, and the FLOs."""
    columns = ["train_steps_per_s", "eval_samples_per_s", "flops"]
    by_model = study().set_index(["model", "task"])[columns]
    return by_model.loc["fnet-naive"] / by_model.loc["bert"]
