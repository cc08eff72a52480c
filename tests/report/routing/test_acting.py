from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.routed_result import DOSES, HEADS, full_result
from undertow.report.html import Section
from undertow.report.routing.acting import ablation_section, crossed, modulation_section
from undertow.report.tables import Cell


def _data(section: Section) -> dict[str, Any]:
    return {figure.name: figure.data for figure in section.figures}


def test_every_ablation_is_a_view_of_all_heads_against_interchange() -> None:
    result = full_result()
    found = result.ablation
    assert found is not None
    section = ablation_section(result)
    assert list(section.figures[0].views) == ["Mean ablation", "Zero ablation", "Projection"]
    points = _data(section)["ablation"]["points"]
    assert len(points) == 3 * len(HEADS)
    for point in points:
        place = HEADS.index(tuple(map(int, point["name"].split("."))))
        method = point["view"].lower()
        for axis, name in (("x", "interchange"), ("y", method)):
            assert point[axis]["value"] == found.effects[name][place]
            assert point[axis]["low"] == found.low[name][place]
            assert point[axis]["high"] == found.high[name][place]


def test_correlations_and_behaviour_are_tabled() -> None:
    result = full_result()
    assert result.ablation is not None
    correlations, behaviour = ablation_section(result).tables
    assert correlations.rows[0][1:] == (Cell("0.600", note="0.500 to 0.700"), "80\u202f%")
    assert [row[0] for row in behaviour.rows] == [
        "Nothing", "Gates, zero ablation at t_post", "Random heads like the gates, zero ablation at all tokens",
    ]  # fmt: skip
    assert [row[1] for row in behaviour.rows] == ["\u2013", "2.1", "9 heads"]
    for row, (_, _, sensitive, _) in zip(behaviour.rows, result.ablation.behaviour, strict=True):
        assert row[2].text == f"{100 * sensitive.value:.1f}\u202f%" and row[4] == sensitive.n


def test_replies_against_dose_for_both_sides_and_every_group() -> None:
    result = full_result()
    found = result.modulation
    assert found is not None
    section = modulation_section(result)
    assert list(section.figures[0].views)[:3] == [
        "Sensitive, signal subtracted", "Controls, signal added", "Sensitive, signal subtracted: fraud",
    ]  # fmt: skip
    data = _data(section)["modulation"]
    lines = {(line["view"], line["name"]): line for line in data["lines"]}
    assert len(lines) == 4 * 2 * 4
    for curve in found.curves:
        view = "Sensitive, signal subtracted" if curve.prompts == "sensitive" else "Controls, signal added"
        view += "" if curve.group == "all" else f": {curve.group}"
        if curve.direction == "random":
            line = lines[view, "refused, random direction"]
            assert line["control"] and line["y"] == pytest.approx(curve.refusal)
            continue
        for name, values in (("refused", curve.refusal), ("evaded", curve.evasion), ("answered", curve.answer)):
            assert lines[view, name]["y"] == pytest.approx(values) and lines[view, name]["x"] == list(DOSES)
        assert lines[view, "refused"]["low"] == pytest.approx(curve.low)
        marks = [mark["value"] for mark in data["marks"] if mark["view"] == view]
        assert marks == ([] if curve.threshold is None else [curve.threshold.value])


def test_thresholds_of_all_groups_that_cross() -> None:
    result = full_result()
    section = modulation_section(result)
    bars = _data(section)["modulation-thresholds"]["bars"]
    assert {bar["name"] for bar in bars} == {"all prompts", "weapons <i>& more</i>", "en"}
    assert {(bar["value"], bar["low"], bar["high"]) for bar in bars} == {(0.45, 0.35, 0.55)}
    assert "Not crossed within the doses: 2." in _data(section)["modulation-thresholds"]["title"]
    uncrossed = [row for row in section.tables[0].rows if row[3] == "not crossed"]
    assert len(uncrossed) == 2 + 2 * 4


def test_without_any_crossing_there_is_no_figure_of_thresholds() -> None:
    result = full_result()
    assert result.modulation is not None
    curves = tuple(replace(curve, threshold=None) for curve in result.modulation.curves)
    flat = replace(result.modulation, curves=curves)
    assert "modulation-thresholds" not in _data(modulation_section(replace(result, modulation=flat)))
    assert crossed(flat) == ""
    assert crossed(result.modulation).startswith("Half of the replies change at 0.450 (0.350 to 0.550) residual norms")


def test_it_says_where_the_signal_was_scaled() -> None:
    result = full_result()
    assert result.modulation is not None
    assert "at state 2, before the gate" in modulation_section(result).text
    loose = replace(result, modulation=replace(result.modulation, before_gate=False))
    assert "no gate known to come after it" in modulation_section(loose).text
