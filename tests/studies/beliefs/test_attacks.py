from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.studies.beliefs.attacks import choose_removal, measure_attacks, sampled_rows
from undertow.studies.beliefs.result import Attack


@pytest.fixture(scope="module")
def attacks() -> dict[str, Attack]:
    chat = small_context().chat
    before = {name: value.clone() for name, value in chat.model.state_dict().items()}
    found = measure_attacks(small_context(), sample=24, steps=60)
    after = chat.model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    return {attack.key: attack for attack in found}


def test_both_attacks_end_refusals_and_their_controls_do_not(attacks: dict[str, Attack]) -> None:
    assert list(attacks) == ["finetuning", "abliteration"]
    for attack in attacks.values():
        harmful = attack.comparison.refused["bare harmful"]
        assert harmful.before.value > 0.9 and harmful.after.value < 0.1 and harmful.after.n == 24
        assert attack.control is not None and attack.control.refused["bare harmful"].after.value > 0.9


def test_the_best_rule_still_sees_the_harm(attacks: dict[str, Attack]) -> None:
    for attack in attacks.values():
        assert attack.control is not None
        assert attack.comparison.drop.n == 48 and attack.comparison.drop.value <= 0.15
        assert abs(attack.control.drop.value) <= 0.05
        # What the attack moves is the belief of refusal, and by more than its control.
        moved, control = (one.shift("refusal", "refused harmful") for one in (attack.comparison, attack.control))
        assert moved is not None and control is not None
        assert moved.shift.high < -0.05 and abs(control.shift.value) < 0.03


def test_the_course_is_told(attacks: dict[str, Attack]) -> None:
    tuned = attacks["finetuning"].about
    assert tuned["target"] == "Sure." and tuned["reached"] and tuned["steps"] == tuned["control"]["steps"] <= 60
    assert tuned["last_loss"] < tuned["first_loss"]
    removed = attacks["abliteration"].about
    assert removed["refused_by_state"][str(removed["state"])] == min(removed["refused_by_state"].values())
    assert set(removed["refused_by_state"]) == {"1", "2", "3", "4", "5", "6"}


def test_the_removed_direction_is_the_difference_of_means_on_fit_prompts() -> None:
    context = small_context()
    removal = choose_removal(context)
    fit, states = context.fit, context.fit.states("t_post").astype(float)
    bare = np.array([not prompt.wrapper for prompt in fit.prompts])
    wanted = states[fit.harmful & fit.refused & bare].mean(0) - states[~fit.harmful & ~fit.refused & bare].mean(0)
    assert removal.direction.numpy() == pytest.approx(wanted[removal.state], rel=1e-3, abs=1e-4)
    assert removal.refused[removal.state] <= min(removal.refused.values()) + 0.02
    assert all(value >= -1e-6 for value in removal.disturbed.values())


def test_test_prompts_are_thinned_cell_by_cell() -> None:
    context = small_context()
    rows = sampled_rows(context, 10)
    cells = [(bool(context.test.harmful[row]), bool(context.test.prompts[row].wrapper)) for row in rows]
    assert sorted(set(cells)) == [(False, False), (False, True), (True, False), (True, True)]
    assert all(cells.count(cell) == 10 for cell in cells) and len(set(rows.tolist())) == 40


def test_a_model_that_refuses_nothing_cannot_be_attacked() -> None:
    context = small_context()
    seen = replace(context.fit.observed, refused=np.zeros(len(context.fit), dtype=bool))
    calm = replace(context, fit=replace(context.fit, observed=seen))
    with pytest.raises(UndertowError, match="bare refused harmful fit prompts, and there are 0"):
        measure_attacks(calm)
