from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from undertow.measure.statistics import Estimate
from undertow.studies.beliefs.changes import change_of, paired_drop, plain


def test_the_drop_is_paired() -> None:
    generator = np.random.default_rng(0)
    before = generator.random(300) < 0.9
    after = before & (generator.random(300) < 0.8)
    drop = paired_drop(before, after)
    change = before.astype(float) - after.astype(float)
    reach = 1.96 * change.std() / math.sqrt(300)
    assert drop.value == pytest.approx(change.mean()) and drop.n == 300
    assert drop.low == pytest.approx(change.mean() - reach, abs=0.01)
    assert drop.high == pytest.approx(change.mean() + reach, abs=0.01)
    # Two shares that both wobble, but together, differ by nothing; unpaired, the interval would be wide.
    same = paired_drop(before, before)
    upper = stats.binomtest(0, 300).proportion_ci(0.95, "exact").high
    assert (same.value, same.low, same.high) == (0, pytest.approx(-upper), pytest.approx(upper))


def test_a_drop_of_everything_has_an_interval_too() -> None:
    drop = paired_drop([True] * 40, [False] * 40)
    upper = stats.binomtest(0, 40).proportion_ci(0.95, "exact").high
    assert drop == (1, pytest.approx(1 - upper), 1, 40)


def test_a_rise_is_a_negative_drop() -> None:
    change = change_of(np.array([False] * 50), np.array([True] * 10 + [False] * 40), 0)
    assert (change.before.value, change.after.value, change.drop.value) == (0, 0.2, -0.2)
    assert change.drop.low < -0.2 < change.drop.high < 0
    assert change.after.high == pytest.approx(stats.binomtest(10, 50).proportion_ci(0.95, "exact").high)


def test_plain_values_hold_nothing_that_json_lacks() -> None:
    found = plain({"a": np.array([1.0, np.nan]), "b": (Estimate(1.0, 0.0, 2.0, 3),), 4: np.array([[1]])})
    assert found == {"a": [1.0, None], "b": [{"value": 1.0, "low": 0.0, "high": 2.0, "n": 3}], "4": [[1]]}
