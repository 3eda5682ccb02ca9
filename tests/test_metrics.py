"""GLUE's metrics against scikit-learn and scipy, on random predictions."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from fnetlib.metrics import GlueMetric, chance
from fnetlib.tasks import TASKS

CLASSIFICATION = [name for name, task in TASKS.items() if not task.regression]


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_classification_metrics(name):
    rng = np.random.default_rng(0)
    labels = TASKS[name].num_labels
    references, predictions = rng.integers(0, labels, 200), rng.integers(0, labels, 200)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(references, predictions),
        "matthews_correlation": sklearn.metrics.matthews_corrcoef(references, predictions),
    }
    if labels == 2:
        expected["f1"] = sklearn.metrics.f1_score(references, predictions)
    found = GlueMetric(name).compute(predictions=predictions, references=references)
    assert found == pytest.approx({m: expected[m] for m in TASKS[name].metrics})


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(3, 60))
def test_regression_metrics(seed, size):
    rng = np.random.default_rng(seed)
    references, predictions = rng.uniform(0, 5, size), rng.normal(size=size)
    found = GlueMetric("stsb").compute(predictions=predictions, references=references)
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(predictions, references).statistic, abs=1e-5)
    assert found["spearmanr"] == pytest.approx(scipy.stats.spearmanr(predictions, references).statistic, abs=1e-5)


def test_metrics_are_glues():
    assert TASKS["cola"].headline == "matthews_correlation"
    assert TASKS["stsb"].metrics == ("pearson", "spearmanr") and TASKS["stsb"].regression
    assert set(TASKS["mrpc"].metrics) == set(TASKS["qqp"].metrics) == {"f1", "accuracy"}
    assert TASKS["mnli"].validation == ("validation_matched", "validation_mismatched")
    assert all(TASKS[n].metrics == ("accuracy",) for n in ("sst2", "mnli", "qnli", "rte", "wnli"))


def test_degenerate_predictions_score_zero_correlation():
    constant = np.zeros(10)
    assert GlueMetric("stsb").compute(predictions=constant, references=np.linspace(0, 5, 10))["pearson"] == 0
    assert GlueMetric("cola").compute(predictions=constant.astype(int), references=[0, 1] * 5)["matthews_correlation"] == 0


def test_chance_is_the_best_constant_predictor():
    references = np.array([1] * 7 + [0] * 3)
    assert chance(TASKS["rte"], references) == pytest.approx(0.7)
    assert chance(TASKS["cola"], references) == 0.0
    assert chance(TASKS["stsb"], references.astype(float)) == 0.0
    assert chance(TASKS["mrpc"], references) == pytest.approx(sklearn.metrics.f1_score(references, np.ones(10)))
