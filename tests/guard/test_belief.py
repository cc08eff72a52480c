from __future__ import annotations

import warnings

import numpy as np
import pytest

from undertow.errors import GuardError
from undertow.guard.belief import Belief
from undertow.guard.calibration import Calibration, fit_curve, threshold_at
from undertow.guard.rules import PrototypeRule


def belief() -> tuple[Belief, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2 == 0
    features = generator.normal(size=(60, 2, 6)) + labels[:, None, None]
    rule = PrototypeRule.fit(features, labels, (2, 5))
    scores = rule.score(features)
    threshold = threshold_at(scores, labels, Calibration(rate=0.1))
    return Belief("harmfulness", "t_inst", rule, fit_curve(scores, labels, "platt"), threshold, "because"), features


def test_states_are_picked_by_their_number():
    found, features = belief()
    wider = np.full((60, 4, 6), 99.0)
    wider[:, 1], wider[:, 3] = features[:, 0], features[:, 1]
    np.testing.assert_array_equal(found.score(wider, (0, 2, 3, 5)), found.rule.score(features))
    with pytest.raises(GuardError, match="state 5"):
        found.score(wider[:, :3], (0, 2, 3))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_state_that_is_not_finite_scores_nan(bad):
    found, features = belief()
    features[3, 1, 2] = bad
    scores = found.score(features, (2, 5))
    assert np.isnan(scores[3])
    assert np.isfinite(np.delete(scores, 3)).all()


def test_infinities_that_cancel_are_found_without_a_warning():
    found, features = belief()
    features[3, 1, 2], features[3, 1, 3] = np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = found.score(features, (2, 5))
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3]


def test_round_trip():
    found, features = belief()
    again = Belief.from_dict("harmfulness", found.to_dict(), found.tensors())
    np.testing.assert_array_equal(again.score(features, (2, 5)), found.score(features, (2, 5)))
    assert again.threshold == found.threshold
    assert again.reason == "because"
