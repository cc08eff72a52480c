from __future__ import annotations

import copy

import pytest

from undertow.guard import LatentGuard, Verdict
from undertow.serve.inspector.gate import choices, objection
from undertow.serve.jobs import Judgement, OnUnjudged, Policy
from undertow.serve.settings import PolicySettings

STRICT = {"on_harmful": ["refuse"], "on_over_refusal": ["keep"]}
LOOSE = {"on_harmful": ["refuse", "steer", "flag"], "on_over_refusal": ["keep", "release"]}


def judged(flagged: bool) -> Judgement:
    quadrant = "harmful, refused" if flagged else "harmless, answered"
    return Judgement(Verdict(0.9, 1.0, quadrant, flagged, 1.0, 0.0), "none")  # type: ignore[arg-type]


def test_choices_are_what_the_operator_allows_and_the_guard_can_do(guard: LatentGuard) -> None:
    assert choices(PolicySettings(), guard) == STRICT
    assert choices(PolicySettings(allowed=("flag", "steer", "release")), guard) == LOOSE
    assert choices(PolicySettings(on_harmful="flag"), guard)["on_harmful"] == ["flag", "refuse"]
    blunt = copy.copy(guard)
    blunt.steering = None
    assert choices(PolicySettings(allowed=("flag", "steer", "release")), blunt) == {
        "on_harmful": ["refuse", "flag"],
        "on_over_refusal": ["keep"],
    }


@pytest.mark.parametrize("coefficient", [-8.0, -0.25, 0.0, 8.0])
def test_a_flagged_request_is_steered_only_where_it_may_be_answered(coefficient: float) -> None:
    for permitted in (STRICT, LOOSE):
        for policy in (Policy(), Policy("steer")):
            assert objection(judged(True), policy, permitted, coefficient)
    assert objection(judged(True), Policy("flag"), LOOSE, coefficient) is None


def test_away_from_refusal_needs_leave_even_where_nothing_is_flagged() -> None:
    assert objection(judged(False), Policy(), STRICT, 2.0) is None
    assert objection(judged(False), Policy(), STRICT, 0.0) is None
    sentence = objection(judged(False), Policy(), STRICT, -0.25)
    assert sentence is not None and "does not allow steering away from refusal" in sentence and "'release'" in sentence
    for one in ({**STRICT, "on_over_refusal": ["keep", "release"]}, {**STRICT, "on_harmful": ["refuse", "flag"]}):
        assert objection(judged(False), Policy(), one, -0.25) is None


@pytest.mark.parametrize(("on_unjudged", "free"), [("refuse", False), ("answer", True)])
def test_what_could_not_be_judged_is_steered_only_where_all_is_answered(on_unjudged: OnUnjudged, free: bool) -> None:
    unjudged = Judgement(None, "refused", "not_finite")
    policy = Policy("refuse", "keep", on_unjudged)
    assert objection(unjudged, policy, STRICT, 1.0) is not None
    assert (objection(unjudged, policy, LOOSE, 1.0) is None) is free


def test_the_sentence_says_how_to_see_it_after_all() -> None:
    choosable = objection(judged(True), Policy(), LOOSE, 1.0)
    assert choosable is not None and choosable.endswith("Choose 'flag' for flagged requests to see it.")
    closed = objection(judged(True), Policy("steer"), STRICT, 1.0)
    assert closed is not None and closed.endswith("Its operator can allow 'flag' under policy.allowed.")
