from __future__ import annotations

from dataclasses import replace

import pytest

from tests.routed_result import BLOCKS, full_result
from undertow.report.routing.timing import commitment_section


def test_curves_of_all_positions_both_ways_with_their_control() -> None:
    result = full_result()
    assert result.commitment is not None
    figures = {figure.name: figure for figure in commitment_section(result).figures}
    assert len(figures["commitment"].views) == 2
    lines = {(line["view"], line["name"]): line for line in figures["commitment"].data["lines"]}
    readouts = {(line["view"], line["name"]): line for line in figures["commitment-readout"].data["lines"]}
    assert len(lines) == len(result.commitment.curves)
    for curve in result.commitment.curves:
        view = "Sensitive prompts" if curve.toward == "answer" else "Controls"
        name = f"{curve.position} (40)" if curve.donor == "pair" else f"{curve.position}, same class (40)"
        key = next(one for one in lines if one[0].startswith(view) and one[1] == name)
        assert lines[key]["x"] == list(range(BLOCKS + 1))
        for part, values in (("y", curve.flipped), ("low", curve.low), ("high", curve.high)):
            assert lines[key][part] == pytest.approx(values)
        assert lines[key]["control"] is (curve.donor != "pair")
        assert readouts[key]["y"] == pytest.approx(curve.readout)


def test_first_and_last_states_in_words_and_in_a_table() -> None:
    section = commitment_section(full_result())
    assert "from state 3 on the exchange of t_post flips half of the replies, and the last state" in section.text
    assert "earlier tokens do so at no state" in section.text
    (table,) = section.tables
    assert table.rows == (("answer", 3, 2, 40), ("refusal", 3, "none", 40))


def test_without_curves_only_the_words_stand() -> None:
    result = full_result()
    assert result.commitment is not None
    section = commitment_section(replace(result, commitment=replace(result.commitment, curves=())))
    assert not section.figures and section.tables
