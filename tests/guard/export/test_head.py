from __future__ import annotations

import numpy as np
import pytest

from tests.guard.taught import fit_prompts
from undertow.guard import LatentGuard
from undertow.guard.export.head import Agreement, fit_head
from undertow.guard.rules import NormedRule
from undertow.measure.statistics import clopper_pearson
from undertow.model import ChatModel


@pytest.fixture(scope="module")
def centroid(chat: ChatModel) -> LatentGuard:
    return LatentGuard.fit(chat, *fit_prompts(), rule="centroid", refusal_rule=None, steering=False, progress=False)


def test_a_guard_of_every_state_gets_a_head_at_a_chosen_one(centroid: LatentGuard) -> None:
    head, agreement, notes = fit_head(centroid, *fit_prompts(), progress=False)
    assert head.rule == "normed" and len(head.harmfulness.rule.states) == 1
    assert head.harmfulness.rule.states[0] >= 1
    assert any(f"state {head.harmfulness.rule.states[0]} was chosen" in note for note in notes)
    assert head.refusal is None and head.harmfulness.curve.intercept == 0
    assert [note for note in notes if "published threshold" in note] == [
        "The guard keeps the published threshold; the head's was set for a false-positive rate of 2.00%."
    ]
    assert head.harmfulness.threshold.rate == 0.02
    assert head.metrics["area"] > 0.95 and agreement.prompts == head.training["held_out"]


def test_the_agreement_is_counted_on_the_held_out_prompts_alone(chat: ChatModel, guard: LatentGuard) -> None:
    harmful, harmless = fit_prompts()
    head, agreement, _ = fit_head(guard, harmful, harmless, seed=3, progress=False)
    everything = [*harmful, *harmless]
    first = np.array([verdict.flagged for verdict in guard(everything)])
    second = np.array([verdict.flagged for verdict in head(everything)])
    assert agreement.prompts < len(everything)
    assert agreement.prompts - agreement.alike == agreement.only_first + agreement.only_second
    assert agreement.only_first <= (first & ~second).sum() and agreement.only_second <= (~first & second).sum()
    assert (agreement.low, agreement.high) == clopper_pearson(agreement.alike, agreement.prompts, 0.95)


def test_the_state_and_the_wanted_rate_are_the_guards(chat: ChatModel) -> None:
    settings = {"refusal_rule": None, "steering": False, "progress": False}
    guard = LatentGuard.fit(chat, *fit_prompts(), rule="linear", calibration=0.1, **settings)  # type: ignore[arg-type]
    head, _, notes = fit_head(guard, *fit_prompts(), progress=False)
    assert not any("published threshold" in note for note in notes)
    if len(guard.harmfulness.rule.states) == 1:
        assert head.harmfulness.rule.states == guard.harmfulness.rule.states
    assert head.harmfulness.threshold.rate == 0.1 == head.calibration["rate"]
    rule = head.harmfulness.rule
    assert isinstance(rule, NormedRule)
    assert rule.settings()["norm"] == "root mean square"


def test_the_sentence_names_both_kinds_of_difference() -> None:
    text = Agreement(97, 100, 0.915, 0.994, 2, 1).sentence()
    for words in ("100 prompts", "97 (97.0%", "91.5% to 99.4%", "2 are flagged by the guard alone and 1 by the head"):
        assert words in text
