from __future__ import annotations

import json

import pytest

from undertow.report.paths import Track, effect_paths
from undertow.report.tables import ReportError

TRACKS = [
    Track("harmfulness", (0.0, 1.0, 2.0), (0.0, 0.2, 0.4), (0.0, 0.5, 1.5), marked=1.5),
    Track("random", (0.0, 1.0, 2.0), (0.0, 0.0, 0.0), (0.0, 0.1, 0.0), control=True),
]


def test_one_line_a_direction_and_one_point_a_strength() -> None:
    figure = effect_paths("p", TRACKS, across="refusal", along="judgement", level=0.3)
    line, ring, control = figure.plot["data"]
    assert (line["x"], line["y"]) == ([0.0, 0.2, 0.4], [0.0, 0.5, 1.5])
    assert line["text"] == ["0\u00d7", "1\u00d7", "2\u00d7"]
    assert control["line"]["dash"] == "dash" and line["line"]["dash"] == "solid"
    assert ring["x"] == pytest.approx([0.3]) and ring["y"] == pytest.approx([1.0])
    assert 0.3 in [shape["x0"] for shape in figure.plot["layout"]["shapes"]]


def test_its_numbers_are_plain_json() -> None:
    figure = effect_paths("p", TRACKS, across="refusal", along="judgement")
    found = json.loads(json.dumps(figure.data, allow_nan=False))
    assert found["tracks"][0] == {
        "name": "harmfulness", "strengths": [0.0, 1.0, 2.0], "across": [0.0, 0.2, 0.4], "along": [0.0, 0.5, 1.5],
        "marked": 1.5,
    }  # fmt: skip
    assert found["level"] is None and found["tracks"][1]["marked"] is None


def test_what_does_not_fit_is_refused() -> None:
    for tracks in ([], [Track("a", (0.0, 1.0), (0.0,), (0.0, 1.0))]):
        with pytest.raises(ReportError):
            effect_paths("p", tracks, across="a", along="b")
