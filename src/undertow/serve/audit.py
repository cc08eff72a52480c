"""The audit file: one JSON line a verdict, rotated, with hashes in the place of prompts."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import logging
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from undertow.prompts import Prompt
from undertow.serve.jobs import Judgement, Policy, ServeError

WAITING_BYTES = 16_777_216
"""Most bytes of lines that wait to be written; with a disk slower than that, further lines are dropped and counted."""

_BEGINNING = b'{"time":"'
"""Of every line, so that nothing is ever written to, or cut from, a file that is no audit file."""

_LOG = logging.getLogger("undertow.serve")


class AuditError(ServeError):
    """The audit file cannot be written to, or another server writes to it."""


def conversation_hash(prompt: Prompt, key: bytes) -> str:
    """HMAC-SHA-256 of a conversation's roles and texts, in hexadecimal digits.

    Args:
        prompt: the conversation.
        key: content of the key file beside the audit file.
    """
    text = json.dumps([[turn["role"], turn["content"]] for turn in prompt.messages], separators=(",", ":"))
    return hmac.new(key, text.encode("ascii"), hashlib.sha256).hexdigest()


class Audit:
    """Writes verdicts to a file from a thread of its own.

    Each line is handed to the system in one piece, so a server that is killed leaves whole lines; should the system
    have cut the last one short, it is removed when the file is next opened. Files are named `audit.jsonl`, then
    `audit.jsonl.1` (newest) to `audit.jsonl.5`. Texts are hashed under a key in `audit.jsonl.key`, which is made where
    it is missing: without it nobody can find out by guessing what was asked.

    Args:
        path: the file; it is continued where it is there already.
        max_bytes: size from which on the file is rotated.
        files: how many rotated files are kept.
        prompts: whether the conversations themselves are written too.
        guard: fingerprint of the guard, written in each line.
        on_failure: called, from the writing thread, for each line that was lost.

    Raises:
        AuditError: the file or its key cannot be written or read, another server writes to it, or it is no audit file.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int = 100_000_000,
        files: int = 5,
        prompts: bool = False,
        *,
        guard: str | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self.failures = 0
        self._prompts, self._guard, self._on_failure = prompts, guard, on_failure
        try:
            self._file = _RotatedFile(path, max_bytes, files)
            try:
                self._key = _read_key(path.with_name(path.name + ".key"))
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise AuditError(
                f"The audit file {path} cannot be used ({error.strerror}); name another with --audit."
            ) from None
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._idle = True
        self._closed = False
        self._changed = threading.Condition()
        self._complained = False
        self._thread = threading.Thread(target=self._write_lines, name="undertow-audit", daemon=True)
        self._thread.start()

    def record(
        self,
        request_id: str,
        route: str,
        prompt: Prompt,
        judgement: Judgement,
        policy: Policy | None = None,
        *,
        index: int = 0,
        steered_by_hand: Mapping[str, Any] | None = None,
    ) -> None:
        """Queue the line of one verdict; returns at once, never raises, may be called from any thread.

        Args:
            request_id: of the request, as the client saw it.
            route: the route's pattern.
            prompt: what was judged.
            judgement: the verdict, or why there is none.
            policy: that was in force; None for a prompt that was only judged.
            index: of the prompt among the request's.
            steered_by_hand: direction, state, coefficient and span of what a client laid over the reply; None where
                nothing was, and then the line does not speak of it.
        """
        line = self._line(request_id, route, prompt, judgement, policy, index, steered_by_hand)
        with self._changed:
            closed = self._closed
            if not closed and self._bytes + len(line) <= WAITING_BYTES:
                self._lines.append(line)
                self._bytes += len(line)
                self._changed.notify_all()
                return
        self._failed("it is closed" if closed else "the disk is too slow")

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until everything that was recorded is written; False where that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._idle and not self._lines, seconds)

    def close(self, seconds: float = 10.0) -> None:
        """Write what waits, for at most so long, and end the thread; later records count as failures."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._file.close()

    def _line(
        self,
        request_id: str,
        route: str,
        prompt: Prompt,
        judgement: Judgement,
        policy: Policy | None,
        index: int,
        steered_by_hand: Mapping[str, Any] | None,
    ) -> bytes:
        verdict = judgement.verdict
        wire = judgement.to_wire(verdict.threshold if verdict is not None else 0.0)
        if verdict is None:
            wire["threshold"] = None
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request": request_id,
            "index": index,
            "route": route,
            "guard": self._guard,
            "conversation": conversation_hash(prompt, self._key),
            "tokens": judgement.tokens,
            **wire,
            "policy": None
            if policy is None
            else {
                "on_harmful": policy.on_harmful,
                "on_over_refusal": policy.on_over_refusal,
                "on_unjudged": policy.on_unjudged,
            },
        }
        if steered_by_hand is not None:
            line["steered_by_hand"] = dict(steered_by_hand)
        if self._prompts:
            line["messages"] = prompt.messages
        return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"

    def _write_lines(self) -> None:
        while True:
            with self._changed:
                self._idle = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines or self._closed)
                if not self._lines:
                    return
                self._idle = False
                line = self._lines.popleft()
            try:
                self._file.write(line)
                self._complained = False
            except OSError as error:
                self._failed(str(error.strerror or error))
            with self._changed:
                self._bytes -= len(line)

    def _failed(self, why: str) -> None:
        with self._changed:
            self.failures += 1
            complained, self._complained = self._complained, True
        if not complained:
            _LOG.error("Verdicts are not being written to the audit file (%s); requests go on.", why)
        if self._on_failure is not None:
            self._on_failure()


class _RotatedFile:
    """A file to which whole lines are appended, and which makes place for a new one when it is full."""

    def __init__(self, path: Path, max_bytes: int, files: int) -> None:
        self._path, self._most, self._files = path, max_bytes, files
        self._handle = _open_locked(path)

    def write(self, line: bytes) -> None:
        """Append a line.

        Raises:
            OSError: it could not be written whole; nothing of it is left in the file.
        """
        self._follow()
        size = os.fstat(self._handle).st_size
        if size and size + len(line) > self._most:
            self._rotate()
            size = os.fstat(self._handle).st_size
        written = 0
        try:
            while written < len(line):
                written += os.write(self._handle, line[written:])
        except OSError:
            os.ftruncate(self._handle, size)
            raise

    def close(self) -> None:
        os.close(self._handle)

    def _follow(self) -> None:
        """Open the file anew where somebody has moved or removed it."""
        try:
            here = os.stat(self._path)
            moved = not os.path.samestat(here, os.fstat(self._handle))
        except FileNotFoundError:
            moved = True
        if moved:
            self._take(_open_locked(self._path))

    def _take(self, handle: int) -> None:
        os.close(self._handle)
        self._handle = handle

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _rotate(self) -> None:
        """Number the files anew; where that fails, the full one is written on, so that no line is lost."""
        fresh = self._path.with_name(self._path.name + ".new")
        handle = None
        try:
            handle = _open_locked(fresh)
            # Only as many are moved as it takes to fill the first gap.
            last = next(
                (number for number in range(1, self._files) if not self._numbered(number).exists()), self._files
            )
            for number in range(last, 1, -1):
                os.replace(self._numbered(number - 1), self._numbered(number))
            os.replace(self._path, self._numbered(1))
            os.replace(fresh, self._path)
        except OSError as error:
            if handle is not None:
                os.close(handle)
            _LOG.warning("The audit file could not be rotated (%s); it is written on.", error.strerror)
            return
        self._take(handle)


def _open_locked(path: Path) -> int:
    """Open a file for appending, and cut off a last line that is not whole.

    Raises:
        OSError: it cannot be opened, another process holds it, or it holds something else.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        _lock(handle)
        beginning = os.pread(handle, len(_BEGINNING), 0)
        if not _BEGINNING.startswith(beginning):
            raise OSError(errno.EINVAL, "it holds something else than verdicts")
        _cut_unfinished(handle)
    except OSError:
        os.close(handle)
        raise
    return handle


def _lock(handle: int) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(error.errno, "another server writes to it") from None


def _cut_unfinished(handle: int) -> None:
    end = size = os.fstat(handle).st_size
    while end:
        start = max(0, end - 65_536)
        block = os.pread(handle, end - start, start)
        found = block.rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(handle, end)


def _read_key(path: Path) -> bytes:
    """The key in a file, which is made where it is missing, readable by its owner alone."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_bytes()
        if len(key) < 16:
            raise AuditError(f"{path} is not a key of at least 16 bytes; remove it, and a new one is made.") from None
        return key
    key = secrets.token_hex(32).encode("ascii")
    with os.fdopen(handle, "wb") as file:
        file.write(key)
    return key
