from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.engines import BLOCK, merge_seconds, table, watched
from undertow.guard.journal import Journal


def test_rates_count_from_the_first_commit_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([100.0, 103.0, 104.0, 105.0])
    monkeypatch.setattr("benchmarks.engines.time.perf_counter", lambda: next(moments))

    def way() -> None:
        with Journal(tmp_path / "out.jsonl") as journal:
            for first, count in ((0, 5), (5, 20), (25, 10)):
                journal.commit([{"row": row} for row in range(first, first + count)])

    assert watched(way, tmp_path / "out.jsonl") == {"start": 3.0, "rate": 15.0}
    assert Journal.commit.__name__ == "commit"


def test_the_table_divides_in_pairs() -> None:
    runs = {"local": (100.0, 200.0, 50.0), "ray": (150.0, 400.0, 100.0), "openai": (50.0, 50.0, 50.0)}
    case = {
        "name": "small",
        "engines": {name: [{"start": 9.0, "rate": rate} for rate in rates] for name, rates in runs.items()},
        "host_seconds": 0.0005,
        "read_seconds": 0.00005,
        "merge_seconds": 0.00002,
        "bytes_a_row": 160.0,
        "padded": 1.25,
    }
    text = table([case], 3)
    assert "| small | local, one core | 100 | 1 |" in text
    assert "| 150 | 2.00 (1.50 to 2.00) |" in text
    assert "| 50 | 0.50 (0.25 to 1.00) |" in text
    assert "0.50 ms (small)" in text and "50 microseconds" in text and "20 microseconds" in text
    assert "1.25 (small)" in text


def test_merging_is_timed_on_rows_as_they_are(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("".join(json.dumps({"row": row, "id": str(row), "harmful": 0.5}) + "\n" for row in range(100)))
    assert 0 < merge_seconds(output, chunks=3) < 0.1


def test_the_page_has_places_for_what_scripts_write() -> None:
    from benchmarks.engine_vllm import _BLOCK
    from benchmarks.plan import BLOCK as PLAN

    page = (Path(__file__).parents[2] / "docs/scale.md").read_text()
    assert all(pattern.search(page) for pattern in (BLOCK, PLAN, _BLOCK))
