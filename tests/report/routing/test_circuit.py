from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.routed_result import GATE, bare_result, full_result, gated_circuit, gateless_circuit
from undertow.report.html import Section
from undertow.report.routing.circuit import bands_section, circuit_section, circuit_sentence


def _data(section: Section) -> dict[str, Any]:
    return {figure.name: figure.data for figure in section.figures}


def test_gates_and_amplifiers_in_a_sentence() -> None:
    circuit = gated_circuit()
    assert circuit_sentence(circuit) == (
        "Head 2.1 is a gate, of 24 heads screened. Heads 4.0 and 5.3 amplify it: their attribution falls when it is "
        "knocked out."
    )
    several = replace(circuit, gates=(GATE, (2, 2)), amplifiers=((4, 0),))
    assert "Heads 2.1 and 2.2 are gates" in circuit_sentence(several)
    assert "Head 4.0 amplifies them: its attribution falls when they are" in circuit_sentence(several)
    assert circuit_sentence(replace(circuit, amplifiers=())).endswith("No later head amplifies it.")


def test_no_gate_in_a_sentence() -> None:
    assert circuit_sentence(gateless_circuit()) == "No gate was found among 24 heads."
    direct = replace(gateless_circuit(), direct=((5, 2),))
    assert circuit_sentence(direct).endswith("Head 5.2 acts on the refusal directly.")


def test_every_row_is_a_point_with_both_intervals() -> None:
    result = full_result()
    section = circuit_section(result)
    points = {point["name"]: point for point in _data(section)["attribution"]["points"]}
    assert len(points) == len(result.circuit.rows)
    for row in result.circuit.rows:
        point = points[f"{row.head[0]}.{row.head[1]}"]
        assert tuple(point["x"].values()) == tuple(row.attribution)
        assert tuple(point["y"].values()) == tuple(row.necessity)
        assert point["group"] == row.role
    written = [name for trace in section.figures[0].plot["data"] for name in trace.get("text", ()) if name]
    assert {"2.1", "4.0", "5.3", "5.2"} <= set(written)


def test_cascade_stands_over_the_range_of_its_null() -> None:
    result = full_result()
    cascade = result.circuit.cascade
    assert cascade is not None
    rows = _data(circuit_section(result))["cascade"]["rows"]
    assert len(rows) == len(cascade.heads)
    places = {f"{block}.{head}": place for place, (block, head) in enumerate(cascade.heads)}
    for row in rows:
        place = places[row["name"]]
        assert (row["value"], row["low"], row["high"]) == (
            cascade.fall[place],
            cascade.low[place],
            cascade.high[place],
        )
        null = cascade.null[:, place]
        assert row["null"] == pytest.approx([null.min(), null.mean(), null.max()])
    assert {row["name"] for row in rows[:2]} == {"4.0", "5.3"}


def test_without_gates_there_is_no_cascade() -> None:
    section = circuit_section(bare_result())
    assert "cascade" not in _data(section) and "no cascade was measured" in section.control


def test_the_table_has_every_row_and_its_chances() -> None:
    result = full_result()
    (table,) = circuit_section(result).tables
    assert [row[0] for row in table.rows] == [f"{row.head[0]}.{row.head[1]}" for row in result.circuit.rows]
    assert table.rows[0][1] == "gate" and table.rows[0][3] == "< 0.001" and table.rows[4][3] == "0.800"


def test_steps_of_the_band_beside_random_sets() -> None:
    result = full_result()
    assert result.bands is not None
    steps = result.bands.steps
    data = _data(bands_section(result))
    lines = {line["name"]: line for line in data["bands"]["lines"]}
    for name in ("necessity", "sufficiency"):
        assert lines[name]["y"] == [getattr(step, name).value for step in steps]
        assert lines[name]["low"] == [getattr(step, name).low for step in steps]
    random = lines["random heads of the same blocks"]
    assert random["control"] and random["y"] == [step.random for step in steps]
    assert random["high"] == [step.random_high for step in steps]
    (refused,) = data["bands-refused"]["lines"]
    assert refused["y"] == [step.refused.value for step in steps]
    assert refused["high"] == [step.refused.high for step in steps]


def test_steps_beyond_the_band_are_hollow() -> None:
    trace = next(one for one in bands_section(full_result()).figures[0].plot["data"] if one.get("name") == "necessity")
    assert trace["marker"]["symbol"] == ["circle", "circle", "circle-open"]


def test_a_search_without_a_band_says_so() -> None:
    result = full_result()
    assert result.bands is not None
    steps = tuple(replace(step, chosen=False) for step in result.bands.steps)
    none = replace(result, bands=replace(result.bands, steps=steps, band=()))
    assert "there is no band" in bands_section(none).text and len(bands_section(none).figures) == 2
