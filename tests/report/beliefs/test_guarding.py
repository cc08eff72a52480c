from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.report.beliefs.made import FAMILIES, full_result
from undertow.report.beliefs.guarding import duration, flops, guards_section, jailbreaks_section
from undertow.report.html import Section


def _data(section: Section) -> dict[str, Any]:
    return {figure.name: figure.data for figure in section.figures}


def test_shifts_stand_beside_those_of_harmless_requests() -> None:
    result = full_result()
    assert result.jailbreaks is not None
    bars = _data(jailbreaks_section(result, False))["jailbreak-refusal"]["bars"]
    shown = {(bar["name"], bar["group"]): bar["value"] for bar in bars}
    persuasion = result.jailbreaks.families[1]
    assert persuasion.refusal_shift is not None and persuasion.harmless_refusal_shift is not None
    assert shown["Persuasion", "harmful requests"] == persuasion.refusal_shift.value
    assert shown["Persuasion", "harmless requests (control)"] == persuasion.harmless_refusal_shift.value


def test_where_the_bare_requests_are_unknown_only_means_are_shown() -> None:
    result = full_result()
    assert result.jailbreaks is not None
    families = tuple(
        replace(
            one,
            harmfulness_shift=None,
            refusal_shift=None,
            harmless_harmfulness_shift=None,
            harmless_refusal_shift=None,
        )
        for one in result.jailbreaks.families
    )
    section = jailbreaks_section(replace(result, jailbreaks=replace(result.jailbreaks, families=families)), False)
    assert "not known" in section.text
    assert not {"jailbreak-refusal", "jailbreak-harmfulness"} & set(_data(section))
    assert len(_data(section)["jailbreak-beliefs"]["bars"]) == 2 * (1 + len(FAMILIES))


def test_without_a_search_there_is_no_word_of_suffix_search() -> None:
    result = full_result()
    assert result.jailbreaks is not None
    found = jailbreaks_section(replace(result, jailbreaks=replace(result.jailbreaks, suffixes=None)), False)
    assert "gradient" not in found.text and "suffix-shifts" not in _data(found)
    assert "gradient" in jailbreaks_section(result, False).text


def test_every_scored_judge_is_compared_at_two_per_cent() -> None:
    result = full_result()
    assert result.guards is not None
    bars = _data(guards_section(result))["guards"]["bars"]
    names = {bar["name"] for bar in bars}
    assert names == {row.title for row in result.guards.rows if row.recall}
    shown = {(bar["name"], bar["group"]): bar["value"] for bar in bars}
    assert shown["linear", "accepted harmful, flagged"] == pytest.approx(91 / 96)
    linear = result.guards.row("linear")
    assert linear is not None and shown["linear", "refused harmless, spared"] == linear.spared[0.02].value


def test_table_one_has_every_judge_family_and_cost() -> None:
    result = full_result()
    assert result.guards is not None
    section = guards_section(result)
    families = _data(section)["guards-families"]
    assert families["rows"] == [row.title for row in result.guards.rows]
    assert len(families["columns"]) == len(FAMILIES)
    own, fixed, costs = section.tables
    assert [row[0].text for row in own.rows] == [row.title for row in result.guards.rows]
    assert fixed.columns[2:5] == ("Recall at 1%", "Recall at 2%", "Recall at 5%")
    assert len(fixed.rows) == 5
    assert costs.rows[0][1:] == ("2.5\u202fGFLOP", "0", "300\u202f\u00b5s")
    assert "shuffled labels" in section.control and "own refusal" in section.control
    assert "0.300 (0.250 to 0.350)" in section.text


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "\u2013"), (0.0, "0"), (999.0, "999"), (1.5e6, "1.5\u202fMFLOP"), (1.79e12, "1.79\u202fTFLOP")],
)
def test_operations(value: float | None, said: str) -> None:
    assert flops(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "\u2013"), (2.5, "2.5\u202fs"), (0.012, "12\u202fms"), (3e-5, "30\u202f\u00b5s")]
)
def test_times(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said
