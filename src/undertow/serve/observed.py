"""Around every request: its id, the headers of every response, its count, and errors that nobody expected."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from undertow.serve.failures import DISCONNECTED, failure_of
from undertow.serve.logs import log_error
from undertow.serve.security import HEADERS
from undertow.serve.service import REQUEST_HEADER

if TYPE_CHECKING:
    from undertow.serve.metrics import Metrics

_REASONS = {
    "invalid_api_key": "key",
    "wrong_host": "host",
    "not_json": "body",
    "body_too_large": "body",
    "body_timeout": "body",
    "rate_limit_exceeded": "full",
}
"""What the metrics call the reasons for which requests are turned away, by the code that clients see."""


class Observed:
    """The outermost layer: whatever happens further in, a client gets an answer in the usual shape.

    Args:
        app: everything else.
        metrics: counts requests; None counts nothing.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics | None) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = f"req-{secrets.token_hex(12)}"
        state["arrived"] = time.perf_counter()
        status = DISCONNECTED
        started = False

        async def send_on(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_HEADER] = state["request_id"]
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        except Exception as error:
            if started:
                # The response is cut short, which is how a client learns that it is not whole.
                log_error(error)
            else:
                await failure_of(error).response()(scope, receive, send_on)
        finally:
            if self.metrics is not None:
                self._count(scope, state.get("status", status))

    def _count(self, scope: Scope, status: int) -> None:
        assert self.metrics is not None
        state = scope["state"]
        self.metrics.request(_route(scope), status, time.perf_counter() - state["arrived"])
        if "rejected" in state:
            self.metrics.rejected(_REASONS.get(state["rejected"], state["rejected"]))


def _route(scope: Scope) -> str:
    """The pattern of the route that a request met, as the metrics name it."""
    # A request that was turned away at the gate has met no route; of its path only what the metrics know is counted.
    path = str(getattr(scope.get("route"), "path", scope["path"]))
    return path.replace("{id:path}", "{id}")
