from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Ground
from undertow.cli.guards import open_guard
from undertow.errors import GuardError, ModelError


def test_the_guards_own_model_is_opened_when_none_is_named(ground: Ground) -> None:
    guard = open_guard(str(ground.guard))
    assert guard.model.name == str(ground.model) and guard.mismatches == ()


def test_the_guards_thinking_mode_is_kept_unless_another_is_asked_for(ground: Ground) -> None:
    assert open_guard(str(ground.guard), str(ground.model)).model.thinking is None
    with pytest.raises(ModelError, match="no thinking switch"):
        open_guard(str(ground.guard), str(ground.model), thinking=True)


def test_a_guard_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="no guard"):
        open_guard(str(tmp_path / "nowhere"))
