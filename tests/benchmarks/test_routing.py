"""The screening benchmark: its two ways agree, and its section is written."""

from __future__ import annotations

import pytest

from benchmarks import routing
from benchmarks.table import routing as section
from undertow.model import load


def test_replay_and_the_loop_read_the_same() -> None:
    row = routing.compare(load("organism:aligned"), 5, 1)
    assert row["R"] == 24 and row["pairs"] == 5 and row["difference"] <= routing.WANTED_DIFFERENCE
    assert row["bound"] == pytest.approx(24 * row["T"] / (row["T"] + 23))
    assert row["share"] == pytest.approx(row["speed_up"]["median"] / row["bound"]) and row["share"] > 0
    lines = section({"rows": [row], "model": "organism:aligned", "threads": 1, "repeats": 1})
    assert lines[0].startswith("## Routing study") and "`organism:aligned`, 5 pairs" in lines[2]
    assert f"| {row['T']:.1f} | 24 |" in lines[-1]
