"""A small HTTP/1.1 client on bare sockets: cheap enough to load a server, and free to misbehave.

It imports nothing heavy, so that a second process that only sends requests starts quickly and shares no lock with the
server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

CHAT = "/v1/chat/completions"
MODERATIONS = "/v1/moderations"


class Lost(Exception):
    """The connection ended before a response was whole."""


@dataclass(frozen=True)
class Response:
    """A whole response.

    Attributes:
        status: its number.
        headers: names in small letters.
        body: all of it.
        first: seconds from the request to the first piece of a streamed reply; None where there is none.
        seconds: from the request to the end.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    first: float | None = None
    seconds: float = 0.0

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The JSON of a streamed response; the last is the text "[DONE]"."""
        return events_of(self.body)


class Connection:
    """One connection to a server.

    Args:
        reader, writer: as asyncio gives them.
        host: sent as the Host header.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader, self.writer, self.host = reader, writer, host
        self.used = time.monotonic()

    @classmethod
    async def open(cls, url: str, *, receive_buffer: int | None = None) -> Connection:
        """Connect.

        Args:
            url: of the server.
            receive_buffer: bytes that the system holds for a slow reader; its own choice where left out.
        """
        parts = urlsplit(url)
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.setblocking(False)
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(client, (parts.hostname, parts.port))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            limit = 65_536 if receive_buffer is None else max(256, receive_buffer)
            reader, writer = await asyncio.open_connection(sock=client, limit=limit)
        except BaseException:
            client.close()
            raise
        return cls(reader, writer, parts.netloc)

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    def head(self, method: str, path: str, headers: Mapping[str, str], length: int | None) -> bytes:
        """A request's head.

        Args:
            length: of the body; None for a body in chunks.
        """
        lines = [f"{method} {path} HTTP/1.1", f"host: {self.host}"]
        lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def read_head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of a response.

        Raises:
            Lost: the connection ended first.
        """
        try:
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Lost(f"no head: {type(error).__name__}") from None
        first, *lines = text.split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            if name:
                headers[name.lower()] = value.strip()
        return int(first.split(" ")[1]), headers

    async def pieces(self, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The body, as it comes.

        Raises:
            Lost: the connection ended before the body did.
        """
        try:
            if headers.get("transfer-encoding") != "chunked":
                left = int(headers.get("content-length", "0"))
                while left:
                    piece = await self.reader.read(min(left, 65_536))
                    if not piece:
                        raise Lost(f"{left} bytes of the body did not come")
                    left -= len(piece)
                    yield piece
                return
            while True:
                size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
                piece = await self.reader.readexactly(size + 2)
                if not size:
                    return
                yield piece[:-2]
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Lost(f"the body broke off: {type(error).__name__}") from None

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, pause: float = 0.0
    ) -> Response:
        """Send a request and read the whole response.

        Args:
            pause: seconds to wait before each piece is read.
        """
        start = time.perf_counter()
        await self.send(self.head(method, path, headers or {}, len(body)) + body)
        status, got = await self.read_head()
        whole, first = bytearray(), None
        streamed = got.get("content-type", "").startswith("text/event-stream")
        async for piece in self.pieces(got):
            whole += piece
            if streamed and first is None and any(content_of(found) for found in events_of(bytes(whole))):
                first = time.perf_counter() - start
            if pause:
                await asyncio.sleep(pause)
        self.used = time.monotonic()
        return Response(status, got, bytes(whole), first, time.perf_counter() - start)

    async def close(self) -> None:
        """End the connection as polite clients do."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """End the connection at once, with a reset."""
        client = self.writer.get_extra_info("socket")
        if client is not None and client.fileno() >= 0:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def events_of(body: bytes) -> list[Any]:
    """The whole server-sent events of a body; the last of a whole response is the text "[DONE]"."""
    whole = body.split(b"\n\n")[:-1]
    data = [part.removeprefix(b"data: ") for part in whole if part.startswith(b"data: ")]
    return [part.decode() if part == b"[DONE]" else json.loads(part) for part in data]


def content_of(chunk: Any) -> str:
    """The text in one chunk of a streamed chat completion."""
    if not isinstance(chunk, dict) or not chunk.get("choices"):
        return ""
    return chunk["choices"][0].get("delta", {}).get("content") or ""


def chat_body(content: str, **options: Any) -> bytes:
    """The body of a chat request with one user message."""
    return json.dumps({"messages": [{"role": "user", "content": content}], **options}).encode()


def moderations_body(texts: str | Sequence[str]) -> bytes:
    """The body of a moderations request."""
    return json.dumps({"input": texts if isinstance(texts, str) else list(texts)}).encode()


@dataclass(frozen=True)
class Job:
    """One request of a load.

    Attributes:
        path, body: of the request.
        url: of the server.
    """

    url: str
    path: str
    body: bytes


@dataclass
class Measured:
    """What a load saw.

    Attributes:
        elapsed: seconds from its start to its end.
        seconds: of each request, in order of their ends.
        first: seconds to the first token of each streamed reply.
        statuses: how many responses of each status.
        tokens: generated, where responses tell.
        processor: seconds of processor time that the server's process took, filled in there.
    """

    elapsed: float = 0.0
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    tokens: int = 0
    processor: float = 0.0


def load(jobs: Sequence[Job], clients: int, duration: float | None = None) -> Measured:
    """Send requests from many clients, each waiting for its answer before the next.

    Args:
        jobs: requests; they are taken in turn.
        clients: how many clients share them.
        duration: seconds for which jobs are started, from the first again after the last; None sends each once.

    Returns:
        What was measured. Requests that were refused count by their status, and not among the times.
    """
    return asyncio.run(_load(jobs, clients, duration))


async def _load(jobs: Sequence[Job], clients: int, duration: float | None) -> Measured:
    measured = Measured()
    taken = 0
    start = time.perf_counter()

    async def client() -> None:
        nonlocal taken
        open_: dict[str, Connection] = {}
        while taken < len(jobs) if duration is None else time.perf_counter() - start < duration:
            job = jobs[taken % len(jobs)]
            taken += 1
            if job.url not in open_:
                open_[job.url] = await Connection.open(job.url)
            headers = {"content-type": "application/json"}
            _note(measured, await open_[job.url].ask("POST", job.path, job.body, headers))
        for connection in open_.values():
            await connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    measured.elapsed = time.perf_counter() - start
    return measured


def _note(measured: Measured, response: Response) -> None:
    measured.statuses[response.status] = measured.statuses.get(response.status, 0) + 1
    if response.status != 200:
        return
    measured.seconds.append(response.seconds)
    if response.first is not None:
        measured.first.append(response.first)
    if response.headers.get("content-type", "").startswith("application/json"):
        measured.tokens += (response.json.get("usage") or {}).get("completion_tokens", 0)
