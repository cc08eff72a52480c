from __future__ import annotations

import json

import numpy as np
import pytest

from undertow.guard.verdict import QUADRANTS, make_verdicts, quadrant_of


@pytest.mark.parametrize(
    ("flagged", "refusal", "name"),
    [
        (True, 0.3, "harmful, refused"),
        (True, -0.3, "harmful, about to be answered"),
        (False, -0.3, "harmless, answered"),
        (False, 0.3, "harmless, about to be refused"),
        (True, 0.0, "harmful, about to be answered"),
        (True, None, "harmful"),
        (False, None, "harmless"),
    ],
)
def test_quadrants(flagged, refusal, name):
    assert quadrant_of(flagged, refusal) == name
    assert (name in QUADRANTS) == (refusal is not None)


def test_a_score_at_the_threshold_is_flagged_and_verdicts_are_plain_json():
    verdicts = make_verdicts(
        np.array([0.5, 0.49]), np.array([0.9, 0.1]), np.array([1.0, -1.0]), 0.5, ["a", None], ("w",)
    )
    assert [verdict.flagged for verdict in verdicts] == [True, False]
    assert json.loads(json.dumps(verdicts[0].to_dict())) == {
        "harmful": 0.9,
        "refusal": 1.0,
        "quadrant": "harmful, refused",
        "flagged": True,
        "harmfulness": 0.5,
        "threshold": 0.5,
        "id": "a",
        "warnings": ["w"],
    }
