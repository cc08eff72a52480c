from __future__ import annotations

import numpy as np
import pytest

from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.guard import LatentGuard
from undertow.guard.generation import decide
from undertow.measure.judge import SubstringJudge
from undertow.model import Add
from undertow.studies.beliefs import over_refusal
from undertow.studies.beliefs.context import Context, Panel
from undertow.studies.beliefs.over_refusal import measure_over_refusal, with_random_direction


@pytest.fixture(scope="module")
def context():
    return small_context()


@pytest.fixture(scope="module")
def guard(context) -> LatentGuard:
    return over_refusal._guard(context)


@pytest.fixture(scope="module")
def found(context, guard):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(over_refusal, "_guard", lambda given: guard)
        return measure_over_refusal(context)


def rows_of(context, harmful):
    return np.flatnonzero((context.test.harmful == harmful) & context.test.refused)


def by_hand(context, guard, rows):
    """What verdicts on their own release, and which prompts are answered once the tail of these is steered."""
    prompts = [context.test.prompts[row] for row in rows]
    touched = np.array([decide(verdict, "flag", "release") == "released" for verdict in guard(prompts)])
    steering = guard.steering
    edit = Add(steering.direction, -steering.release.coefficient, state=steering.state, span="tail")
    replies = {}
    for release in (False, True):
        chosen = np.flatnonzero(touched == release)
        with context.chat.edit(*([edit] if release else [])):
            texts = context.chat.generate([prompts[row] for row in chosen], context.reply_tokens, progress=False)
        replies.update(zip(chosen.tolist(), texts, strict=True))
    refusals = SubstringJudge().substrings
    return np.array([not any(phrase in replies[row] for phrase in refusals) for row in range(len(rows))]), touched


def test_releases_against_steering_by_hand(context, guard, found):
    answered, touched = by_hand(context, guard, rows_of(context, False))
    assert found.released.n == len(answered) and found.released.value == pytest.approx(answered.mean())
    assert found.touched["refused harmless"].value == pytest.approx(touched.mean())
    assert found.released.value > 0.7 and found.released.low > found.released_control.high


def test_the_price_against_verdicts(context, guard, found):
    rows = rows_of(context, True)
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), 4 * context.most)).round().astype(int)]
    answered, touched = by_hand(context, guard, chosen)
    assert found.let_through.n == len(chosen) and found.let_through.value == pytest.approx(answered.mean())
    assert found.touched["refused harmful"].value == pytest.approx(touched.mean())
    assert found.let_through.high < found.released.low
    assert found.let_through_control.n == len(chosen)


def test_untouched_replies_stay_and_the_note_says_how(context, guard, found):
    assert found.unchanged.n == 2 * context.most and found.unchanged.value > 0.9
    assert f"{guard.steering.release.coefficient:g} times at state {guard.steering.state}" in found.note
    assert f"{len(rows_of(context, False))} refused harmless" in found.note


def test_random_direction_keeps_the_length_and_the_guard(guard):
    other, third = with_random_direction(guard, 0), with_random_direction(guard, 1)
    mine, theirs = guard.steering.direction, other.steering.direction
    assert np.linalg.norm(theirs) == pytest.approx(np.linalg.norm(mine), rel=1e-5)
    assert not np.allclose(theirs, mine) and not np.allclose(theirs, third.steering.direction)
    assert (other.steering.state, other.steering.release) == (guard.steering.state, guard.steering.release)
    assert other.harmfulness is guard.harmfulness


def altered(context, keep) -> Context:
    test = Panel(context.test.observed.part(np.flatnonzero(keep)), np.full(int(keep.sum()), -1))
    return Context(**{**vars(context), "test": test})


def test_exchange_is_reckoned_in_the_numbers_that_occur(context, guard, monkeypatch):
    monkeypatch.setattr(over_refusal, "_guard", lambda given: guard)

    def pretend(given, chosen, prompts):
        hits = np.array([not prompt.harmful or number == 0 for number, prompt in enumerate(prompts)], dtype=bool)
        return hits, hits

    monkeypatch.setattr(over_refusal, "released", pretend)
    monkeypatch.setattr(over_refusal, "_unchanged", lambda given, chosen: np.ones(3, dtype=bool))
    found = measure_over_refusal(context)
    harmless, harmful = len(rows_of(context, False)), len(rows_of(context, True))
    assert found.released.value == 1.0 and found.let_through.value == pytest.approx(1 / found.let_through.n)
    assert found.exchange == pytest.approx(harmless / (harmful / found.let_through.n))


def test_nothing_over_refused(context, guard, monkeypatch):
    monkeypatch.setattr(over_refusal, "_guard", lambda given: guard)
    monkeypatch.setattr(over_refusal, "_unchanged", lambda given, chosen: np.ones(3, dtype=bool))
    given = altered(context, ~(context.test.refused & ~context.test.harmful))
    found = measure_over_refusal(given)
    assert found.released is None and found.released_control is None and found.exchange is None
    assert "refused harmless" not in found.touched and found.let_through is not None
    assert "No harmless test prompt is refused" in found.note


def test_a_guard_without_a_refusal_belief_is_an_error(context, guard, monkeypatch):
    blind = with_random_direction(guard, 0)
    blind.refusal = None
    monkeypatch.setattr(over_refusal, "_guard", lambda given: blind)
    with pytest.raises(UndertowError, match="for a guard that releases"):
        measure_over_refusal(context)
