from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from undertow.studies.routing.logistic import crossing, fit_crossing, fit_logistic

DOSES = np.array([0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5])


def drawn(threshold: float, slope: float, n: int, seed: int = 0) -> np.ndarray:
    """Prompts with a threshold of their own around a common one."""
    generator = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-slope * (DOSES - threshold)))
    return (generator.random((n, len(DOSES))) < chance).astype(float)


@pytest.mark.parametrize("slope", [-8.0, -3.0, 4.0, 10.0])
def test_fit_equals_that_of_scikit_learn(slope: float) -> None:
    outcomes = drawn(0.45, slope, 50)
    inputs = np.repeat(DOSES[None], 50, axis=0).reshape(-1, 1)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(inputs, outcomes.ravel())
    intercept, found = fit_logistic(DOSES, outcomes.mean(0, keepdims=True))
    assert found[0] == pytest.approx(theirs.coef_[0, 0], rel=1e-4)
    assert intercept[0] == pytest.approx(theirs.intercept_[0], rel=1e-4)
    threshold, reported = crossing(DOSES, outcomes)
    # A curve that ends at its extreme is fitted whole, so both agree here too.
    if np.argmax(np.abs(outcomes.mean(0) - outcomes.mean(0)[0])[::-1]) == 0:
        assert threshold is not None and reported is not None
        assert threshold.value == pytest.approx(-theirs.intercept_[0] / theirs.coef_[0, 0], rel=1e-4)
        assert reported == pytest.approx(theirs.coef_[0, 0], rel=1e-4)


def test_fit_lies_at_the_top_of_a_grid() -> None:
    outcomes = drawn(0.4, -6, 30, seed=3)
    intercept, slope = fit_logistic(DOSES, outcomes.mean(0, keepdims=True))

    def likelihood(a: float, b: float) -> float:
        chance = 1 / (1 + np.exp(-(a + b * DOSES)))
        return float((outcomes * np.log(chance) + (1 - outcomes) * np.log(1 - chance)).sum())

    best = likelihood(intercept[0], slope[0])
    for a in np.linspace(-0.5, 0.5, 11):
        for b in np.linspace(-1, 1, 11):
            assert likelihood(intercept[0] + a, slope[0] + b) <= best + 1e-9


def test_interval_is_that_of_a_naive_bootstrap_over_prompts() -> None:
    outcomes = drawn(0.45, -7, 40, seed=1)
    found, _ = crossing(DOSES, outcomes, seed=5, resamples=300)
    generator = np.random.default_rng(11)
    inputs = np.repeat(DOSES[None], 40, axis=0).reshape(-1, 1)
    values = []
    for _ in range(300):
        rows = generator.integers(0, 40, 40)
        fit = LogisticRegression(C=np.inf, tol=1e-8, max_iter=500).fit(inputs, outcomes[rows].ravel())
        values.append(-fit.intercept_[0] / fit.coef_[0, 0])
    assert found is not None
    assert found.low < found.value < found.high
    assert found.low == pytest.approx(np.quantile(values, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(values, 0.975), abs=0.02)
    assert found.n == 40


@pytest.mark.parametrize("falling", [True, False])
def test_separated_data_give_the_two_neighbouring_doses(falling: bool) -> None:
    row = np.array([1, 1, 1, 1, 0, 0, 0, 0.0])
    found, slope = crossing(DOSES, np.tile(row if falling else 1 - row, (12, 1)))
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.3, 0.5))
    assert slope is None


def test_one_mixed_dose_is_separated_too() -> None:
    outcomes = np.tile([1, 1, 1, 0, 0, 0, 0, 0.0], (10, 1))
    outcomes[:3, 3] = 1
    point = fit_crossing(DOSES, outcomes.mean(0, keepdims=True))
    assert (point.value[0], point.low[0], point.high[0]) == pytest.approx((0.25, 0.2, 0.3))
    outcomes[:7, 3] = 1
    assert fit_crossing(DOSES, outcomes.mean(0, keepdims=True)).value[0] == pytest.approx(0.4)
    outcomes[:, 3] = [0, 1] * 5
    found, slope = crossing(DOSES, outcomes)
    assert found is not None and slope is None
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.2, 0.5))


def test_a_curve_that_does_not_cross_has_no_threshold() -> None:
    for row in ([1] * 8, [0] * 8, [0, 0, 0.2, 0.1, 0, 0, 0.1, 0.1], [1, 1, 1, 0.9, 1, 0.9, 0.8, 0.7]):
        assert crossing(DOSES, np.tile(row, (10, 1))) == (None, None)


def test_what_happens_when_a_strong_push_breaks_the_model_does_not_bend_the_fit() -> None:
    clean = np.tile([0, 0, 0, 0.1, 0.4, 0.9, 1, 1], (20, 1))
    broken = clean.copy()
    broken[:, -1] = 0.2
    whole, _ = crossing(DOSES[:-1], clean[:, :-1])
    found, _ = crossing(DOSES, broken)
    assert whole is not None and found is not None
    assert found.value == pytest.approx(whole.value)


def test_an_interval_that_leaves_the_doses_is_cut_at_the_largest() -> None:
    outcomes = np.zeros((8, 8))
    outcomes[:5, -1] = 1
    found, _ = crossing(DOSES, outcomes)
    assert found is not None
    assert found.low == 1.0
    assert found.high == 1.5


def test_intervals_cover_the_threshold_they_are_of() -> None:
    hits = 0
    for seed in range(40):
        found, _ = crossing(DOSES, drawn(0.45, -8, 30, seed), resamples=150)
        assert found is not None
        hits += found.low <= 0.45 <= found.high
    assert hits >= 33
