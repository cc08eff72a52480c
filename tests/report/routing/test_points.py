from __future__ import annotations

import pytest

from tests.routed_result import number, share, unknown
from undertow.report.routing.points import Point, Row, rows_with_control, scatter
from undertow.report.tables import ReportError


def test_points_have_intervals_names_and_one_colour_a_role() -> None:
    points = [
        Point("2.1", number(1.0), number(2.0), "gate", named=True),
        Point("0.0", number(0.0), unknown()),
        Point("0.1", number(0.1), number(0.2)),
    ]
    figure = scatter("one", "A title", points, across="x", along="y", identity=True)
    gate, other, equal = figure.plot["data"]
    assert gate["text"] == ["2.1"] and gate["error_x"]["array"] == pytest.approx([0.3])
    assert other["x"] == [0.1] and other["name"] == "other heads (1)" and gate["marker"]["color"] == "#d9622b"
    assert equal["x"] == equal["y"] == [0.1, 2.0]
    assert [point["name"] for point in figure.data["points"]] == ["2.1", "0.1"]
    with pytest.raises(ReportError, match="two finite numbers"):
        scatter("one", "t", [points[1]], across="x", along="y")


def test_many_points_are_drawn_without_their_intervals() -> None:
    crowd = [Point(str(place), number(place), number(place)) for place in range(70)]
    figure = scatter("one", "t", crowd, across="x", along="y")
    assert "error_x" not in figure.plot["data"][0] and len(figure.data["points"]) == 70


def test_rows_stand_beside_control_and_null() -> None:
    rows = [
        Row("a", share(0.5), "gate", 0.1, (-0.1, 0.0, 0.2)),
        Row("lost", unknown(), "", 0.5),
        Row("b", share(0.2), "", None, None),
    ]
    figure = rows_with_control("one", "A title", rows, axis="x", control="a donor", null="a range")
    null, gate, other, control = figure.plot["data"]
    assert null["x"] == [-0.1, 0.2, None] and null["y"] == [0, 0, None] and null["name"] == "a range"
    assert gate["x"] == [0.5] and other["y"] == [1] and control["x"] == [0.1] and control["name"] == "a donor"
    assert [row["name"] for row in figure.data["rows"]] == ["a", "b"]
    assert figure.data["rows"][0]["null"] == [-0.1, 0.0, 0.2] and figure.data["rows"][1]["control"] is None
    with pytest.raises(ReportError, match="one finite number"):
        rows_with_control("one", "t", rows[1:2], axis="x")
