"""Chunks of a scan that workers finish out of order, each in a file of its own, and how often each was begun."""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undertow.errors import GuardError

_NAME = re.compile(r"(\d{12})\.jsonl")
_BELOW = "below"
_PATIENCE = 10.0


class Parts:
    """The folder of one scan's parts; the driver and all workers see it.

    A part is there whole or not at all: it is written under a name of its own, synced, and renamed.

    Args:
        folder: an existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, chunk: int, rows: Sequence[dict[str, Any]]) -> None:
        """Put a finished chunk there; writing the same chunk twice leaves one."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        temporary = self.folder / f".{chunk:012d}.{uuid.uuid4().hex}"
        with open(temporary, "w", encoding="ascii") as stream:
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self._path(chunk))

    def read(self, chunk: int) -> list[dict[str, Any]]:
        """The rows of a finished chunk.

        Raises:
            GuardError: the part cannot be seen from here, or is damaged.
        """
        path = self._path(chunk)
        # What a worker on another machine has renamed may take a moment to show on a network file system.
        deadline = time.monotonic() + _PATIENCE
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
        except FileNotFoundError:
            raise GuardError(
                f"A worker wrote {path.name}, and it cannot be seen in {self.folder}; the output's folder must lie on "
                "a file system that all workers share."
            ) from None
        except ValueError:
            rows = []
        if not rows or not isinstance(rows[0], dict):
            raise GuardError(f"{path} is damaged; delete it, and its rows are scored again.")
        return rows

    def has(self, chunk: int) -> bool:
        """Whether a chunk is finished: there, or in the output already."""
        if self._path(chunk).exists():
            return True
        try:
            return chunk < int((self.folder / _BELOW).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return False

    def forget_below(self, chunk: int) -> None:
        """Note that all chunks below this one are in the output, and their parts no longer needed."""
        temporary = self.folder / f".{_BELOW}"
        temporary.write_text(str(chunk), encoding="ascii")
        os.replace(temporary, self.folder / _BELOW)

    def finished(self) -> set[int]:
        """Numbers of all finished chunks."""
        return {int(found[1]) for path in self.folder.iterdir() if (found := _NAME.fullmatch(path.name))}

    def remove(self, chunk: int) -> None:
        """Delete a part, if it is there."""
        self._path(chunk).unlink(missing_ok=True)

    def begin(self, name: str) -> int:
        """Note that something is begun; returns how often it was begun before and not settled."""
        path = self.folder / f"{name}.begun"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)
        return before

    def settle(self, name: str) -> None:
        """Forget how often something was begun."""
        (self.folder / f"{name}.begun").unlink(missing_ok=True)

    def settle_all(self) -> None:
        """Forget everything that a driver which was killed had begun, and half-written parts."""
        for path in self.folder.iterdir():
            if path.name.endswith(".begun") or path.name.startswith("."):
                path.unlink(missing_ok=True)

    def _path(self, chunk: int) -> Path:
        return self.folder / f"{chunk:012d}.jsonl"
