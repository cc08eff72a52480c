from __future__ import annotations

import math

import pytest

from undertow.report.routing.heads import HeadPanel, head_maps
from undertow.report.tables import ReportError

HEADS = ((0, 0), (0, 1), (2, 0), (2, 1))


def test_one_scale_a_view_and_cells_where_heads_are() -> None:
    panels = [
        HeadPanel("Necessity", HEADS, [0.1, -3.0, math.nan, 1.0]),
        HeadPanel("Attribution", HEADS[:1], [2.0]),
    ]
    figure = head_maps("heads", "A title", panels, {"gate": [(0, 1)], "amplifier": []})
    first, second, *rings = figure.plot["data"]
    assert first["z"] == [[0.1, -3.0], [None, 1.0]] and second["z"] == [[2.0, None], [None, None]]
    assert first["zmax"] == second["zmax"] == 3.0 and first["zmin"] == -3.0
    assert first["showscale"] and not second["showscale"]
    assert [(ring["x"], ring["y"], ring["name"]) for ring in rings] == [([1], [0], "gate")] * 2
    assert figure.data["panels"][0]["values"] == [0.1, -3.0, None, 1.0]
    # Block 1 has no head, so that the second row of cells is block 2.
    assert figure.plot["layout"]["yaxis"]["ticktext"] == ["0", "2"]


def test_every_view_has_its_own_scale() -> None:
    panels = [HeadPanel("Necessity", HEADS, [float(size)] * 4, view=f"view {size}") for size in (1, 5)]
    figure = head_maps("heads", "A title", panels)
    assert figure.views == {"view 1": (0,), "view 5": (1,)}
    assert [trace["zmax"] for trace in figure.plot["data"]] == [1.0, 5.0]
    assert all(trace["showscale"] for trace in figure.plot["data"])


def test_maps_stand_beside_each_other_only_where_they_are_narrow() -> None:
    def domains(width: int) -> list[list[float]]:
        heads = [(0, head) for head in range(width)]
        panels = [HeadPanel(title, heads, [0.0] * width) for title in ("a", "b")]
        layout = head_maps("heads", "t", panels).plot["layout"]
        return [layout[axis]["domain"] for axis in ("xaxis", "xaxis2", "yaxis", "yaxis2")]

    first, second, _, _ = domains(4)
    assert first[1] < second[0]
    first, second, upper, lower = domains(32)
    assert first == second == [0, 1] and upper[0] > lower[1] and lower[0] >= 0 and upper[1] <= 1


def test_a_map_that_does_not_fit_its_heads_is_refused() -> None:
    for panels in ([], [HeadPanel("a", HEADS, [1.0])], [HeadPanel("a", (), [])]):
        with pytest.raises(ReportError, match="one number a head"):
            head_maps("heads", "t", panels)
