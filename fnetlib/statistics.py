"""Statistics over a handful of seeds: mean, spread, bootstrap intervals, paired differences, tests, recovery, shares.

Everything returns None where the data cannot say: a spread of one run is None, never 0.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9999
ALPHA = 0.05  # what is called significant


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


def spread(values: Iterable[float | None]) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation (n - 1) and n."""
    x = known(values)
    return float(x.mean()) if len(x) else None, float(x.std(ddof=1)) if len(x) > 1 else None, len(x)


def summarise(values: Iterable[float | None], level: float = LEVEL) -> Summary:
    """Mean, sample standard deviation (n - 1) and bootstrap interval of the mean; the resampling is seeded."""
    values = list(values)
    x, (mean, sd, n) = known(values), spread(values)
    if n < 2:
        return Summary(mean, sd, n, None, None)
    return Summary(mean, sd, n, *_bounds(tuple(x), level))


@functools.lru_cache(maxsize=4096)  # many tables show the same runs
def _bounds(values: tuple[float, ...], level: float) -> tuple[float, float]:
    found = stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="percentile",
                            random_state=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)


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


def paired_recovery(ours: pd.Series, bert: pd.Series, chance: float | None, level: float = LEVEL) -> Summary:
    """`recovery` of the means at the seeds (the index) that both have a score for, and its bootstrap interval: whole pairs
    are drawn. `sd` is None; all but n is where BERT does not beat chance."""
    pairs = pd.DataFrame({"ours": ours.astype(float), "bert": bert.astype(float)}).dropna()
    share = recovery(pairs["ours"].mean(), pairs["bert"].mean(), chance) if len(pairs) else None
    if share is None or len(pairs) < 2:
        return Summary(share, None, len(pairs), None, None)

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return (a.mean(axis) - chance) / (b.mean(axis) - chance)

    found = stats.bootstrap((pairs["ours"], pairs["bert"]), ratio, n_resamples=RESAMPLES, confidence_level=level, paired=True,
                            method="percentile", vectorized=True, random_state=np.random.default_rng(0)).confidence_interval
    return Summary(share, None, len(pairs), float(found.low), float(found.high))


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


def t_test(differences: Iterable[float | None]) -> float | None:
    """Two-sided p of the t-test that the mean difference is 0 (paired, if these are pairs' differences).

    None below two values. Differences that are all equal have no spread: p is 1 if they are 0, else 0.
    """
    x = known(differences)
    if len(x) < 2:
        return None
    if np.ptp(x) <= 1e-12:
        return float(abs(x.mean()) <= 1e-12)
    return float(stats.ttest_1samp(x, 0.0).pvalue)


def holm(ps: Iterable[float | None]) -> list[float | None]:
    """Holm's step-down correction of the p values that there are: any false finding at all has the chance ALPHA."""
    ps = list(ps)
    tested = sorted((i for i, p in enumerate(ps) if p is not None), key=lambda i: ps[i])
    found, floor = [None] * len(ps), 0.0
    for rank, i in enumerate(tested):
        floor = max(floor, min(1.0, (len(tested) - rank) * ps[i]))
        found[i] = floor
    return found


def verdict(p: float | None) -> str:
    """`significant` at ALPHA, `not significant`, or `not testable` where there is no p."""
    return "not testable" if p is None or math.isnan(p) else "significant" if p < ALPHA else "not significant"


def shapley(values: Mapping[frozenset, float], players: Collection[str]) -> dict[str, float] | None:
    """Each player's marginal contribution, averaged over all orders of joining (Shapley 1953).

    values: a number for every subset of the players, or nothing comes of it (None). The shares add up to what all
    players together change.
    """
    subsets = [frozenset(c) for size in range(len(players) + 1) for c in itertools.combinations(players, size)]
    if not all(subset in values for subset in subsets):
        return None
    orders = math.factorial(len(players))
    shares = dict.fromkeys(players, 0.0)
    for subset in subsets:
        weight = math.factorial(len(subset)) * math.factorial(max(len(players) - len(subset) - 1, 0)) / orders
        for player in set(players) - subset:
            shares[player] += weight * (values[subset | {player}] - values[subset])
    return shares
