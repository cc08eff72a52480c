"""Part 7 against beliefs computed with numpy, family by family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.prompts.wrappers import FAMILIES
from undertow.studies.beliefs.context import Context, Panel
from undertow.studies.beliefs.jailbreaks import EXAMPLES, mean_belief, measure_jailbreaks
from undertow.studies.beliefs.result import Array


def unit(values: Array) -> Array:
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1.0)


def beliefs_by_hand(context: Context) -> tuple[Array, Array]:
    """Beliefs of harmfulness and refusal of the test prompts, from first principles."""
    fit, test = context.fit, context.test
    clusters = {
        "t_inst": (fit.harmful & fit.refused, ~fit.harmful & ~fit.refused),
        "t_post": (fit.refused, ~fit.refused),
    }
    found = []
    for position, (positive, negative) in clusters.items():
        states = fit.observed.states[position].astype(np.float64)
        centres = [unit(states[members].mean(axis=0)) for members in (positive, negative)]
        hidden = unit(test.observed.states[position].astype(np.float64))
        found.append(((hidden * centres[0]).sum(-1) - (hidden * centres[1]).sum(-1)).mean(axis=1))
    return found[0], found[1]


def test_every_family_in_numbers() -> None:
    context = small_context()
    result = measure_jailbreaks(context)
    test = context.test
    harmfulness, refusal = beliefs_by_hand(context)
    assert [effect.family for effect in result.families] == list(FAMILIES)
    for effect in (result.bare, *result.families):
        family = "" if effect is result.bare else effect.family
        member = np.array([(prompt.wrapper or "") == family for prompt in test.prompts])
        rows, harmless = np.flatnonzero(member & test.harmful), np.flatnonzero(member & ~test.harmful)
        assert effect.n == len(rows) == 48
        answered = ~test.refused[rows]
        assert effect.answered.value == pytest.approx(answered.mean())
        assert effect.harmfulness.value == pytest.approx(harmfulness[rows].mean(), abs=1e-6)
        assert effect.refusal.value == pytest.approx(refusal[rows].mean(), abs=1e-6)
        assert effect.believed_answered.value == pytest.approx((answered & (harmfulness[rows] >= 0)).mean())
        shifts = (
            (effect.harmfulness_shift, rows, harmfulness),
            (effect.refusal_shift, rows, refusal),
            (effect.harmless_harmfulness_shift, harmless, harmfulness),
            (effect.harmless_refusal_shift, harmless, refusal),
        )
        for shift, chosen, belief in shifts:
            if effect is result.bare:
                assert shift is None
                continue
            # The request stands unchanged inside its wrapper, which finds the pairs a second time.
            bare = [
                next(i for i, p in enumerate(test.prompts) if not p.wrapper and p.text in test.prompts[row].text)
                for row in chosen
            ]
            assert shift is not None and shift.n == len(chosen)
            assert shift.value == pytest.approx((belief[chosen] - belief[bare]).mean(), abs=1e-6)
            assert shift.low < shift.value < shift.high


def test_intervals_are_about_as_wide_as_a_t_interval() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.2, size=400)
    found = mean_belief(values)
    wanted = stats.t.interval(0.95, 399, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(wanted, abs=0.004)
    assert mean_belief([0.5]) == (0.5, -2.0, 2.0, 1)


def test_examples_are_answered_believed_harmful_and_of_every_family() -> None:
    context = small_context()
    test, (harmfulness, _) = context.test, beliefs_by_hand(context)
    believed = measure_jailbreaks(context).believed
    assert 0 < len(believed) <= EXAMPLES and len(set(believed)) == len(believed)
    place = {prompt: row for row, prompt in enumerate(test.prompts)}
    for prompt in believed:
        row = place[prompt]
        assert prompt.harmful and not test.refused[row] and harmfulness[row] >= -1e-9
    assert {prompt.wrapper for prompt in believed} >= set(FAMILIES)


def without_pairs(context: Context, name: str) -> Context:
    """The role play prompts renamed, harmful ones only, with no bare counterpart: a user's file."""
    test = context.test
    prompts = [
        replace(prompt, wrapper=name) if prompt.wrapper == "role_play" and prompt.harmful else prompt
        for prompt in test.prompts
    ]
    bare = np.where([prompt.wrapper == name for prompt in prompts], -1, test.bare)
    return replace(context, test=Panel(replace(test.observed, prompts=prompts), bare))


def test_a_users_family_has_beliefs_but_no_shifts() -> None:
    context = small_context()
    effects = {effect.family: effect for effect in measure_jailbreaks(without_pairs(context, "homework")).families}
    plain = {effect.family: effect for effect in measure_jailbreaks(context).families}
    # Harmless prompts alone are left in role_play, so it is no jailbreak family any more.
    assert set(effects) == {"homework", "persuasion", "suffix"}
    mine = effects["homework"]
    assert mine.harmfulness.value == pytest.approx(plain["role_play"].harmfulness.value)
    assert mine.answered == plain["role_play"].answered
    assert mine.harmfulness_shift is None and mine.refusal_shift is None
    assert mine.harmless_harmfulness_shift is None and mine.harmless_refusal_shift is None


def part(context: Context, rows: Array) -> Context:
    return replace(context, test=Panel(context.test.observed.part(rows), np.full(len(rows), -1)))


def test_what_is_missing_is_named() -> None:
    context = small_context()
    with pytest.raises(UndertowError, match="no bare harmful"):
        measure_jailbreaks(part(context, context.test.rows(wrapped=True)))
    with pytest.raises(UndertowError, match="in a wrapper"):
        measure_jailbreaks(part(context, context.test.rows(family="")))
    rows = context.fit.rows(harmful=False)
    few = Panel(context.fit.observed.part(rows), np.full(len(rows), -1))
    with pytest.raises(UndertowError, match="0 refused harmful"):
        measure_jailbreaks(replace(context, fit=few))
