from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.routed_result import HEADS, full_result
from undertow.measure.statistics import proportion
from undertow.report.html import Section
from undertow.report.routing.comparing import built_section, comparison_section
from undertow.report.tables import Cell


def _data(section: Section) -> dict[str, Any]:
    return {figure.name: figure.data for figure in section.figures}


def test_necessity_of_both_models_head_by_head() -> None:
    result = full_result()
    found = result.comparison
    assert found is not None
    section = comparison_section(result)
    points = {point["name"]: point for point in _data(section)["comparison"]["points"]}
    for place, (block, head) in enumerate(HEADS):
        point = points[f"{block}.{head}"]
        assert (point["x"]["value"], point["y"]["value"]) == tuple(found.necessity[:, place])
    assert points["2.1"]["group"] == "moved"
    (bar,) = _data(section)["comparison-moved"]["bars"]
    assert (bar["value"], bar["low"], bar["high"], bar["n"]) == tuple(found.moved[0][1])
    assert "head 2.1 moved" in section.text and "No gate was found" in section.text


def test_overlap_stands_between_chance_and_stability() -> None:
    section = comparison_section(full_result())
    rows = {row[0]: row[1] for row in section.tables[0].rows}
    assert rows["Jaccard of the top 5"] == Cell("0.600", note="0.400 to 0.800")
    assert rows["Jaccard of random sets (control)"] == "0.120"
    assert "0.900" in section.control


def test_without_moved_heads_it_says_so() -> None:
    result = full_result()
    assert result.comparison is not None
    section = comparison_section(replace(result, comparison=replace(result.comparison, moved=())))
    assert "No head's necessity differs" in section.text
    assert "comparison-moved" not in _data(section) and len(section.tables) == 1


def test_scores_of_every_method_with_what_it_was_told() -> None:
    result = full_result()
    found = result.built
    assert found is not None
    section = built_section(result)
    (table,) = section.tables
    assert [(row[0], row[1]) for row in table.rows] == [
        ("Our rule", False), ("Ranking by attribution", True), ("Ranking by mean ablation", True),
    ]  # fmt: skip
    assert table.rows[0][-1] == Cell("2.0\u202f%", note="0.1 to 10.6\u202f%") and table.rows[1][-1] == "always"
    bars = _data(section)["built-scores"]["bars"]
    shown = {(bar["name"], bar["group"]): (bar["value"], bar["low"], bar["high"]) for bar in bars}
    assert len(shown) == 12
    for one, method in zip(
        found.scores, ("Our rule", "Ranking by attribution", "Ranking by mean ablation"), strict=True
    ):
        told = ", told the counts" if one.knows_count else ""
        assert shown["Gates found", method + told] == tuple(one.gate_recall[:3])
        assert shown["Named amplifiers that are amplifiers", method + told] == tuple(one.amplifier_precision[:3])
    assert found.spec in section.text and "50 models with a gate and 50 without" in section.text


def test_recall_by_number_of_gates_has_exact_intervals() -> None:
    result = full_result()
    assert result.built is not None
    bars = _data(built_section(result))["built-by-gates"]["bars"]
    assert [bar["name"] for bar in bars] == ["1 gate (25 builds)", "2 gates (15 builds)", "3 gates (10 builds)"]
    for bar, (_, named, there) in zip(bars, result.built.by_gates.values(), strict=True):
        assert (bar["value"], bar["low"], bar["high"], bar["n"]) == pytest.approx(tuple(proportion(named, there)))
