from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from undertow.measure.statistics import (
    StatisticsError,
    auc,
    bootstrap_interval,
    clopper_pearson,
    clopper_pearson_upper,
    difference_of_proportions,
    needed_for_rate,
    proportion,
    threshold_at_rate,
)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (3, 300), (299, 300)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_clopper_pearson_solves_its_defining_equations(k: int, n: int, confidence: float) -> None:
    low, high = clopper_pearson(k, n, confidence)
    tail = (1 - confidence) / 2
    assert low == 0.0 if k == 0 else math.isclose(stats.binom.sf(k - 1, n, low), tail, rel_tol=1e-6)
    assert high == 1.0 if k == n else math.isclose(stats.binom.cdf(k, n, high), tail, rel_tol=1e-6)


def test_known_intervals() -> None:
    # Clopper and Pearson's rule of three, and the tabled interval of 81 in 263 (Newcombe 1998, table I).
    assert clopper_pearson_upper(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert clopper_pearson(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert proportion(81, 263).value == 81 / 263
    assert clopper_pearson_upper(4, 4) == 1.0


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.5, 0.999))
@settings(max_examples=60, deadline=None)
def test_the_upper_bound_is_that_of_the_wider_two_sided_interval(k: int, n: int, confidence: float) -> None:
    k = min(k, n)
    assert clopper_pearson_upper(k, n, confidence) == pytest.approx(
        clopper_pearson(k, n, 2 * confidence - 1).high if confidence > 0.5 else clopper_pearson_upper(k, n, confidence)
    )


@pytest.mark.parametrize("rate", [0.5, 0.05, 0.02, 0.01, 0.001])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_needed_for_rate_is_the_closed_form(rate: float, confidence: float) -> None:
    assert needed_for_rate(rate, confidence) == math.ceil(math.log(1 - confidence) / math.log(1 - rate))


@pytest.mark.parametrize("allowed", [1, 2, 7])
def test_needed_for_rate_is_the_smallest(allowed: int) -> None:
    n = needed_for_rate(0.02, 0.95, allowed)
    assert clopper_pearson_upper(allowed, n) <= 0.02 < clopper_pearson_upper(allowed, n - 1)
    assert needed_for_rate(0.02) == 149


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=200), st.sampled_from([0.01, 0.05, 0.2]))
@settings(max_examples=100, deadline=None)
def test_the_threshold_keeps_the_rate_and_is_the_lowest_that_does(scores: list[float], rate: float) -> None:
    found = threshold_at_rate(scores, rate)
    values = np.array(scores, dtype=np.float32)
    assert np.mean(values >= found.threshold) == pytest.approx(found.rate)
    assert found.rate <= rate
    assert float(np.float32(found.threshold)) == found.threshold
    lower = values[values < found.threshold].max()
    assert np.mean(values >= lower) > rate
    assert found.upper == clopper_pearson_upper(int((values >= found.threshold).sum()), len(scores))


def test_the_threshold_says_whether_there_were_enough_prompts() -> None:
    scores = np.linspace(0, 1, 100)
    few = threshold_at_rate(scores, 0.02)
    assert (few.enough, few.needed, few.n, few.rate) == (False, 149, 100, 0.02)
    many = threshold_at_rate(np.linspace(0, 1, 1000), 0.02)
    assert many.enough and many.rate == 0.02 and many.upper > 0.02
    bounded = threshold_at_rate(np.linspace(0, 1, 1000), 0.02, bounded=True)
    assert bounded.upper <= 0.02 < clopper_pearson_upper(round(bounded.rate * 1000) + 1, 1000)
    assert threshold_at_rate([0.0] * 50 + [1.0] * 50, 0.02).rate == 0.0


def test_bootstrap_agrees_with_theory() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, 200)
    low, high = bootstrap_interval(values, seed=1)
    expected = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.03)
    other = values - 0.5 + np.random.default_rng(4).normal(0, 0.1, 200)

    def difference(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(a) - np.mean(b))

    paired = bootstrap_interval(values, other, statistic=difference, paired=True, n_resamples=500)
    independent = bootstrap_interval(values, other, statistic=difference, n_resamples=500)
    assert paired.high - paired.low == pytest.approx(2 * 1.96 * 0.1 / math.sqrt(200), rel=0.25)
    assert independent.high - independent.low == pytest.approx(2 * 1.96 * math.sqrt(2 / 200), rel=0.25)
    assert bootstrap_interval(values, seed=1) == (low, high)


def test_bootstrap_of_equal_numbers_has_no_width() -> None:
    assert bootstrap_interval([1.0] * 20) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("counts", "expected"),
    # Newcombe (1998), Statistics in Medicine 17, 873-890, table II, method 10.
    [
        ((56, 70, 48, 80), (0.2000, 0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.6000, 0.1705, 0.8090)),
        ((10, 10, 0, 20), (1.0000, 0.6791, 1.0000)),
        ((0, 10, 0, 10), (0.0000, -0.2775, 0.2775)),
    ],
)
def test_difference_of_proportions(counts: tuple[int, int, int, int], expected: tuple[float, float, float]) -> None:
    assert difference_of_proportions(*counts)[:3] == pytest.approx(expected, abs=6e-5)


def test_auc() -> None:
    generator = np.random.default_rng(0)
    positive, negative = generator.normal(1, 1, 150).round(1), generator.normal(0, 1, 120).round(1)
    labels = np.r_[np.ones(150), np.zeros(120)]
    found = auc(positive, negative)
    assert found.value == pytest.approx(roc_auc_score(labels, np.r_[positive, negative]))
    resampled = auc(positive, negative, method="bootstrap", n_resamples=400)
    assert (found.low, found.high) == pytest.approx((resampled.low, resampled.high), abs=0.02)
    perfect = auc([2.0] * 20, [1.0] * 30)
    assert perfect.value == 1.0 and perfect.low == clopper_pearson(20, 20).low and perfect.high == 1.0


@pytest.mark.parametrize(
    "ask",
    [
        lambda: clopper_pearson(3, 2),
        lambda: clopper_pearson(0, 0),
        lambda: clopper_pearson(-1, 2),
        lambda: clopper_pearson(1, 2, 1.0),
        lambda: needed_for_rate(0.0),
        lambda: needed_for_rate(0.1, allowed=-1),
        lambda: threshold_at_rate([], 0.1),
        lambda: threshold_at_rate([float("nan")], 0.1),
        lambda: bootstrap_interval([1.0]),
        lambda: bootstrap_interval(),
        lambda: bootstrap_interval([1.0, 2.0], [1.0, 2.0, 3.0], paired=True),
        lambda: auc([], [1.0]),
        lambda: auc([1.0], [1.0], method="guess"),
    ],
)
def test_impossible_questions_are_refused(ask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StatisticsError) as refusal:
        ask()
    assert str(refusal.value).endswith(".")
