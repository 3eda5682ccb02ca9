"""Statistics over a handful of seeds: mean, spread, bootstrap intervals, paired differences, recovery.

Everything returns None where the data cannot say: a spread of one run is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Summary:
    """`low` and `high` bound the mean: a percentile bootstrap interval, which is too narrow for very few seeds."""

    mean: float | None
    sd: float | None
    n: int
    low: float | None
    high: float | None


def known(values: Iterable[float | None]) -> np.ndarray:
    """The finite values: a run that failed or diverged has no score, and none is invented for it."""
    array = np.array([math.nan if value is None else float(value) for value in values], dtype=float)
    return array[np.isfinite(array)]


def summarise(values: Iterable[float | None], level: float = LEVEL) -> Summary:
    """Mean, sample standard deviation (n - 1) and bootstrap interval of the mean; the resampling is seeded."""
    x = known(values)
    if len(x) < 2:
        return Summary(float(x[0]) if len(x) else None, None, len(x), None, None)
    found = stats.bootstrap((x,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="percentile",
                            random_state=np.random.default_rng(0)).confidence_interval
    return Summary(float(x.mean()), float(x.std(ddof=1)), len(x), float(found.low), float(found.high))


def paired(ours: pd.Series, theirs: pd.Series, level: float = LEVEL) -> Summary:
    """Differences ours - theirs at the seeds (the index) that both have a score for."""
    return summarise(ours.astype(float).sub(theirs.astype(float)).dropna(), level)


def recovery(score: float | None, bert: float | None, chance: float | None) -> float | None:
    """The share of BERT's lead over the best constant predictor that is kept: 1 is BERT, 0 is chance.

    None where BERT itself does not beat chance: there is nothing to recover.
    """
    if score is None or bert is None or chance is None or bert <= chance:
        return None
    return (score - chance) / (bert - chance)


def prediction_interval(values: Iterable[float | None], level: float = LEVEL) -> tuple[float, float] | None:
    """Where one more run of the same thing would fall (normal scores, unknown spread); None below two values."""
    x = known(values)
    if len(x) < 2:
        return None
    half = stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) * math.sqrt(1 + 1 / len(x))
    return float(x.mean() - half), float(x.mean() + half)


def agreement(published: float, values: Iterable[float | None], digits: int = 4) -> str:
    """Whether a published single run could be one more of ours: `agrees`, `above`, `below`, or why it is unknown.

    `digits` are the decimals it was published with: half a unit of the last one counts as equal.
    """
    interval = prediction_interval(values)
    if interval is None:
        return "unknown (needs two runs)"
    rounding = 0.5 * 10.0**-digits
    if published > interval[1] + rounding:
        return "published is above"
    return "published is below" if published < interval[0] - rounding else "agrees"
