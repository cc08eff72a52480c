from __future__ import annotations

import json

import pytest

from undertow.report.intervals import Bar, interval_bars, interval_dots
from undertow.report.tables import ReportError

SHIFTS = [
    Bar("role play", -0.4, -0.5, -0.3, 96, "harmful", True),
    Bar("role play", -0.1, -0.2, 0.05, 96, "harmless"),
    Bar("suffix", -0.2, -0.3, -0.1, 48, "harmful", True),
]


def test_dots_stand_at_their_values_with_their_intervals() -> None:
    figure = interval_dots("shifts", SHIFTS, axis="change", share=False, reference=0.0)
    first, second = figure.plot["data"]
    assert first["x"] == [-0.4, -0.2]
    assert first["error_x"]["array"] == pytest.approx([0.1, 0.1])
    assert second["error_x"]["array"] == pytest.approx([0.15])
    assert first["marker"]["symbol"] == ["circle", "circle"] and second["marker"]["symbol"] == ["diamond-open"]
    assert figure.data["bars"][1] == {
        "name": "role play", "group": "harmless", "value": -0.1, "low": -0.2, "high": 0.05, "n": 96,
    }  # fmt: skip


def test_the_axis_holds_every_interval_and_the_reference() -> None:
    low, high = interval_dots("s", SHIFTS, axis="change", share=False, reference=0.3).plot["layout"]["xaxis"]["range"]
    assert low < -0.5 and high > 0.3


def test_a_group_alone_on_its_line_stands_in_the_middle_of_it() -> None:
    first, second = interval_dots("s", SHIFTS, axis="change", share=False).plot["data"]
    assert first["y"][1] == 1.0
    assert first["y"][0] < 0 < second["y"][0]


def test_bars_begin_at_zero_and_carry_intervals() -> None:
    bars = [Bar("harmful", 0.9, 0.8, 0.95, 96, "harmful"), Bar("look-alike", 0.2, 0.1, 0.3, 96, "harmless")]
    first, second = interval_bars("rates", bars, axis="share refused").plot["data"]
    assert (first["type"], first["x"], first["y"]) == ("bar", [0.9], [0.0])
    assert (second["x"], second["y"]) == ([0.2], [1.0])
    assert first["error_x"]["arrayminus"] == pytest.approx([0.1])


@pytest.mark.parametrize("draw", [interval_bars, interval_dots])
def test_nothing_and_what_is_not_finite_are_refused(draw) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ReportError, match="at least one"):
        draw("x", [], axis="a")
    with pytest.raises(ReportError, match="not finite"):
        draw("x", [Bar("odd", float("nan"), 0.0, 1.0, 3)], axis="a")


def test_all_of_it_is_plain_json() -> None:
    figure = interval_dots("s", SHIFTS, axis="change", share=False)
    json.dumps([figure.plot, figure.data], allow_nan=False)
    assert "role play, suffix" in figure.description
