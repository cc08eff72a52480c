"""Responses that end when their client goes: server-sent events, and work that is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from undertow.serve.failures import DISCONNECTED, to_json

Result = TypeVar("Result")


class Disconnected(Exception):
    """The client has gone before its answer was ready."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of some work, which is cancelled when the client goes.

    Args:
        receive: of the request, whose body has been read.
        work: what to wait for.

    Raises:
        Disconnected: the client has gone; the work has ended.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Disconnected
    finally:
        # Nobody waits for the watcher to hear of it: at every request, that would be one more turn of the event loop.
        watching.cancel()
        await _end(working)


class EventStream(Response):
    """Server-sent events; the source is closed as soon as the client goes.

    Args:
        events: bodies of the events, as `event` makes them.
        headers: of the response.
        close: ends what the events come from; called in every case, even where no event was asked for.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.events, self.close = events, close
        self.status_code = 200
        self.background = None
        # Proxies that hold responses back would hold the first token back, too.
        self.init_headers({**headers, "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for body in self.events:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await while_connected(receive, write())
        except Disconnected:
            scope["state"].update(rejected="disconnected", status=DISCONNECTED)
        finally:
            await self.events.aclose()
            await self.close()


def event(value: Any) -> bytes:
    """One server-sent event of JSON."""
    return b"data: " + to_json(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"
"""The last event."""


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended; what it raises then is nobody's concern any more."""
    if task.done():
        return
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task
