from __future__ import annotations

from pathlib import Path

import pytest

from undertow.engines import parts as module
from undertow.engines.parts import Parts
from undertow.errors import GuardError

ROWS = [{"row": 128, "id": "ü", "harmful": 0.1, "error": None}, {"row": 129, "id": None, "harmful": 1e-300}]


def test_a_part_comes_back_as_it_was_written_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    assert not parts.has(2)
    for _ in range(2):
        parts.write(2, ROWS)
    assert parts.has(2) and parts.read(2) == ROWS and parts.finished() == {2}
    assert len(list(tmp_path.iterdir())) == 1
    parts.remove(2)
    parts.remove(2)
    assert not parts.has(2) and parts.finished() == set()


def test_what_is_in_the_output_counts_as_finished(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.forget_below(3)
    assert parts.has(2) and not parts.has(3)
    assert parts.finished() == set()


def test_beginnings_are_counted_until_they_are_settled(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    assert [parts.begin("a"), parts.begin("a"), parts.begin("b")] == [0, 1, 0]
    parts.settle("a")
    assert [parts.begin("a"), parts.begin("b")] == [0, 1]
    parts.write(1, ROWS)
    (tmp_path / ".000000000004.torn").write_text('{"row"')
    parts.settle_all()
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001.jsonl"]
    assert parts.begin("b") == 0


def test_a_part_that_cannot_be_seen_or_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    parts = Parts(tmp_path)
    with pytest.raises(GuardError, match="all workers share"):
        parts.read(7)
    for damaged in ("", "{", "[1]\n"):
        (tmp_path / "000000000007.jsonl").write_text(damaged)
        with pytest.raises(GuardError, match="damaged"):
            parts.read(7)
