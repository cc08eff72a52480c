"""Servers to be measured: in a thread of this process, or in a process of their own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from undertow.guard import LatentGuard
from undertow.serve.app import create_app
from undertow.serve.server import server_for
from undertow.serve.settings import ServeSettings

SECONDS = 120.0


@contextmanager
def hosted(guard: LatentGuard, settings: ServeSettings, *, guarded: bool = True) -> Iterator[str]:
    """Serve a guard in a thread while the block runs; yields the address."""
    app = create_app(guard, settings, guarded=guarded)
    # Named in full, as asyncio switches Nagle's algorithm off only then, and a real server's socket is.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        server = server_for(app, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            until = time.monotonic() + SECONDS
            while not server.started:
                if not thread.is_alive() or time.monotonic() > until:
                    raise RuntimeError("The server did not start.")
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(SECONDS)


class ServerProcess:
    """`undertow serve` in a process of its own.

    Args:
        guard: folder of the guard.
        environment: settings, as environment variables.

    Attributes:
        url: where it listens.
        pid: of the process.
    """

    def __init__(self, guard: Path | str, environment: Mapping[str, str]) -> None:
        self._log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "undertow", "serve", str(guard), "--port", "0"],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stderr=self._log,
            stdout=subprocess.DEVNULL,
        )
        self.pid = self._process.pid
        self.url = self._address()

    def _address(self) -> str:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            found = re.search(r"http://[^\s/]+:\d+", self.log())
            if found:
                return found[0]
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"The server did not start: {self.log()}")

    def log(self) -> str:
        """What it has written on standard error."""
        self._log.seek(0)
        return self._log.read()

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def resident(self) -> int:
        """Bytes of memory that it holds."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    def open_files(self) -> int:
        """How many file descriptors it holds."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def processor_seconds(self) -> float:
        """Processor time that it has taken, by all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def terminate(self, seconds: float = 60.0) -> int | None:
        """Ask it to end with SIGTERM; its exit code, None where it did not end in time."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it, however it is."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
