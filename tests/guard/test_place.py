from __future__ import annotations

from pathlib import Path

import pytest

from undertow.errors import GuardError
from undertow.guard.place import Place

TASK = {"guard": "a", "source": "b"}


def test_every_task_has_parts_of_its_own_and_they_go_at_the_end(tmp_path: Path) -> None:
    place = Place(tmp_path / "out.jsonl")
    first, second = place.open_parts(TASK), place.open_parts(TASK | {"guard": "c"})
    assert first != second and first.parent == second.parent == place.parts
    assert place.open_parts(TASK) == first
    (first / "000000000001.jsonl").write_text("{}")
    place.output.write_text("")
    result = place.finish(TASK, 0, False)
    assert result.rows == 0 and not place.parts.exists()
    assert place.manifest.read() == TASK | {"finished": True, "rows": 0, "flagged": 0, "errors": 0, "quadrants": {}}


def test_overwriting_removes_parts_and_a_strangers_folder_stays(tmp_path: Path) -> None:
    place = Place(tmp_path / "out.jsonl")
    place.open_parts(TASK)
    place.open(TASK, resume=True, overwrite=True)
    assert not place.parts.exists()
    place.parts.mkdir()
    (place.parts / "mine").write_text("mine")
    with pytest.raises(GuardError, match="something else than parts"):
        place.open_parts(TASK)
    place.open(TASK, resume=True, overwrite=True)
    place.output.write_text("")
    place.finish(TASK, 0, False)
    assert (place.parts / "mine").read_text() == "mine"
