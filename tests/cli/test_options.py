from __future__ import annotations

from pathlib import Path

import pytest

from undertow.cli.options import checked_device, claim_output, reading_options
from undertow.errors import ModelError, UndertowError


def test_an_output_that_may_be_written_is_passed_on_and_nothing_is_made(tmp_path: Path) -> None:
    for path, folder in ((tmp_path / "a.jsonl", False), (tmp_path / "new" / "deep", True), (tmp_path, True)):
        assert claim_output(path, overwrite=False, folder=folder) == path
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_there_needs_overwrite(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UndertowError, match="--overwrite"):
        claim_output(tmp_path / "file", overwrite=False)
    with pytest.raises(UndertowError, match="--overwrite"):
        claim_output(tmp_path, overwrite=False, folder=True)
    assert claim_output(tmp_path / "file", overwrite=True)
    file = tmp_path / "file"
    for path, folder in ((tmp_path, False), (file, True), (file / "below", False), (Path(""), False)):
        with pytest.raises(UndertowError):
            claim_output(path, overwrite=True, folder=folder)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [checked_device(device) for device in (None, "auto", "cpu")] == [None, "auto", "cpu"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert checked_device("cuda") == "cuda" and checked_device("cuda:1") == "cuda:1"
    for device in ("cuda:2", "warp", "meta", ""):
        with pytest.raises(ModelError, match="no device"):
            checked_device(device)


def test_only_given_columns_are_passed_on() -> None:
    assert reading_options(None, "label", None) == {"label_column": "label"}
