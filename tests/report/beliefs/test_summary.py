from __future__ import annotations

from dataclasses import replace

from tests.report.beliefs.made import bare_result, full_result
from undertow.measure.statistics import Estimate
from undertow.report.beliefs.summary import attacked, headlines, summary


def test_it_says_what_holds_and_what_fails() -> None:
    text = summary(full_result())
    assert "1 of 3 claims did not reproduce, \u201cSuffixes lower the belief of harmfulness to zero\u201d" in text
    assert "1 could not be tested" in text
    assert "89.6\u202f% of the harmful requests that it answers still look harmful" in text
    assert "flags 94.8\u202f% of the answered harmful requests" in text and "the published rule flags 60.4" in text
    assert (
        "Finetuned to comply, it refuses 2.1\u202f% of plain harmful requests, 97.9\u202f% before; the best guard, "
        "unchanged, flags 89.6\u202f% of harmful requests, 94.8\u202f% before."
    ) in text


def test_shares_of_several_groups_are_weighted_by_their_prompts() -> None:
    result = full_result()
    refused = {"harmful": Estimate(0.9, 0.8, 1.0, 10), "a, harmful": Estimate(0.0, 0.0, 0.1, 90),
               "b, harmful": Estimate(1.0, 0.9, 1.0, 10)}  # fmt: skip
    sorting = replace(result.sorting, refused=refused, harmful=dict.fromkeys(refused, True))
    text = summary(replace(result, sorting=sorting))
    assert "refuses 90.0\u202f% of harmful requests. In jailbreak wrappers it answers 90.0\u202f% of them" in text


def test_a_dissociation_that_is_not_clear_is_not_claimed() -> None:
    result = full_result()
    assert "The two can be pushed apart" in summary(result)
    assert result.inversion is not None and result.inversion.dissociation is not None
    weak = replace(result.inversion.dissociation, value=Estimate(0.1, -0.1, 0.3, 48))
    text = summary(replace(result, inversion=replace(result.inversion, dissociation=weak)))
    assert "pushed apart" not in text and "did not show" in text


def test_headlines_take_their_tone_from_a_verdict_only() -> None:
    found = {headline.value: headline.tone for headline in headlines(full_result())}
    assert found["0.700"] == "good" and found["60.4\u202f%"] == ""
    assert len(found) <= 4


def test_with_everything_skipped_it_still_says_what_the_model_does() -> None:
    text = summary(bare_result())
    assert "refuses" in text and "Not measured: separation, the belief map" in text
    assert headlines(bare_result()) == []


def test_an_attack_without_bare_refusals_says_nothing() -> None:
    attack = full_result().attacks[0]
    assert attacked(replace(attack, comparison=replace(attack.comparison, refused={}))) == ""
