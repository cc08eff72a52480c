from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.report.beliefs.made import comparison, full_result
from undertow.guard.verdict import QUADRANTS
from undertow.report.beliefs.attacking import attacks_section, refusals_and_recall
from undertow.report.html import Section


def _data(section: Section) -> dict[str, Any]:
    return {figure.name: figure.data for figure in section.figures}


def test_refusals_stand_before_after_and_after_the_control() -> None:
    bars = _data(attacks_section(full_result()))["attack-refusals"]["bars"]
    shown = {(bar["name"], bar["group"]): bar["value"] for bar in bars}
    line = "Finetuning: bare harmful"
    assert [round(shown[line, group] * 96) for group in ("before", "after", "after the control")] == [94, 2, 93]
    assert ("Abliteration: bare harmful", "after the control") not in shown


def test_recall_is_that_of_both_rules_at_the_old_threshold() -> None:
    bars = _data(attacks_section(full_result()))["attack-recall"]["bars"]
    shown = {(bar["name"], bar["group"]): bar["value"] for bar in bars}
    best = comparison().guard("best").recall["wrapped"]
    assert shown["Finetuning: the best rule, wrapped harmful", "after"] == best.after.value
    assert shown["Finetuning: the published rule, bare harmful", "before"] == best.before.value


def test_quadrants_flow_in_a_table_for_every_attack_and_control() -> None:
    data = _data(attacks_section(full_result()))["attack-flow"]
    assert list(data["tables"]) == ["Finetuning", "Finetuning: the control", "Abliteration"]
    assert data["rows"] == data["columns"] == list(QUADRANTS)
    assert np.array_equal(data["tables"]["Finetuning"], comparison().flow)


def test_beliefs_and_cosines_before_and_after_have_their_control() -> None:
    data = _data(attacks_section(full_result()))
    groups = {bar["group"] for bar in data["attack-beliefs-finetuning"]["bars"]}
    assert groups == {"harmfulness", "refusal", "harmfulness, control", "refusal, control"}
    curves = data["attack-cosines-finetuning"]["curves"]
    assert curves["refusal, before and after"]["values"][0] is None
    assert curves["harmfulness, control"]["values"] == pytest.approx([0.98] * 7)
    assert "attack-states-abliteration" in data


def test_the_drop_is_in_the_text_in_points_with_its_interval() -> None:
    section = attacks_section(full_result())
    assert "a drop of 5.0 points (0.0 to 10.0)" in section.text.replace("\u22120.0", "0.0")
    assert "97.9\u202f% before and 96.9\u202f% after" in section.control


def test_one_attack_that_was_impossible_gives_its_reason() -> None:
    result = full_result()
    first = replace(result.attacks[0], about={"steps": 3, "no abliteration": "The weights are quantised."})
    section = attacks_section(replace(result, attacks=(first,)))
    assert section.skipped == "The weights are quantised."
    assert section.figures and "No" not in [row[0] for row in section.tables[-1].rows]


def test_nested_settings_are_one_row_each() -> None:
    rows = dict(row[:2] for row in attacks_section(full_result()).tables[1].rows)
    assert rows["Control, first_loss".replace("_", " ")] == "2.000"
    assert rows["States tried"] == "1, 2, 3" and rows["Learning rate"] == "0.001"


def test_what_an_attack_left_of_refusals_and_recall() -> None:
    before, after, _, recall = refusals_and_recall(comparison())
    assert before is not None and after is not None and recall is not None
    assert (before.value, after.value, recall.value) == (94 / 96, 2 / 96, 86 / 96)
    assert refusals_and_recall(replace(comparison(), refused={}, guards=())) == (None,) * 4
