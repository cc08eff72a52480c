from __future__ import annotations

import json

import pytest

from undertow.report.matrix import matrix
from undertow.report.tables import ReportError

NAMES = ("fraud", "drugs")


def test_cosines_are_coloured_from_minus_one_to_one_and_written_short() -> None:
    figure = matrix("m", {"harmfulness": [[1.0, -0.25], [0.5, float("nan")]]}, NAMES, NAMES, kind="cosine")
    cells = figure.plot["data"][0]
    assert cells["z"] == [[1.0, -0.25], [0.5, None]]
    assert cells["text"] == [["1.00", "-.25"], [".50", ""]]
    assert (cells["zmin"], cells["zmax"]) == (-1, 1)
    assert figure.views == {}


def test_counts_are_coloured_by_their_share_of_the_row() -> None:
    figure = matrix("m", {"flow": [[30, 10], [0, 0]]}, NAMES, NAMES, kind="count", row_axis="before")
    cells = figure.plot["data"][0]
    assert cells["z"] == [[0.75, 0.25], [0.0, 0.0]]
    assert cells["text"] == [["30", "10"], ["0", "0"]]
    assert figure.data["tables"]["flow"] == [[30, 10], [0, 0]]


def test_several_tables_are_views_and_shares_are_per_cent() -> None:
    tables: dict[str, list[list[float | None]]] = {"one": [[0.5, None]], "two": [[0.25, 1.0]]}
    figure = matrix("m", tables, ["judge"], NAMES, kind="share")
    assert figure.views == {"one": (0,), "two": (1,)}
    assert [trace["visible"] for trace in figure.plot["data"]] == [True, False]
    assert figure.plot["data"][0]["text"] == [["50\u202f%", ""]]
    json.dumps([figure.plot, figure.data], allow_nan=False)


def test_what_does_not_fit_is_refused() -> None:
    wrong: list[dict[str, list[list[float]]]] = [{}, {"a": [[1.0, 2.0]]}, {"a": [[1.0], [2.0]]}]
    for tables in wrong:
        with pytest.raises(ReportError):
            matrix("m", tables, NAMES, NAMES, kind="cosine")
