"""A real server of a guard, on a free port of this machine, in a thread of the test's own process."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from undertow.guard import LatentGuard
from undertow.serve.app import create_app
from undertow.serve.engine import Engine
from undertow.serve.server import Server, listen, server_for
from undertow.serve.settings import ServeSettings

SECONDS = 30.0


@dataclass(frozen=True)
class Served:
    """A server that is up.

    Attributes:
        url: its address without a slash at the end, such as "http://127.0.0.1:51234".
        app: the application that it serves.
        engine: the application's engine.
        server: the uvicorn server.
    """

    url: str
    app: FastAPI
    engine: Engine
    server: Server

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rsplit(":", 1)[1])

    def wait_until_idle(self, seconds: float = 10.0) -> None:
        """Wait until nothing runs or waits in the engine; an AssertionError where that takes longer."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            status = self.engine.status()
            if not (status.waiting or status.running or status.judging):
                return
            time.sleep(0.01)
        raise AssertionError(f"The engine is still busy: {self.engine.status()}.")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the engine's thread from doing anything while the block runs."""
        begun, ended = threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            ended.wait(SECONDS)

        assert self.server._loop is not None
        asyncio.run_coroutine_threadsafe(self.engine.call(hold), self.server._loop)
        try:
            assert begun.wait(SECONDS)
            yield
        finally:
            ended.set()


def settings_with(**values: Any) -> ServeSettings:
    """Settings for a server in a test: any free port, no folder of a guard."""
    return ServeSettings(**{"guard": "unused", "port": 0, **values})


@contextmanager
def serving(
    guard: LatentGuard, settings: ServeSettings | None = None, *, guarded: bool = True, **objects: Any
) -> Iterator[Served]:
    """Serve a guard while the block runs; what is open at its end is cut off.

    Args:
        guard: the guard; its model answers.
        settings: what the server is told; `settings_with()` where left out.
        guarded: False for a server that judges nothing.
        objects: `metrics` and `audit` for `create_app`.
    """
    settings = settings_with() if settings is None else settings
    app = create_app(guard, settings, guarded=guarded, **objects)
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        server = server_for(app, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield Served(f"http://127.0.0.1:{port}", app, app.state.engine, server)
        finally:
            for _ in range(2):
                server.handle_exit(signal.SIGTERM, None)
            thread.join(SECONDS)
    assert not thread.is_alive(), "The server did not stop."


def client(served: Served, **options: Any) -> httpx.Client:
    """A plain HTTP client of the server, which takes no proxy from the environment and reads no certificates."""
    return httpx.Client(base_url=served.url, timeout=SECONDS, trust_env=False, verify=False, **options)


def _wait_until_started(server: Server, thread: threading.Thread) -> None:
    until = time.monotonic() + SECONDS
    while not server.started:
        if not thread.is_alive():
            raise AssertionError("The server ended while it was starting.")
        if time.monotonic() > until:
            raise AssertionError("The server did not start in time.")
        time.sleep(0.01)
