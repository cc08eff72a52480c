"""Means with bootstrap intervals, against numpy and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from undertow.studies.routing.readings import Effects, mean_estimate, mean_interval


def test_an_interval_equals_a_plain_bootstrap() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=30)
    generator = np.random.default_rng(5)
    drawn = [values[generator.integers(0, 30, 30)].mean() for _ in range(4000)]
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(np.quantile(drawn, 0.025), abs=0.04)
    assert high == pytest.approx(np.quantile(drawn, 0.975), abs=0.04)


def test_columns_are_resampled_together_and_each_as_alone() -> None:
    values = np.random.default_rng(2).normal(size=(12, 2, 3))
    mean, low, high = mean_interval(values, seed=4)
    assert mean.shape == low.shape == high.shape == (2, 3)
    alone = mean_estimate(values[:, 1, 2], seed=4)
    assert alone == pytest.approx((mean[1, 2], low[1, 2], high[1, 2], 12))
    # Pairs are drawn, not numbers: the difference of two columns that differ by a constant has no spread.
    twins = np.stack([values[:, 0, 0], values[:, 0, 0] + 3.0], axis=1)
    _, low, _ = mean_interval(twins)
    assert low[1] - low[0] == pytest.approx(3.0)


def test_the_truth_lies_inside_about_as_often_as_promised() -> None:
    values = np.random.default_rng(3).normal(0.0, 1.0, (30, 600))
    _, low, high = mean_interval(values, resamples=500)
    covered = ((low <= 0.0) & (high >= 0.0)).mean()
    assert 0.90 <= covered <= 0.97


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    values = np.random.default_rng(2).normal(size=9)
    assert mean_estimate(values, 1) == mean_estimate(values, 1) != mean_estimate(values, 2)


def test_effects_are_found_by_head() -> None:
    numbers = np.arange(3.0)
    effects = Effects(
        ((0, 1), (2, 0), (2, 1)), numbers, numbers - 1, numbers + 1, numbers, numbers, numbers[None], 7, 9
    )
    assert effects.of((2, 0)) == (1.0, 0.0, 2.0, 7)
    with pytest.raises(ValueError):
        effects.of((1, 1))
