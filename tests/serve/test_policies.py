from __future__ import annotations

import itertools

import pytest

from undertow.serve.jobs import Policy
from undertow.serve.policies import (
    NotAllowed,
    NotPossible,
    allowed_choices,
    check_possible,
    chosen_policy,
    own_policy,
)
from undertow.serve.settings import PolicySettings

CHOICES = {"on_harmful": ("refuse", "flag", "steer"), "on_over_refusal": ("keep", "release")}


def test_the_servers_own_is_the_default(guard):
    settings = PolicySettings(on_harmful="flag", on_over_refusal="release", on_unjudged="answer")
    assert own_policy(settings) == Policy("flag", "release", "answer")
    assert chosen_policy(settings, guard, None, None) == Policy("flag", "release", "answer")


@pytest.mark.parametrize("own", itertools.product(*CHOICES.values()))
@pytest.mark.parametrize("allowed", [(), ("flag",), ("steer", "release"), ("flag", "steer", "release")])
def test_a_request_gets_its_own_the_strictest_or_what_is_allowed(guard, own, allowed):
    settings = PolicySettings(on_harmful=own[0], on_over_refusal=own[1], allowed=allowed)
    for harmful, over in itertools.product(*CHOICES.values()):
        permitted = harmful in {own[0], "refuse", *allowed} and over in {own[1], "keep", *allowed}
        if permitted:
            assert chosen_policy(settings, guard, harmful, over) == Policy(harmful, over, "refuse")
        else:
            with pytest.raises(NotAllowed):
                chosen_policy(settings, guard, harmful, over)


def test_what_a_request_cannot_choose_is_what_happens_to_the_unjudged(guard):
    assert chosen_policy(PolicySettings(on_unjudged="answer"), guard, "refuse", "keep").on_unjudged == "answer"


def test_the_choices_are_listed_the_servers_own_first():
    listed = allowed_choices(PolicySettings(on_harmful="flag", allowed=("release", "steer")))
    assert listed == {"on_harmful": ("flag", "refuse", "steer"), "on_over_refusal": ("keep", "release")}
    with pytest.raises(NotAllowed, match="'release'; it allows keep"):
        chosen_policy(PolicySettings(), None, None, "release")  # type: ignore[arg-type]


def test_a_guard_without_a_direction_cannot_steer(guard, talkative):
    for policy in (Policy(on_harmful="steer"), Policy(on_over_refusal="release")):
        check_possible(guard, policy)
        with pytest.raises(NotPossible, match="no refusal direction"):
            check_possible(talkative, policy)
    check_possible(talkative, Policy(on_harmful="flag"))


def test_a_guard_without_a_belief_of_refusal_cannot_release(guard, monkeypatch):
    monkeypatch.setattr(guard, "refusal", None)
    check_possible(guard, Policy(on_harmful="steer"))
    with pytest.raises(NotPossible, match="no belief of refusal"):
        check_possible(guard, Policy(on_over_refusal="release"))
