"""statistics.py against numpy and scipy, and properties that must hold for any scores."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fnetlib import published
from fnetlib.statistics import (
    agreement, holm, paired, prediction_interval, recovery, shapley, spread, summarise, t_test, verdict,
)

scores = st.floats(-1, 1, allow_nan=False, width=32)


def test_summary_is_numpys_mean_and_sample_deviation_and_scipys_bootstrap():
    x = np.array([0.31, 0.35, 0.29, 0.33, 0.40])
    found = summarise(x)
    reference = stats.bootstrap((x,), np.mean, n_resamples=9999, method="percentile", random_state=1).confidence_interval
    assert (found.mean, found.sd, found.n) == (pytest.approx(x.mean()), pytest.approx(x.std(ddof=1)), 5)
    assert found.low == pytest.approx(reference.low, abs=0.003)
    assert found.high == pytest.approx(reference.high, abs=0.003)
    assert summarise(x) == found  # seeded: the same records give the same table


def test_one_run_has_no_spread_and_none_has_no_mean():
    one = summarise([0.4])
    assert (one.mean, one.sd, one.n, one.low, one.high) == (0.4, None, 1, None, None)
    assert summarise([None, math.nan]) == summarise([])
    assert summarise([]).mean is None and summarise([]).n == 0


def test_runs_without_a_score_are_left_out_not_counted_as_zero():
    found = summarise([0.5, None, 0.7, math.nan, math.inf])
    assert found.n == 2 and found.mean == pytest.approx(0.6)


@given(st.lists(scores, min_size=2, max_size=6))
@settings(max_examples=25, deadline=None)
def test_interval_holds_the_mean_and_lies_within_the_scores(values):
    found = summarise(values)
    slack = 1e-6
    assert min(values) - slack <= found.low <= found.mean + slack
    assert found.mean - slack <= found.high <= max(values) + slack


def test_pairing_uses_common_seeds_only_and_removes_what_seeds_share():
    ours, theirs = pd.Series({1: 0.5, 2: 0.6, 3: 0.9}), pd.Series({2: 0.5, 1: 0.4, 4: 0.0})
    found = paired(ours, theirs)
    assert found.n == 2 and found.mean == pytest.approx(0.1) and found.sd == pytest.approx(0, abs=1e-12)
    assert paired(ours, pd.Series({7: 1.0})).n == 0


@given(scores, scores, scores)
def test_recovery_is_one_at_bert_zero_at_chance_and_undefined_where_bert_learned_nothing(score, bert, chance):
    found = recovery(score, bert, chance)
    if bert <= chance:
        assert found is None
    else:
        assert recovery(bert, bert, chance) == 1 and recovery(chance, bert, chance) == 0
        assert found * (bert - chance) == pytest.approx(score - chance, abs=1e-6)


def test_recovery_of_unknown_parts_is_unknown():
    assert recovery(None, 0.5, 0.0) is None and recovery(0.2, None, 0.0) is None and recovery(0.2, 0.5, None) is None


def test_prediction_interval_is_the_t_interval_of_one_more_run():
    x = [0.55, 0.57, 0.56, 0.58]
    low, high = prediction_interval(x)
    half = stats.t(df=3).ppf(0.975) * np.std(x, ddof=1) * math.sqrt(5 / 4)
    assert (low, high) == (pytest.approx(np.mean(x) - half), pytest.approx(np.mean(x) + half))
    assert prediction_interval([0.5]) is None


def test_agreement():
    x = [0.55, 0.57, 0.56]
    assert agreement(0.5580, x) == "agrees"
    assert agreement(0.70, x) == "published is above" and agreement(0.40, x) == "published is below"
    assert agreement(0.0, [0.0, 0.0, 0.0]) == "agrees"  # a collapsed model, without spread
    assert agreement(0.0001, [0.00006, 0.00006]) == "agrees"  # equal in the four decimals published
    assert agreement(0.5, [0.5]).startswith("unknown")


def test_spread_is_the_summary_without_its_interval():
    assert spread([0.1, None, 0.3]) == (pytest.approx(0.2), pytest.approx(math.sqrt(0.02)), 2)
    assert spread([0.1]) == (0.1, None, 1) and spread([None]) == (None, None, 0)


def test_t_test_of_differences_is_scipys_paired_test():
    ours, theirs = np.array([0.31, 0.35, 0.29, 0.33]), np.array([0.30, 0.31, 0.29, 0.27])
    assert t_test(ours - theirs) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert t_test([*(ours - theirs), None, math.nan]) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert t_test([0.1]) is None and t_test([]) is None


def test_t_test_of_equal_differences_does_not_divide_by_zero():
    assert t_test([0.0, 0.0, 0.0]) == 1 and t_test([0.2, 0.2, 0.2]) == 0
    assert t_test([0.1 + 0.2, 0.3]) == 0  # equal but for rounding
    assert 0 < t_test([0.1, -0.1]) <= 1


def test_holm_by_hand():
    """Holm 1979: the smallest of three times 3, the next times 2, the last times 1, and never falling."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, None, 0.5, 0.9]) == [pytest.approx(0.06), None, 1.0, 1.0]
    assert holm([0.04]) == [0.04] and holm([None]) == [None] and holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_keeps_the_order_and_only_raises(ps):
    found = holm(ps)
    assert all(p <= corrected <= 1 for p, corrected in zip(ps, found))
    assert [found[i] for i in np.argsort(ps, kind="stable")] == sorted(found)


def test_verdicts():
    assert [verdict(p) for p in (0.049, 0.05, None, math.nan)] == [
        "significant", "not significant", "not testable", "not testable"]


PLAYERS = ("a", "b", "c")
SUBSETS = [frozenset(c) for size in range(4) for c in itertools.combinations(PLAYERS, size)]


@given(st.lists(scores, min_size=8, max_size=8))
def test_shapley_is_the_mean_over_all_orders_and_adds_up(numbers):
    values = dict(zip(SUBSETS, numbers))
    found = shapley(values, PLAYERS)
    orders = list(itertools.permutations(PLAYERS))
    for player in PLAYERS:
        gains = [values[frozenset(o[:o.index(player) + 1])] - values[frozenset(o[:o.index(player)])] for o in orders]
        assert found[player] == pytest.approx(np.mean(gains), abs=1e-9)
    assert sum(found.values()) == pytest.approx(values[SUBSETS[-1]] - values[SUBSETS[0]], abs=1e-9)


def test_shapley_of_a_game_by_hand():
    """The glove game: one left glove (a), two right ones (b, c); a pair is worth 1. Its shares are 2/3, 1/6, 1/6."""
    values = {subset: float("a" in subset and len(subset) > 1) for subset in SUBSETS}
    assert shapley(values, PLAYERS) == pytest.approx({"a": 2 / 3, "b": 1 / 6, "c": 1 / 6})
    del values[frozenset("b")]
    assert shapley(values, PLAYERS) is None


def test_published_numbers_keep_the_changes_the_study_stated():
    """Throughput rises by about 30%, FLOs fall by about 25%, and runtime falls by the inverse of steps per second."""
    ratios = published.study_ratios()
    assert ((ratios.train_steps_per_s > 1.29) & (ratios.train_steps_per_s < 1.33)).all()
    assert ((ratios.flops > 0.75) & (ratios.flops < 0.753)).all()
    runtime = published.study().set_index(["model", "task"]).train_runtime_s
    np.testing.assert_allclose(runtime.loc["bert"] / runtime.loc["fnet-naive"], ratios.train_steps_per_s, rtol=2e-3)
