from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from undertow.errors import GuardError
from undertow.guard import LatentGuard
from undertow.guard.belief_map import BeliefMap


def test_a_guard_keeps_where_its_held_out_prompts_lie(guard: LatentGuard, tmp_path: Path) -> None:
    points = guard.belief_map
    assert points is not None and len(points) == guard.training["held_out"]
    threshold = guard.harmfulness.threshold
    flagged = points.harmfulness >= threshold.value
    assert int((flagged & ~points.harmful).sum()) == threshold.false_positives
    assert int((~points.harmful).sum()) == threshold.harmless
    assert points.refusal is not None
    # Held out of the fit of the refusal belief, too: both beliefs are right about most of them.
    assert ((points.refusal > 0) == points.refused).mean() > 0.8
    again = LatentGuard.from_pretrained(guard.save_pretrained(tmp_path / "guard"), model=guard.model).belief_map
    assert again is not None
    np.testing.assert_allclose(again.harmfulness, points.harmfulness, atol=1e-4)
    np.testing.assert_array_equal(again.refused, points.refused)


def test_no_text_is_kept(guard: LatentGuard) -> None:
    assert guard.belief_map is not None
    assert set(guard.belief_map.to_dict()) == {"harmfulness", "refusal", "harmful", "refused"}


@pytest.mark.parametrize(
    "change",
    [
        {"harmful": [True]},
        {"refusal": [float("nan"), 1.0]},
        {"harmfulness": 1.0, "refusal": None, "harmful": True, "refused": False},
        {"harmfulness": [[1.0]], "refusal": [[1.0]], "harmful": [[True]], "refused": [[False]]},
    ],
)
def test_a_damaged_map_is_refused(change: dict) -> None:
    values = {"harmfulness": [1.0, 2.0], "refusal": [0.5, -1.0], "harmful": [True, False], "refused": [True, False]}
    assert len(BeliefMap.from_dict(json.loads(json.dumps(values)))) == 2
    with pytest.raises(GuardError, match="belief map"):
        BeliefMap.from_dict({**values, **change})
