from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.report.beliefs.made import CATEGORIES, FAMILIES, LAYERS, bare_result, full_result
from undertow.report.beliefs.knowing import directions_section, map_section, separation_section, sorting_section
from undertow.report.html import Section
from undertow.report.tables import Cell


def _data(section: Section) -> dict[str, Any]:
    return {figure.name: figure.data for figure in section.figures}


def test_refusals_are_shown_for_every_group_with_its_truth() -> None:
    result = full_result()
    section = sorting_section(result)
    bars = _data(section)["refusal-rates"]["bars"]
    assert {bar["name"]: (bar["value"], bar["group"] == "harmful") for bar in bars} == {
        title: (found.value, result.sorting.harmful[title]) for title, found in result.sorting.refused.items()
    }
    assert "3 replies broke off" in section.text
    assert "`substring` and `classifier`, agree on 90.0" in section.control


def test_one_judge_alone_is_said_to_be_alone() -> None:
    assert "Only one judge" in sorting_section(bare_result()).control


def test_separation_has_both_positions_and_its_control() -> None:
    result = full_result()
    assert result.separation is not None
    data = _data(separation_section(result))
    assert set(data) == {"separation-t_inst", "separation-t_post"}
    band = result.separation.bands["t_inst"][1]
    assert data["separation-t_inst"]["curves"]["accepted harmful (96)"]["values"] == pytest.approx(band.mean)
    table = separation_section(result).tables[0]
    assert table.rows[1][1] == Cell("89.6\u202f%", note="81.7 to 94.9\u202f%")
    assert str(table.rows[-1][0]).startswith("Control")


def test_the_map_shows_every_prompt_once_in_its_coarse_kind() -> None:
    result = full_result()
    assert result.belief_map is not None
    data = _data(map_section(result, False))
    points = data["belief-map"]["points"]
    assert sum(len(found["harmfulness"]) for found in points.values()) == len(result.belief_map.prompts)
    bare = [row for row, group in enumerate(result.belief_map.groups) if group == "harmful"]
    assert points["harmful, bare"]["refusal"] == pytest.approx(result.belief_map.refusal[bare])
    wrapped = [row for row, group in enumerate(result.belief_map.groups) if group.endswith(", harmful")]
    assert points["harmful, in a wrapper"]["harmfulness"] == pytest.approx(result.belief_map.harmfulness[wrapped])


def test_every_family_is_a_view_beside_the_bare_prompts() -> None:
    result = full_result()
    figure = next(one for one in map_section(result, False).figures if one.name == "belief-map-families")
    assert list(figure.views) == ["Role play", "Persuasion", "Suffix"]
    names = [trace["name"].rsplit(" (", 1)[0] for trace in figure.plot["data"]]
    for family, traces in zip(FAMILIES, figure.views.values(), strict=True):
        shown = {names[index] for index in traces}
        title = family.replace("_", " ")
        assert {"harmful, bare", "harmless, bare", f"{title}, harmful", f"{title}, harmless"} <= shown
        assert not any(other.replace("_", " ") in name for other in FAMILIES if other != family for name in shown)
        colours = [
            (figure.plot["data"][index]["marker"]["color"], figure.plot["data"][index]["marker"]["symbol"])
            for index in traces
        ]
        assert len(set(colours)) == len(colours)


def test_cosine_stands_between_ceiling_and_random_band() -> None:
    result = full_result()
    assert result.directions is not None
    section = directions_section(result)
    curves = _data(section)["direction-cosines"]["curves"]
    assert curves["harmfulness and refusal"]["values"] == pytest.approx(result.directions.cosine.mean)
    assert curves["largest cosine that this much noise allows"]["values"][0] is None
    assert curves["harmfulness and random directions"]["high"] == pytest.approx([0.2] * (LAYERS + 1))
    assert f"{LAYERS} of {LAYERS + 1} states; at {LAYERS} of these" in section.text


def test_with_little_data_the_cosine_is_said_to_mean_little() -> None:
    result = full_result()
    assert result.directions is not None
    noisy = replace(result.directions, ceiling=np.full(LAYERS + 1, 0.5))
    assert "say little" in directions_section(replace(result, directions=noisy)).text


def test_categories_are_a_matrix_a_direction() -> None:
    result = full_result()
    assert result.directions is not None
    data = _data(directions_section(result))["category-cosines"]
    assert data["rows"] == list(CATEGORIES)
    assert np.array(data["tables"]["Refusal"]) == pytest.approx(result.directions.category_cosines["refusal"])
    alone = replace(result.directions, categories=(), category_spread={})
    assert "category-cosines" not in _data(directions_section(replace(result, directions=alone)))


def test_a_spread_that_is_missing_is_named() -> None:
    result = full_result()
    assert result.directions is not None
    spread = {"harmfulness": result.directions.category_spread["harmfulness"]}
    found = directions_section(replace(result, directions=replace(result.directions, category_spread=spread)))
    assert any("Too few refused or accepted prompts a category for refusal" in table.caption for table in found.tables)
