"""An append-only file of JSON lines that survives being killed, and the note that says what it belongs to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from undertow.errors import GuardError

_BLOCK = 1 << 20


class Journal:
    """Rows as JSON lines, appended in commits; a commit is on disk before it counts.

    Opening it cuts off a torn last line. Only one process at a time may hold a journal.

    Args:
        path: the file, made where missing.

    Attributes:
        rows: how many whole rows it holds.

    Raises:
        GuardError: another process writes to it, or it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # A plain descriptor, so that a commit is one write and nothing is left in a buffer of ours.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock()
            self.rows = self._recover()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def commit(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows and wait until they are on disk."""
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")) for row in rows]
        if not lines:
            return
        left = memoryview(("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))
        while left:
            left = left[os.write(self._descriptor, left) :]
        os.fsync(self._descriptor)
        self.rows += len(lines)

    def recover(self) -> None:
        """Set `rows` to what is there after a commit was interrupted (Ctrl-C, full disk), and cut off a torn line."""
        self.rows = self._recover()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise GuardError(f"Another scan is writing to {self.path}; wait for it or name another output.") from None

    def _recover(self) -> int:
        """Count whole lines, cut off what comes after the last, and check that the last row is the one it should be."""
        count, whole, last_start, position = 0, 0, 0, 0
        while block := os.pread(self._descriptor, _BLOCK, position):
            start = 0
            while (end := block.find(b"\n", start)) >= 0:
                count += 1
                last_start, whole = whole, position + end + 1
                start = end + 1
            position += len(block)
        os.ftruncate(self._descriptor, whole)
        os.lseek(self._descriptor, whole, os.SEEK_SET)
        if count:
            try:
                last = json.loads(os.pread(self._descriptor, whole - last_start, last_start))
                fits = last["row"] == count - 1
            except (ValueError, TypeError, KeyError):
                fits = False
            if not fits:
                raise GuardError(
                    f"{self.path} does not hold the rows that the unfinished scan wrote; use overwrite to start anew."
                )
        return count


class Manifest:
    """A small JSON file beside an output: which guard and source made it, and whether it is finished.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any] | None:
        """Its values, or None where there is no file. Raises GuardError where it is damaged."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, OSError):
            values = None
        if not isinstance(values, dict):
            raise GuardError(f"{self.path} is damaged; use overwrite to start anew.")
        return values

    def write(self, values: Mapping[str, Any]) -> None:
        """Replace it in one step."""
        # Always the same temporary name, so that a kill in mid-write leaves nothing that the next run does not reuse.
        temporary = self.path.with_name(f".{self.path.name}.partial")
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(values, indent=2) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self.path)

    def remove(self) -> None:
        """Delete it, if it is there."""
        self.path.unlink(missing_ok=True)


def source_fingerprint(source: Path, most: int = 4 << 30) -> str:
    """SHA-256 of a file's bytes; of its size, change time and both ends where it is larger than `most` bytes."""
    digest = hashlib.sha256()
    about = source.stat()
    with open(source, "rb") as stream:
        if about.st_size <= most:
            while block := stream.read(_BLOCK):
                digest.update(block)
            return digest.hexdigest()
        digest.update(f"{about.st_size} {about.st_mtime_ns}".encode())
        digest.update(stream.read(_BLOCK))
        stream.seek(-_BLOCK, os.SEEK_END)
        digest.update(stream.read(_BLOCK))
    return f"ends:{digest.hexdigest()}"
