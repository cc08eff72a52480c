from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.routed_result import AMPLIFIERS, DIRECT, GATE, HARMLESS, HEADS, bare_result, full_result
from undertow.report.html import Section
from undertow.report.routing.screening import TOP, pairs_section, screening_section
from undertow.report.tables import Cell


def _data(section: Section) -> dict[str, Any]:
    return {figure.name: figure.data for figure in section.figures}


def test_pairs_are_counted_and_their_refusals_drawn() -> None:
    result = full_result()
    section = pairs_section(result, False)
    bars = _data(section)["pair-refusals"]["bars"]
    assert [(bar["value"], bar["low"], bar["high"], bar["n"]) for bar in bars] == [
        tuple(found) for found in result.pairs.refused.values()
    ]
    assert "0.200 (0.100 to 0.300) tokens longer than their controls" in section.text and "80.0" in section.text
    assert section.tables[1].rows[0][1] == HARMLESS


def test_every_head_of_every_screening_is_in_the_map() -> None:
    result = full_result()
    data = _data(screening_section(result))["heads"]
    panels = {(panel["view"], panel["title"]): panel for panel in data["panels"]}
    for view, one in zip(dict.fromkeys(panel["view"] for panel in data["panels"]), result.screenings, strict=True):
        for title, found in (("Necessity", one.necessity), ("Sufficiency", one.sufficiency)):
            panel = panels[view, title]
            assert [tuple(head) for head in panel["heads"]] == list(HEADS)
            for key, values in (("values", found.value), ("low", found.low), ("high", found.high)):
                assert panel[key] == pytest.approx(values)
    rows = result.circuit.rows
    attribution = panels[data["panels"][0]["view"], "Attribution"]
    assert [tuple(head) for head in attribution["heads"]] == [row.head for row in rows]
    assert attribution["values"] == [row.attribution.value for row in rows]
    assert data["marks"] == {
        "gate": [list(GATE)], "amplifier": [list(head) for head in AMPLIFIERS], "direct": [list(DIRECT)],
    }  # fmt: skip


def test_the_colour_of_a_cell_is_its_head() -> None:
    result = full_result()
    figure = screening_section(result).figures[0]
    drawn = np.array(figure.plot["data"][0]["z"], dtype=float)
    for (block, head), value in zip(HEADS, result.screenings[0].necessity.value, strict=True):
        assert drawn[block, head] == pytest.approx(value)
    ringed = [trace for trace in figure.plot["data"] if trace["type"] == "scatter" and trace["name"] == "gate"]
    assert {(trace["y"][0], trace["x"][0]) for trace in ringed} == {GATE}


def test_attribution_is_no_panel_where_the_unit_is_another() -> None:
    result = full_result()
    other = replace(result, screenings=result.screenings[2:])
    titles = {panel["title"] for panel in _data(screening_section(other))["heads"]["panels"]}
    assert titles == {"Necessity", "Sufficiency"}


@pytest.mark.parametrize("kind", ["necessity", "sufficiency"])
def test_largest_heads_stand_beside_their_control(kind: str) -> None:
    result = full_result()
    found = getattr(result.screenings[0], kind)
    rows = _data(screening_section(result))[f"heads-{kind}"]["rows"]
    order = sorted(range(len(HEADS)), key=lambda place: -found.value[place])[:TOP]
    assert [row["name"] for row in rows] == [f"{HEADS[place][0]}.{HEADS[place][1]}" for place in order]
    for row, place in zip(rows, order, strict=True):
        assert (row["value"], row["low"], row["high"]) == (found.value[place], found.low[place], found.high[place])
        assert row["control"] == found.control[place] and row["n"] == found.n
    assert rows[0]["group"] == "gate"


def test_significant_heads_are_named_and_their_absence_too() -> None:
    result = full_result()
    assert "heads 2.1, 4.0, 5.2 and 5.3 are necessary" in screening_section(result).text
    first = result.screenings[0]
    nothing = replace(first.necessity, p=np.ones(len(HEADS)))
    weak = replace(result, screenings=(replace(first, necessity=nothing),))
    assert "no head is necessary and heads 2.1" in screening_section(weak).text
    crowd = replace(result, screenings=(replace(first, necessity=replace(first.necessity, p=np.zeros(len(HEADS)))),))
    assert "0.0, 0.1, 0.2, 0.3, 1.0, 1.1, 1.2 and 1.3 (24 in all) are necessary" in screening_section(crowd).text


def test_every_screening_has_a_row() -> None:
    result = full_result()
    (table,) = screening_section(result).tables
    assert [row[1] for row in table.rows] == ["t_post", "tail", "t_post"]
    assert table.rows[0][3] == "2.1" and table.rows[0][6] == "< 0.001"
    assert isinstance(table.rows[0][4], Cell)


def test_without_a_screening_there_is_a_reason() -> None:
    assert screening_section(replace(bare_result(), screenings=(), skipped={})).skipped == "No head was exchanged."
