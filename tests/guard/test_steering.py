from __future__ import annotations

import numpy as np
import pytest

from tests.guard.taught import many
from undertow.errors import GuardError
from undertow.guard.steering import COEFFICIENTS, Steering, Strength, _direction


def test_the_recorded_strength_is_what_the_model_does(guard):
    """The coefficient found flips prompts that the fit never saw; coefficient 0 flips none."""
    from undertow.measure.judge import SubstringJudge
    from undertow.model import Add

    steering = guard.steering
    assert steering.refuse.verified
    assert steering.release.verified
    assert steering.refuse.coefficient in COEFFICIENTS
    prompts = many("harmful", 20, 91, "persuasion")
    judge = SubstringJudge()
    with guard.model.edit(*steering.edits("refusal")):
        assert np.mean(judge.refused(guard.model.generate(prompts, 6, progress=False))) >= 0.8
    with guard.model.edit(Add(steering.edits("refusal")[0].value, 0.0, state=steering.state, span="tail")):
        assert np.mean(judge.refused(guard.model.generate(prompts, 6, progress=False))) == 0
    with guard.model.edit(*steering.edits("answer")):
        replies = guard.model.generate(many("look-alike", 20, 91), 6, progress=False)
    assert np.mean(judge.refused(replies)) <= 0.2


def test_the_smallest_coefficient_is_taken(guard):
    for strength in (guard.steering.refuse, guard.steering.release):
        tried = [coefficient for coefficient, _ in strength.tried]
        assert tried == list(COEFFICIENTS[: len(tried)])
        assert all(share < 0.9 for _, share in strength.tried[:-1])


def test_direction_balances_harmful_and_harmless():
    generator = np.random.default_rng(0)
    refused = np.array([True] * 30 + [False] * 6 + [True] * 6 + [False] * 30)
    harmful = np.array([True] * 36 + [False] * 36)
    values = generator.normal(size=(72, 8)) * 0.01
    values[refused, 0] += 1
    values[harmful, 1] += 5
    found = _direction(values, refused, harmful, np.ones(72, dtype=bool))
    np.testing.assert_allclose(found, [1, 0, 0, 0, 0, 0, 0, 0], atol=0.05)


def test_what_was_never_tried_or_failed_is_said():
    done = Strength(2.0, 9, 10, "answered harmful prompts", ((2.0, 0.9),))
    never = Strength(2.0, 0, 0, "refused harmless prompts")
    weak = Strength(8.0, 3, 10, "answered harmful prompts")
    direction = np.ones(4, dtype=np.float32)
    assert Steering(1, direction, done, done).notes() == ()
    assert "never tried" in Steering(1, direction, done, never).notes()[0]
    assert "3 of 10" in Steering(1, direction, weak, done).notes()[0]


def test_round_trip_and_damage():
    strength = Strength(2.0, 9, 10, "kind", ((1.0, 0.2), (2.0, 0.9)))
    steering = Steering(1, np.ones(4, dtype=np.float32), strength, strength)
    again = Steering.from_dict(steering.to_dict(), steering.direction)
    assert again.to_dict() == steering.to_dict()
    with pytest.raises(GuardError, match="finite"):
        Steering.from_dict(steering.to_dict(), np.array([np.nan, 1]))
