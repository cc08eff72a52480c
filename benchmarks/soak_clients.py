"""Clients of the soak test: well-behaved, slow, gone in the middle, and wrong on purpose."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from soak_cases import (
    ChatCase,
    ModerationCase,
    malformed_bodies,
    wrong_chat,
    wrong_error,
    wrong_full,
    wrong_moderations,
)
from traffic import CHAT, MODERATIONS, Connection, Lost, Response

WEIGHTS: dict[str, float] = {
    "chat": 24,
    "stream": 24,
    "moderations": 20,
    "slow reader": 8,
    "slow writer": 4,
    "gone": 10,
    "oversized": 2,
    "malformed": 4,
    "wrong key": 2,
    "wrong place": 1,
    "probe": 1,
}
IDLE_SECONDS = 2.0
"""After so long a client connects anew rather than race the server's own time-out."""


@dataclass
class Tally:
    """What came of it.

    Attributes:
        sent: requests by kind.
        statuses: responses by kind and status.
        right: complete answers by kind that were compared with their reference and equal it.
        problems: a sentence for every wrong answer, by kind.
        seconds: of each complete answer, by kind.
    """

    sent: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    right: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def note(self, kind: str, response: Response, wrong: str | None) -> None:
        """Count a response, and what is wrong with it."""
        self.statuses[kind][response.status] += 1
        if wrong is not None:
            self.problems[kind].append(f"{wrong} (status {response.status})")
        elif response.status == 200:
            self.right[kind] += 1
            self.seconds[kind].append(response.seconds)


@dataclass(frozen=True)
class Target:
    """The server, and what to ask it.

    Attributes:
        url: of the server.
        key: that it takes.
        model: its name.
        body_bytes: most that it reads of a body.
        chats, moderations: requests with their answers.
        longest: most texts of one moderations request.
    """

    url: str
    key: str
    model: str
    body_bytes: int
    chats: Sequence[ChatCase]
    moderations: Sequence[ModerationCase]
    longest: int = 24


