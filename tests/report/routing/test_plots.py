from __future__ import annotations

import math

import pytest

from tests.routed_result import number, unknown
from undertow.report.routing.plots import Line, Mark, lines
from undertow.report.tables import ReportError


def test_lines_are_drawn_where_they_were_measured() -> None:
    first = Line("a", [0.0, 0.5, 2.0], [0.1, math.nan, 0.3], [0.0, 0.1, math.nan], [0.2, 0.3, 0.5])
    figure = lines("one", "A title", [first, Line("b", [0.0, 2.0], [1, 1], control=True)], across="x", along="y")
    band, curve, control = figure.plot["data"]
    assert curve["x"] == [0.0, 0.5, 2.0] and curve["y"] == [0.1, None, 0.3]
    # The third place has no finite interval, so that the band ends before it.
    assert band["x"] == [0.0, 0.5, 0.5, 0.0] and band["y"] == [0.2, 0.3, 0.1, 0.0]
    assert control["line"]["dash"] == "dash" and curve["line"]["dash"] == "solid"
    assert figure.data["lines"][0]["y"] == [0.1, None, 0.3] and figure.views == {}


def test_views_hold_their_lines_bands_and_marks() -> None:
    drawn = [Line("a", [0, 1], [0, 1], [0, 0], [1, 1], view=view) for view in ("first", "second")]
    figure = lines(
        "one", "A title", drawn, across="x", along="y", share=True, marks=[Mark("half", number(0.4, 0.1), "second")]
    )
    assert {view: len(traces) for view, traces in figure.views.items()} == {"first": 2, "second": 4}
    assert [trace["visible"] for trace in figure.plot["data"]] == [True, True, False, False, False, False]
    line = figure.plot["data"][figure.views["second"][-1]]
    assert line["x"] == [0.4, 0.4] and line["y"] == [0, 1.0]


def test_a_mark_without_a_number_is_not_drawn() -> None:
    figure = lines("one", "t", [Line("a", [0], [1])], across="x", along="y", marks=[Mark("half", unknown())])
    assert len(figure.plot["data"]) == 1


def test_lines_of_unequal_length_are_refused() -> None:
    with pytest.raises(ReportError, match="as many heights as places"):
        lines("one", "t", [Line("a", [0, 1], [1])], across="x", along="y")
    with pytest.raises(ReportError, match="must be a line"):
        lines("one", "t", [], across="x", along="y")
