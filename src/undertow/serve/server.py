"""Running a server: its socket, its guard, and its end."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from undertow.serve.app import create_app
from undertow.serve.audit import Audit
from undertow.serve.connections import bounded_protocol
from undertow.serve.jobs import ServeError
from undertow.serve.metrics import Metrics
from undertow.serve.security import check_listening
from undertow.serve.settings import ServeSettings
from undertow.serve.sources import without_brackets

if TYPE_CHECKING:
    from undertow.guard import LatentGuard

_FLUSHING = 2.0
"""Least seconds that responses are given to reach their clients once the engine has ended."""


class Server(uvicorn.Server):
    """A uvicorn server that drains the engine when it is told to end, and answers health probes meanwhile.

    Args:
        config: of uvicorn.
        app: what `create_app` made.
        announce: printed on standard error once requests are taken.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, announce: str | None = None) -> None:
        super().__init__(config)
        self._app, self._announce = app, announce
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the engine, then listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and self._announce is not None:
            print(self._announce, file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at once at the second."""
        if self._loop is None or not self.started:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self.begin_end)

    def begin_end(self) -> None:
        """Take no new work and end when the open requests are done; called again, end at once."""
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        else:
            self._cut_off()

    async def _drain(self) -> None:
        seconds = self._app.state.service.settings.limits.drain_seconds
        until = time.monotonic() + seconds
        try:
            await self._app.state.engine.drain(seconds)
        finally:
            self.should_exit = True
        await asyncio.sleep(max(_FLUSHING, until - time.monotonic()))
        self._cut_off()

    def _cut_off(self) -> None:
        """End with every connection that is still open, whatever is unsent on it."""
        self.should_exit = True
        self._app.state.engine.stop()
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def server_for(app: FastAPI, settings: ServeSettings, announce: str | None = None) -> Server:
    """A server of what `create_app` made; it listens on the sockets that its `run` is given."""
    metrics = app.state.service.metrics

    def count(reason: str) -> None:
        if metrics is not None:
            metrics.rejected(reason)

    config = uvicorn.Config(
        app,
        http=bounded_protocol(settings.limits.write_seconds, settings.limits.connections, count),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=settings.log.level == "debug",
        proxy_headers=False,
        server_header=False,
    )
    return Server(config, app, announce)


def run(settings: ServeSettings) -> None:
    """Serve a guard until the process is told to end by SIGTERM or SIGINT, then finish what is open and return.

    Args:
        settings: everything.

    Raises:
        ServeError: the address cannot be listened on, a key is missing, or the guard cannot carry out the policy.
        GuardError, GuardMismatchError, ModelError: the guard or its model cannot be loaded.
    """
    check_listening(settings)
    with listen(settings.host, settings.port) as listener:
        _set_up_log(settings.log.level)
        guard = open_guard(settings)
        audit: Audit | None = None
        metrics = Metrics()
        if settings.log.audit is not None:
            audit = Audit(
                settings.log.audit,
                settings.log.audit_bytes,
                settings.log.audit_files,
                settings.log.prompts,
                guard=guard.fingerprint,
                on_failure=metrics.audit_failed,
            )
        try:
            app = create_app(guard, settings, metrics=metrics, audit=audit)
            announce = f"Serving {app.state.service.name} under its guard on {address(listener)}"
            try:
                server_for(app, settings, announce).run(sockets=[listener])
            except SystemExit:
                raise app.state.failure or ServeError("The server could not start; its log says why.") from None
            finally:
                app.state.engine.stop()
        finally:
            if audit is not None:
                audit.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address; nobody can connect until a server listens on it.

    Raises:
        ServeError: the address is not to be had.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(without_brackets(host), port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        # A name that cannot be one at all fails in its encoding.
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ServeError(f"There is no address {host} on this machine ({why}); choose another host.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ServeError(f"Port {port} of {host} is in use; choose another, or 0 for any free one.") from None
        raise ServeError(f"Listening on {host}, port {port}, failed ({error.strerror}); choose another.") from None
    return listener


def address(listener: socket.socket) -> str:
    """Where a bound socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def open_guard(settings: ServeSettings) -> LatentGuard:
    """The guard with its model.

    Raises:
        GuardError, GuardMismatchError, ModelError: one of them cannot be loaded.
    """
    from undertow.guard import LatentGuard
    from undertow.guard.artefact import read_folder
    from undertow.guard.loading import download
    from undertow.model import load

    folder = Path(settings.guard)
    if not folder.exists() and settings.guard.count("/") == 1 and not settings.guard.startswith((".", "~", "/")):
        folder = download(settings.guard)
    about = read_folder(folder)[0]["model"]
    own = settings.model is None
    model = load(
        about["name"] if settings.model is None else settings.model,
        revision=settings.revision or (about.get("revision") if own else None),
        dtype=settings.dtype,
        device_map=settings.device,
        trust_remote_code=settings.trust_remote_code,
        thinking=about.get("thinking") if settings.thinking is None else settings.thinking,
    )
    return LatentGuard.from_pretrained(folder, model, settings.force)


def _set_up_log(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # The server's own library tells of every start and end, which is for those who look for errors in it.
    for name, least in (("undertow", level), ("uvicorn", "debug" if level == "debug" else "warning")):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least.upper())