class Client:
    """One client, which asks until its time is over.

    Args:
        target: whom.
        tally: where results are counted, shared by all clients.
        seed: of its choices.
    """

    def __init__(self, target: Target, tally: Tally, seed: int) -> None:
        self.target, self.tally, self.random = target, tally, random.Random(seed)
        self.connection: Connection | None = None
        self.headers = {"content-type": "application/json", "authorization": f"Bearer {target.key}"}

    async def run(self, until: float) -> None:
        """Ask until then, on the clock of `time.monotonic`."""
        behaviours = {
            "chat": self._chat,
            "stream": self._chat,
            "moderations": self._moderations,
            "slow reader": self._slow_reader,
            "slow writer": self._slow_writer,
            "gone": self._gone,
            "oversized": self._oversized,
            "malformed": self._malformed,
            "wrong key": self._wrong_key,
            "wrong place": self._wrong_place,
            "probe": self._probe,
        }
        kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
        while time.monotonic() < until:
            kind = self.random.choices(kinds, weights)[0]
            self.tally.sent[kind] += 1
            try:
                await behaviours[kind](kind)
            except (Lost, OSError) as error:
                self.tally.problems[kind].append(f"lost: {error!r}")
                await self._leave()
        await self._leave()

    async def _leave(self) -> None:
        if self.connection is not None:
            connection, self.connection = self.connection, None
            await connection.close()

    async def _connected(self) -> Connection:
        if self.connection is not None and time.monotonic() - self.connection.used > IDLE_SECONDS:
            await self._leave()
        if self.connection is None:
            self.connection = await Connection.open(self.target.url)
        return self.connection

    async def _ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Response:
        response = await (await self._connected()).ask(method, path, body, self.headers if headers is None else headers)
        if response.headers.get("connection") == "close":
            await self._leave()
        return response

    def _some_chat(self, stream: bool) -> tuple[ChatCase, bytes]:
        case = self.random.choice(self.target.chats)
        return case, json.dumps({**case.options, "model": self.target.model, "stream": stream}).encode()

    def _some_moderations(self, count: int) -> tuple[list[ModerationCase], bytes]:
        cases = self.random.choices(self.target.moderations, k=count)
        texts = [case.text for case in cases]
        return cases, json.dumps({"input": texts[0] if count == 1 else texts}).encode()

    async def _judge(self, kind: str, response: Response, wrong: str | None) -> None:
        """Count an answer; one that says the server is full must say for how long."""
        if response.status == 429:
            self.tally.note(kind, response, wrong_full(response))
            await asyncio.sleep(self.random.uniform(0.1, 0.6))
        else:
            self.tally.note(kind, response, wrong if response.status == 200 else wrong_error(response, [200]))

    async def _chat(self, kind: str) -> None:
        case, body = self._some_chat(kind == "stream")
        response = await self._ask("POST", CHAT, body)
        await self._judge(kind, response, wrong_chat(response, case))

    async def _moderations(self, kind: str) -> None:
        cases, body = self._some_moderations(self.random.choice([1, 1, 1, 4, self.target.longest]))
        response = await self._ask("POST", MODERATIONS, body)
        await self._judge(kind, response, wrong_moderations(response, cases))

    async def _slow_reader(self, kind: str) -> None:
        """Reads a long response a little at a time, with hardly any room for what it has not read."""
        connection = await Connection.open(self.target.url, receive_buffer=2_048)
        try:
            if self.random.random() < 0.5:
                case, body = self._some_chat(True)
                response = await connection.ask("POST", CHAT, body, self.headers, pause=self.random.uniform(0.02, 0.1))
                wrong = wrong_chat(response, case)
            else:
                cases, body = self._some_moderations(self.target.longest)
                response = await connection.ask("POST", MODERATIONS, body, self.headers, pause=0.1)
                wrong = wrong_moderations(response, cases)
            await self._judge(kind, response, wrong)
        finally:
            await connection.close()

    async def _slow_writer(self, kind: str) -> None:
        """Sends a body in two parts, with a pause."""
        connection = await Connection.open(self.target.url)
        try:
            case, body = self._some_chat(False)
            start = time.perf_counter()
            await connection.send(connection.head("POST", CHAT, self.headers, len(body)) + body[:40])
            await asyncio.sleep(self.random.uniform(0.05, 0.5))
            await connection.send(body[40:])
            response = await _answer(connection, start)
            await self._judge(kind, response, wrong_chat(response, case))
        finally:
            await connection.close()

    async def _gone(self, kind: str) -> None:
        """Leaves at some moment: within the request, while it waits, or within the response."""
        connection = await Connection.open(self.target.url)
        moment = self.random.choice(["head", "body", "waiting", "waiting", "response", "response", "response"])
        stream = self.random.random() < 0.6
        body = self._some_chat(stream)[1] if self.random.random() < 0.7 else self._some_moderations(8)[1]
        path = MODERATIONS if b'"input"' in body[:10] else CHAT
        head = connection.head("POST", path, self.headers, len(body))
        try:
            if moment == "head":
                await connection.send(head[: self.random.randrange(1, len(head))])
            elif moment == "body":
                await connection.send(head + body[: self.random.randrange(1, len(body))])
            else:
                await connection.send(head + body)
            if moment == "response":
                await self._read_a_little(connection)
            else:
                await asyncio.sleep(self.random.uniform(0, 0.3))
        finally:
            if self.random.random() < 0.5:
                connection.reset()
            else:
                await connection.close()

    async def _read_a_little(self, connection: Connection) -> None:
        _, headers = await connection.read_head()
        left = self.random.randrange(0, 8)
        async for _ in connection.pieces(headers):
            left -= 1
            if left <= 0:
                return

    async def _oversized(self, kind: str) -> None:
        """Twice the bytes that are read, with its length declared or in chunks; or so many that nobody reads on."""
        way = self.random.choice(["declared", "chunked", "endless"])
        size = self.target.body_bytes * (40 if way == "endless" else 2)
        body = json.dumps({"model": self.target.model, "messages": [{"role": "user", "content": "z" * size}]}).encode()
        connection = await Connection.open(self.target.url)
        start = time.perf_counter()
        try:
            if way == "declared":
                await connection.send(connection.head("POST", CHAT, self.headers, len(body)) + body)
            else:
                await connection.send(connection.head("POST", CHAT, self.headers, None))
                for place in range(0, len(body), 8_192):
                    part = body[place : place + 8_192]
                    await connection.send(b"%x\r\n%b\r\n" % (len(part), part))
                await connection.send(b"0\r\n\r\n")
            response = await _answer(connection, start)
            self.tally.note(kind, response, wrong_error(response, [413]))
        except (Lost, OSError):
            # Only where the server has stopped reading may the connection end without an answer.
            if way != "endless":
                raise
        finally:
            await connection.close()

    async def _malformed(self, kind: str) -> None:
        path = self.random.choice([CHAT, MODERATIONS])
        body = self.random.choice(malformed_bodies(self.target.model))
        response = await self._ask("POST", path, body)
        self.tally.note(kind, response, wrong_error(response, [400, 422]))

    async def _wrong_key(self, kind: str) -> None:
        key = self.random.choice([{}, {"authorization": "Bearer nothing"}, {"authorization": self.target.key}])
        _, body = self._some_chat(False)
        response = await self._ask("POST", CHAT, body, {"content-type": "application/json", **key})
        self.tally.note(kind, response, wrong_error(response, [401]))

    async def _wrong_place(self, kind: str) -> None:
        method, path, status = self.random.choice([("POST", "/v1/nothing", 404), ("DELETE", CHAT, 405)])
        response = await self._ask(method, path)
        self.tally.note(kind, response, wrong_error(response, [status]))

    async def _probe(self, kind: str) -> None:
        path = self.random.choice(["/healthz", "/readyz", "/metrics", "/v1/models"])
        response = await self._ask("GET", path)
        self.tally.note(kind, response, None if response.status == 200 else f"{path} is not well")


async def _answer(connection: Connection, start: float) -> Response:
    status, headers = await connection.read_head()
    body = b"".join([piece async for piece in connection.pieces(headers)])
    return Response(status, headers, body, None, time.perf_counter() - start)


async def run_clients(target: Target, tally: Tally, clients: int, seconds: float, seed: int) -> None:
    """Let so many clients loose for so long; they arrive over the first second."""
    until = time.monotonic() + seconds

    async def one(number: int) -> None:
        await asyncio.sleep(min(1.0, seconds / 4) * number / clients)
        await Client(target, tally, seed * 100_003 + number).run(until)

    await asyncio.gather(*(one(number) for number in range(clients)))
