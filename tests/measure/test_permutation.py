"""Sign-flip tests against scipy's permutation test, and against their promised error."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from undertow.measure.permutation import sign_flip
from undertow.measure.statistics import StatisticsError


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_one_test_agrees_with_scipy(alternative: str) -> None:
    values = np.random.default_rng(3).normal(0.35, 1.0, 24)

    def t(sample: np.ndarray, axis: int = -1) -> np.ndarray:
        return sample.mean(axis) / (sample.std(axis, ddof=1) / np.sqrt(sample.shape[axis]))

    wanted = stats.permutation_test(
        (values,), t, permutation_type="samples", n_resamples=20_000, alternative=alternative, rng=1
    )
    found = sign_flip(values[:, None], permutations=20_000, alternative=alternative, seed=2)
    assert found.p[0] == pytest.approx(wanted.pvalue, abs=0.01)
    assert abs(wanted.statistic) == pytest.approx(found.statistic[0], rel=1e-6)


def test_family_wise_error_is_kept_for_dependent_tests() -> None:
    generator = np.random.default_rng(0)
    rejected = 0
    for trial in range(300):
        shared = generator.standard_t(4, (20, 1))
        effects = 0.7 * shared + generator.standard_t(4, (20, 30))
        rejected += bool(sign_flip(effects, permutations=200, seed=trial).significant.any())
    # 95 % interval of a true 5 % rate over 300 trials.
    assert stats.binomtest(rejected, 300).proportion_ci(0.99).low <= 0.05
    assert rejected / 300 <= 0.09


def test_finds_a_real_effect_and_leaves_its_neighbours() -> None:
    effects = np.random.default_rng(1).normal(0, 1, (60, 100))
    effects[:, 7] += 1.0
    found = sign_flip(effects, permutations=2_000)
    assert list(np.flatnonzero(found.significant)) == [7]
    assert (found.statistic > found.threshold).tolist() == found.significant.tolist()
    assert found.p.min() >= 1 / 2_001


def test_one_sided_ignores_negative_means_and_two_sided_sees_them() -> None:
    effects = np.random.default_rng(1).normal(-1, 1, (40, 3))
    assert not sign_flip(effects, permutations=500).significant.any()
    assert sign_flip(effects, permutations=500, alternative="two-sided").significant.all()


def test_constant_and_empty_effects_do_not_break_it() -> None:
    effects = np.stack([np.zeros(12), np.full(12, 0.3)], axis=1)
    found = sign_flip(effects, permutations=2_000)
    assert found.p[0] > 0.05 and found.p[1] <= 0.05 and np.isfinite(found.statistic).all()


@pytest.mark.parametrize("effects", [np.zeros((1, 3)), np.zeros((5, 0)), np.full((5, 2), np.nan), np.zeros(5)])
def test_refuses_what_cannot_be_tested(effects: np.ndarray) -> None:
    with pytest.raises(StatisticsError, match="sign-flip"):
        sign_flip(effects)
