"""HTTP connections that are dropped where a client neither reads nor writes, or where there are too many."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import Callable
from typing import Any

_UNREAD_BYTES = 65536
_HEAD_BYTES = 65536
_EARLY_BYTES = 65536


def bounded_protocol(seconds: float, most: int, on_dropped: Callable[[str], None]) -> type[asyncio.Protocol]:
    """A uvicorn protocol class whose connections are bounded in number and end after a standstill.

    Args:
        seconds: for which a client may leave a part of a response unread, or take to send a request's head.
        most: connections that may be open at once; further ones are closed as soon as they are made.
        on_dropped: called with "slow_reader" for every response that is cut off, and with "connections" for every
            connection that is one too many.
    """
    base: Any = base_protocol()

    class BoundedProtocol(base):
        """Ends the connection where the system has taken no more bytes for so long, or no whole head has come."""

        def connection_made(self, transport: Any) -> None:
            self._timer: asyncio.TimerHandle | None = None
            self._head_bytes = 0
            self._early = bytearray()
            self._cycles: list[Any] = []
            super().connection_made(transport)
            if len(self.connections) > most:
                on_dropped("connections")
                transport.abort()
                return
            connection = transport.get_extra_info("socket")
            # Head and body go out on their own; without this the body would wait for the head's acknowledgement.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The system would keep megabytes for a client that reads nothing.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)
            # Whatever it does not take at once counts as unread, however little it is.
            transport.set_write_buffer_limits(high=0)
            self._start(transport.abort)

        def data_received(self, data: bytes) -> None:
            if not self._early and not self._answers():
                self._take(data)
                return
            # A request before the last one's answer waits here: the parser would have stopped reading until then, and
            # a client that goes would not be noticed.
            self._early += data
            if len(self._early) > _EARLY_BYTES:
                self.transport.abort()

        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            self._cycles.append(self.cycle)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._early:
                self.loop.call_soon(self._take_early)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._start(self._cut_off)

        def resume_writing(self) -> None:
            self._stop()
            super().resume_writing()

        def connection_lost(self, error: Exception | None) -> None:
            self._stop()
            # With several requests under way, each one must hear of it, and not only the last.
            for cycle in self._cycles:
                if not cycle.response_complete:
                    cycle.disconnected = True
                    cycle.message_event.set()
            super().connection_lost(error)

        def _answers(self) -> bool:
            """Whether a request has come whole and its response has not gone out whole."""
            return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

        def _take(self, data: bytes) -> None:
            super().data_received(data)
            self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
            if self.cycle is not None and not self.cycle.response_complete:
                self._head_bytes = 0
                if self.cycle not in self._cycles:
                    self._cycles.append(self.cycle)
                if not self.flow.write_paused:
                    self._stop()
                if self._answers():
                    self.flow.resume_reading()
                return
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self.transport.abort()
            elif self._timer is None:
                self._start(self.transport.abort)

        def _take_early(self) -> None:
            if self._early and not self._answers() and not self.transport.is_closing():
                data, self._early = bytes(self._early), bytearray()
                self._take(data)

        def _cut_off(self) -> None:
            on_dropped("slow_reader")
            self.transport.abort()

        def _start(self, then: Callable[[], None]) -> None:
            self._stop()
            self._timer = self.loop.call_later(seconds, then)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return BoundedProtocol


def base_protocol() -> type[asyncio.Protocol]:
    """Uvicorn's protocol with the faster parser where that is installed."""
    if importlib.util.find_spec("httptools") is not None:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        return HttpToolsProtocol
    from uvicorn.protocols.http.h11_impl import H11Protocol

    return H11Protocol
