from __future__ import annotations

import json
import sys

import pytest

from undertow.report.figures import (
    Bar,
    Curve,
    Figure,
    belief_map,
    figure_of,
    guard_comparison,
    quadrant_bars,
    score_curves,
)
from undertow.report.tables import ReportError

QUADRANTS = ("harmful, refused", "harmful, about to be answered")
BARS = [
    Bar("centroid", 0.7, 0.6, 0.8, 100, "jailbroken", True),
    Bar("words", 0.4, 0.3, 0.5, 100, "jailbroken"),
    Bar("centroid", 0.9, 0.8, 0.95, 80, "look-alike", True),
]


def test_the_belief_map_shows_every_prompt_and_keeps_its_numbers() -> None:
    figure = belief_map(
        "map",
        ["harmful", "harmless", "harmful"],
        [0.3, -0.2, 0.1],
        [0.5, -0.4, -0.1],
        labels=["<b>a</b>", "b", "c"],
        harmful_threshold=0.05,
    )
    first, second = figure.plot["data"]
    assert (first["x"], first["y"]) == ([0.3, 0.1], [0.5, -0.1])
    assert (second["x"], second["y"]) == ([-0.2], [-0.4])
    assert first["text"][0] == "&lt;b&gt;a&lt;/b&gt;"
    assert first["marker"]["symbol"] != second["marker"]["symbol"]
    assert figure.data["points"]["harmful"] == {"harmfulness": [0.3, 0.1], "refusal": [0.5, -0.1]}
    assert figure.data["thresholds"] == {"harmfulness": 0.05, "refusal": 0.0}
    lines = [(shape["x0"], shape["y0"]) for shape in figure.plot["layout"]["shapes"]]
    assert (0.05, 0) in lines and (0, 0.0) in lines
    assert "3 prompts" in figure.description


def test_a_crowded_belief_map_draws_fewer_points_but_keeps_all_numbers() -> None:
    figure = belief_map("map", ["a"] * 1000, [0.0] * 1000, [0.0] * 1000, most_points=100)
    assert len(figure.plot["data"][0]["x"]) == 100
    assert len(figure.data["points"]["a"]["refusal"]) == 1000


def test_a_belief_map_with_views_shows_only_their_kinds_in_colours_that_differ() -> None:
    kinds = ["bare", "a, harmful", "b, harmful"]
    views = {"a": ["bare", "a, harmful"], "b": ["bare", "b, harmful"]}
    figure = belief_map("map", kinds, [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], views=views)
    assert figure.views == {"a": (0, 1), "b": (0, 2)}
    assert [trace["visible"] for trace in figure.plot["data"]] == [True, True, False]
    bare, first, second = (trace["marker"]["color"] for trace in figure.plot["data"])
    assert bare != first == second
    with pytest.raises(ReportError, match="names a kind"):
        belief_map("map", kinds, [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], views={"a": ["c"]})


def test_states_without_a_number_are_left_out_of_line_and_band() -> None:
    gap = float("nan")
    figure = score_curves("s", [Curve("a", [gap, 0.2, 0.3], [gap, 0.1, 0.2], [gap, 0.3, 0.4])], [0, 1, 2])
    band, line = figure.plot["data"]
    assert (band["x"], band["y"]) == ([1, 2, 2, 1], [0.3, 0.4, 0.2, 0.1])
    assert line["y"] == [None, 0.2, 0.3]
    assert figure.data["curves"]["a"]["values"] == [None, 0.2, 0.3]
    json.dumps([figure.plot, figure.data], allow_nan=False)


def test_quadrant_bars_are_shares_of_each_kind() -> None:
    figure = quadrant_bars("q", {"harmful": dict(zip(QUADRANTS, (3, 1), strict=True)), "odd": {}}, QUADRANTS)
    assert [trace["x"] for trace in figure.plot["data"]] == [[0.75, 0.0], [0.25, 0.0]]
    assert figure.data["counts"]["harmful"] == {QUADRANTS[0]: 3, QUADRANTS[1]: 1}


def test_guards_are_compared_with_intervals() -> None:
    figure = guard_comparison("g", BARS, reference=0.95)
    first, second = figure.plot["data"]
    assert first["x"] == [0.7, 0.4]
    assert first["error_x"]["array"] == pytest.approx([0.1, 0.1])
    assert first["error_x"]["arrayminus"] == pytest.approx([0.1, 0.1])
    assert first["marker"]["symbol"] == ["circle", "circle-open"]
    assert len({*first["y"], *second["y"]}) == 3
    assert figure.plot["layout"]["yaxis"]["ticktext"] == ["centroid", "words"]
    assert figure.data["bars"][2] == {
        "name": "centroid", "group": "look-alike", "value": 0.9, "low": 0.8, "high": 0.95, "n": 80,
    }  # fmt: skip


def test_curves_have_bands_and_controls_are_grey() -> None:
    figure = score_curves(
        "s", [Curve("harmful", [0.1, 0.2], [0.0, 0.1], [0.2, 0.3]), Curve("random", [0.0, 0.0], control=True)], [0, 4]
    )
    band, line, control = figure.plot["data"]
    assert band["y"] == [0.2, 0.3, 0.1, 0.0] and band["x"] == [0, 4, 4, 0]
    assert line["y"] == [0.1, 0.2] and line["x"] == [0, 4]
    assert control["line"]["dash"] == "dash"
    assert figure.data["curves"]["harmful"]["high"] == [0.2, 0.3]


def test_figures_leave_text_and_background_to_the_page_and_are_plain_json() -> None:
    import plotly.graph_objects as graph_objects

    own = figure_of("own", graph_objects.Figure(graph_objects.Scatter(x=[1], y=[2])), {"a": 1}, "One point.")
    for figure in (own, guard_comparison("g", BARS)):
        layout = figure.plot["layout"]
        assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
        assert "template" not in layout and "color" not in layout.get("font", {})
        json.dumps([figure.plot, figure.data], allow_nan=False)
        assert isinstance(figure, Figure) and figure.description


@pytest.mark.parametrize(
    "ask",
    [
        lambda: belief_map("m", [], [], []),
        lambda: belief_map("m", ["a"], [0.0, 1.0], [0.0]),
        lambda: belief_map("m", ["a"], [0.0], [0.0], labels=["x", "y"]),
        lambda: quadrant_bars("q", {}, QUADRANTS),
        lambda: guard_comparison("g", []),
        lambda: score_curves("s", [], [0]),
        lambda: score_curves("s", [Curve("a", [0.0])], [0, 1]),
        lambda: score_curves("s", [Curve("a", [0.0, 1.0], [0.0], [1.0])], [0, 1]),
    ],
)
def test_parts_that_do_not_fit_are_refused(ask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ReportError):
        ask()


def test_without_plotly_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ReportError, match=r"pip install undertow\[report\]"):
        guard_comparison("g", BARS)
