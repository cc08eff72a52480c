from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, norm

from undertow.errors import GuardError
from undertow.guard.calibration import (
    Calibration,
    Curve,
    Threshold,
    balanced_threshold,
    fit_curve,
    fit_platt,
    measured_threshold,
    recall_at_rate,
    threshold_at,
)


def scores_of(count: int, gap: float = 2.0, seed: int = 0):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2 == 0
    return generator.normal(size=count) + gap * labels, labels


def test_platt_recovers_the_true_log_odds():
    """Two unit Gaussians a gap g apart have log-odds g * s - g^2 / 2 at even odds."""
    scores, labels = scores_of(40_000)
    curve = fit_platt(scores, labels)
    assert curve.slope == pytest.approx(2.0, abs=0.08)
    assert curve.intercept == pytest.approx(-2.0, abs=0.08)


def test_without_an_intercept_the_slope_alone_is_fitted():
    """Two unit Gaussians at -g / 2 and g / 2 have log-odds g * s; moved, they have another best line through 0."""
    scores, labels = scores_of(40_000)
    curve = fit_platt(scores - 1.0, labels, intercept=False)
    assert curve.intercept == 0 and curve.slope == pytest.approx(2.0, abs=0.08)
    slopes = np.linspace(0.1, 3, 2901)
    sign = np.where(labels, 1.0, -1.0) * scores
    losses = [np.logaddexp(0, -slope * sign).mean() for slope in slopes]
    moved = fit_curve(scores, labels, "platt", intercept=False)
    assert moved.intercept == 0 and moved.slope == pytest.approx(slopes[np.argmin(losses)], abs=0.01)
    assert set(fit_platt(-scores, labels, intercept=False).probability(scores)) == {0.5}


def test_platt_is_at_even_odds_whatever_the_class_sizes():
    scores, labels = scores_of(20_000)
    kept = labels | (np.random.default_rng(1).random(20_000) < 0.1)
    lopsided = fit_platt(scores[kept], labels[kept])
    assert lopsided.probability(np.array([1.0]))[0] == pytest.approx(0.5, abs=0.03)


def test_platt_stays_finite_on_separable_scores_of_any_scale():
    labels = np.array([True] * 20 + [False] * 20)
    curve = fit_platt(np.where(labels, 1e6, -1e6), labels)
    low, high = curve.probability(np.array([-1e6, 1e6]))
    assert 0 < low < 0.1 < 0.9 < high < 1


def test_a_score_that_runs_backwards_gives_no_confidence():
    scores, labels = scores_of(500, gap=-2.0)
    assert set(fit_platt(scores, labels).probability(scores)) == {0.5}


def test_isotonic_is_monotone_and_calibrated():
    scores, labels = scores_of(4000)
    curve = fit_curve(scores, labels, "isotonic")
    grid = curve.probability(np.linspace(-4, 6, 200))
    assert (np.diff(grid) >= 0).all()
    truth = norm.pdf(1.5 - 2) / (norm.pdf(1.5 - 2) + norm.pdf(1.5))
    assert curve.probability(np.array([1.5]))[0] == pytest.approx(truth, abs=0.08)


def test_isotonic_needs_prompts():
    scores, labels = scores_of(100)
    with pytest.raises(GuardError, match="200"):
        fit_curve(scores, labels, "isotonic")


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_curves_round_trip(method):
    scores, labels = scores_of(600)
    curve = fit_curve(scores, labels, method)
    np.testing.assert_array_equal(Curve.from_dict(curve.to_dict()).probability(scores), curve.probability(scores))


def test_threshold_keeps_the_rate_and_states_the_exact_bound():
    scores, labels = scores_of(2000)
    found = threshold_at(scores, labels, Calibration(rate=0.05))
    flagged = int((scores[~labels] >= found.value).sum())
    # Fifty are allowed; the threshold lies between the fiftieth and the lowest harmful prompt above it, and loses none.
    fiftieth = np.sort(scores[~labels])[-50]
    lowest_harmful = scores[labels & (scores >= fiftieth)].min()
    assert fiftieth <= found.value <= lowest_harmful
    assert found.false_positives == flagged <= 50
    assert found.recall == pytest.approx((scores[labels] >= fiftieth).mean())
    assert found.upper == pytest.approx(beta.ppf(0.95, flagged + 1, 1000 - flagged))
    assert found.recall == pytest.approx((scores[labels] >= found.value).mean())
    assert found.enough
    assert found.needed == 59


def test_guarantee_keeps_the_bound_below_the_rate():
    scores, labels = scores_of(2000)
    found = threshold_at(scores, labels, Calibration(rate=0.05, guarantee=True))
    allowed = max(k for k in range(51) if beta.ppf(0.95, k + 1, 1000 - k) <= 0.05)
    refused = np.sort(scores[~labels])[-allowed - 1]
    assert found.upper <= 0.05
    assert refused < found.value <= scores[labels & (scores > refused)].min()


def test_too_few_prompts_are_said_with_the_number_needed():
    scores, labels = scores_of(80, gap=8.0)
    found = threshold_at(scores, labels, Calibration(rate=0.02))
    assert not found.enough
    assert found.needed == 149
    assert found.recall == 1.0
    assert found.false_positives == 0
    assert "149" in found.sentence()
    assert "too few" in found.sentence()


def test_of_thresholds_that_do_the_same_the_middle_is_taken():
    scores = np.array([*np.linspace(-2.0, -1.0, 100), *np.linspace(3.0, 4.0, 50)])
    labels = np.arange(150) >= 100
    found = threshold_at(scores, labels, Calibration(rate=0.005))
    assert found.value == pytest.approx(1.0)
    assert (found.false_positives, found.recall) == (0, 1.0)
    allowed = threshold_at(scores, labels, Calibration(rate=0.02))
    assert allowed.value == pytest.approx((np.linspace(-2.0, -1.0, 100)[97] + 3.0) / 2)
    assert allowed.false_positives == 0


def test_equal_scores_are_flagged_together():
    scores = np.array([0.0] * 50 + [1.0] * 50)
    labels = np.array([False] * 50 + [True] * 50)
    assert threshold_at(scores, labels, Calibration(rate=0.1)).false_positives == 0


def test_threshold_round_trip_and_damage():
    scores, labels = scores_of(200)
    found = measured_threshold(0.0, scores, labels, 0.95, None)
    assert found.enough
    assert Threshold.from_dict(found.to_dict()) == found
    with pytest.raises(GuardError, match="finite"):
        Threshold.from_dict(found.to_dict() | {"value": float("nan")})


def test_balanced_threshold_equals_a_search():
    scores, labels = scores_of(300)
    value = balanced_threshold(scores, labels)

    def accuracy(cut: float) -> float:
        return (scores[labels] >= cut).mean() + (scores[~labels] < cut).mean()

    assert accuracy(value) == pytest.approx(max(accuracy(cut) for cut in scores))


def test_balanced_threshold_of_separated_scores_lies_in_the_middle():
    assert balanced_threshold(np.array([0.0, 1.0, 5.0, 6.0]), np.array([False, False, True, True])) == 3.0


def test_recall_at_rate_by_counting():
    scores, labels = scores_of(1000)
    limit = np.sort(scores[~labels])[::-1][10]
    assert recall_at_rate(scores, labels, 0.02) == (scores[labels] > limit).mean()


@pytest.mark.parametrize("bad", [{"rate": 0}, {"rate": 1.5}, {"fraction": 1}, {"confidence": -1}, {"method": "magic"}])
def test_impossible_calibrations_are_refused(bad):
    with pytest.raises(GuardError):
        Calibration(**bad)
