from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from undertow.report.heatmaps import HeatPanel, heat_maps
from undertow.report.tables import ReportError

STATES, COEFFICIENTS = (0, 2, 5), (1.0, 4.0)
VALUES = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, np.nan]])


def _panels(view: str = "") -> list[HeatPanel]:
    return [
        HeatPanel(row, column, VALUES, view, mark=(2, 4.0) if column == "left" else None, low=VALUES - 0.05)
        for row in ("harmfulness", "random")
        for column in ("left", "right")
    ]


def _maps(figure: Any) -> list[Any]:
    return [trace for trace in figure.plot["data"] if trace["type"] == "heatmap"]


def test_states_run_across_and_coefficients_upwards() -> None:
    figure = heat_maps("h", _panels(), STATES, COEFFICIENTS, axis="share")
    first = _maps(figure)[0]
    assert first["z"] == [[0.1, 0.3, 0.5], [0.2, 0.4, None]]
    assert first["text"][1][2] == "state 5, 4\u00d7"
    layout = figure.plot["layout"]
    assert layout["xaxis3"]["ticktext"] == ["0", "2", "5"] and layout["yaxis"]["ticktext"] == ["1\u00d7", "4\u00d7"]
    assert (layout["coloraxis"]["cmin"], layout["coloraxis"]["cmax"]) == (0, 1)


def test_every_panel_has_a_place_of_its_own() -> None:
    layout = heat_maps("h", _panels(), STATES, COEFFICIENTS, axis="share").plot["layout"]
    places = [
        (*layout[f"xaxis{number}"]["domain"], *layout[f"yaxis{number}"]["domain"]) for number in ("", "2", "3", "4")
    ]
    for one, (left, right, bottom, top) in enumerate(places):
        assert 0 <= left < right <= 1 + 1e-9 and -1e-9 <= bottom < top <= 1
        for other in places[:one]:
            apart = left >= other[1] or right <= other[0] or bottom >= other[3] or top <= other[2]
            assert apart


def test_the_chosen_cell_is_marked_where_it_is() -> None:
    figure = heat_maps("h", _panels(), STATES, COEFFICIENTS, axis="share")
    marks = [trace for trace in figure.plot["data"] if trace["type"] == "scatter"]
    assert [(mark["x"], mark["y"]) for mark in marks] == [([1], [1])] * 2
    assert figure.data["panels"][0]["mark"] == {"state": 2, "coefficient": 4.0}


def test_views_show_their_own_traces_only() -> None:
    panels = [*_panels("harmless"), *_panels("harmful")]
    figure = heat_maps("h", panels, STATES, COEFFICIENTS, axis="share")
    first, second = figure.views["harmless"], figure.views["harmful"]
    assert not set(first) & set(second)
    assert sorted([*first, *second]) == list(range(len(figure.plot["data"])))
    assert all(figure.plot["data"][index]["visible"] for index in first)
    assert not any(figure.plot["data"][index]["visible"] for index in second)
    assert heat_maps("h", _panels(), STATES, COEFFICIENTS, axis="share").views == {}


def test_its_numbers_are_kept_with_their_intervals_as_plain_json() -> None:
    figure = heat_maps("h", _panels(), STATES, COEFFICIENTS, axis="share")
    panel = json.loads(json.dumps(figure.data, allow_nan=False))["panels"][0]
    assert panel["values"] == [[0.1, 0.2], [0.3, 0.4], [0.5, None]]
    assert panel["low"][0][0] == pytest.approx(0.05) and "high" not in panel
    assert figure.data["states"] == [0, 2, 5]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ReportError, match="3 states x 2 coefficients"):
        heat_maps("h", [HeatPanel("a", "b", VALUES.T)], STATES, COEFFICIENTS, axis="share")
    with pytest.raises(ReportError):
        heat_maps("h", [], STATES, COEFFICIENTS, axis="share")
