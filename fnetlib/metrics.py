"""GLUE's metrics as a local `evaluate` module on scikit-learn and scipy: no Hub needed."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from .tasks import TASKS, Task


def _correlation(measure, references, predictions) -> float:
    """0 where the predictions are constant: correlation is undefined there, and nothing was learned."""
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    return float(measure(predictions, references).statistic)


METRICS = {
    "accuracy": lambda references, predictions: float(accuracy_score(references, predictions)),
    "f1": lambda references, predictions: float(f1_score(references, predictions, zero_division=0)),
    "matthews_correlation": lambda references, predictions: float(matthews_corrcoef(references, predictions)),
    "pearson": lambda references, predictions: _correlation(stats.pearsonr, references, predictions),
    "spearmanr": lambda references, predictions: _correlation(stats.spearmanr, references, predictions),
}


class GlueMetric(evaluate.Metric):
    """The metrics of one GLUE task, named as `evaluate`'s own `glue` module names them."""

    def __init__(self, task: str, **kwargs):
        super().__init__(config_name=task, keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        kind = datasets.Value("float32" if TASKS[self.config_name].regression else "int64")
        return evaluate.MetricInfo(
            description="GLUE's metrics (Wang 2018, table 1)", citation="arXiv 1804.07461",
            inputs_description="predictions and references: class numbers, or scores for stsb",
            features=datasets.Features({"predictions": kind, "references": kind}), format="numpy")

    def _compute(self, predictions, references) -> dict[str, float]:
        return {name: METRICS[name](references, predictions) for name in TASKS[self.config_name].metrics}


def chance(task: Task, references: np.ndarray) -> float:
    """The headline metric of the best constant predictor: the majority class' accuracy or F1, 0 for correlations."""
    if task.headline not in ("accuracy", "f1"):
        return 0.0
    return max(METRICS[task.headline](references, np.full_like(references, label)) for label in np.unique(references))
