"""Bodies of requests, read whole before anything else happens, within bounds of size and time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from undertow.serve.failures import DISCONNECTED, Failure

_LINGERING = 10.0
"""Seconds for which the rest of a refused body is read and thrown away: a sender that is cut off in the middle of it
would lose the answer, too."""

_THROWN_AWAY = 256
"""Most times the limit that is thrown away."""


class TooLarge(Failure):
    """The body has more bytes than are read."""

    def __init__(self, most: int) -> None:
        super().__init__(
            413,
            f"The body has more than {most} bytes, the most that is read; shorten it.",
            "body_too_large",
            headers={"connection": "close"},
        )


class BoundedBody:
    """Reads bodies up to a limit, with or without a declared length, and hands them on in one piece.

    Args:
        app: what takes the body.
        most: bytes.
        seconds: within which the body must have come.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self.app, self.most, self.seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._read(scope, receive)
        except TimeoutError:
            scope["state"]["rejected"] = "body_timeout"
            slow = Failure(
                408, "The body came too slowly; send it again.", "body_timeout", headers={"connection": "close"}
            )
            await slow.response()(scope, receive, send)
        except TooLarge as failure:
            scope["state"]["rejected"] = failure.code
            await self._refuse(failure, scope, receive, send)
        else:
            if body is None:
                scope["state"].update(rejected="disconnected", status=DISCONNECTED)
                return
            await self.app(scope, _replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None where the client has gone."""
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self.most:
            raise TooLarge(self.most)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self.most:
                raise TooLarge(self.most)
            if not message.get("more_body", False):
                return bytes(body)

    async def _refuse(self, failure: TooLarge, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at once, and close the connection once the sender is done."""
        response = failure.response()
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        # A sender that asks first sends nothing after such an answer.
        if "expect" not in Headers(scope=scope):
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_LINGERING, self.seconds)):
                    await self._throw_away(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _throw_away(self, receive: Receive) -> None:
        size = 0
        while size <= self.most * _THROWN_AWAY:
            message = await receive()
            size += len(message.get("body", b""))
            if not message.get("more_body", False):
                return


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
