from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from undertow.measure.storage import StorageError, load_tensors, save_tensors, write_atomically


def test_texts_and_bytes_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01" and os.listdir(path.parent) == ["file"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "file", "old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_tensors_keep_what_they_are(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.ones(1, dtype=torch.float16)}
    path = save_tensors(tmp_path / "t.safetensors", "thing/1", tensors, {"states": [1, 2]})
    loaded, about = load_tensors(path, "thing/1")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert about == {"states": [1, 2]}
    with pytest.raises(StorageError, match="holds a thing/1"):
        load_tensors(path, "other/1")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(StorageError, match="damaged"):
        load_tensors(path, "thing/1")
