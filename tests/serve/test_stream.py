from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from undertow.serve.stream import DONE, Disconnected, EventStream, event, while_connected


class Client:
    """The client's side of a request: what it got, and when it goes."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.messages: list[dict] = []
        self.blocked = asyncio.Event()
        self.reads = True

    async def receive(self) -> dict:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict) -> None:
        self.messages.append(message)
        if not self.reads and message["type"] == "http.response.body":
            self.blocked.set()
            await asyncio.Event().wait()


class Source:
    """Events that are counted, and know whether they were closed."""

    def __init__(self, count: int, endless: bool = False) -> None:
        self.count, self.endless, self.ended, self.closed = count, endless, False, False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(self.count):
                yield event(number)
            if self.endless:
                await asyncio.Event().wait()
        finally:
            self.ended = True

    async def close(self) -> None:
        self.closed = True

    def stream(self) -> EventStream:
        return EventStream(self.events(), {"x-verdict": "none"}, self.close)


def test_events_are_lines_of_ascii():
    assert event({"a": "é\n"}) == b'data: {"a":"\\u00e9\\n"}\n\n'
    assert json.loads(event([1])[6:]) == [1]
    assert DONE == b"data: [DONE]\n\n"


def test_a_stream_is_sent_whole():
    async def check() -> None:
        client, source = Client(), Source(3)
        await source.stream()({"state": {}}, client.receive, client.send)
        assert client.messages[0]["status"] == 200
        headers = dict(client.messages[0]["headers"])
        assert headers[b"content-type"].startswith(b"text/event-stream")
        assert headers[b"x-verdict"] == b"none"
        assert b"content-length" not in headers
        assert b"".join(message["body"] for message in client.messages[1:]) == event(0) + event(1) + event(2)
        assert [message["more_body"] for message in client.messages[1:]] == [True, True, True, False]
        assert source.ended
        assert source.closed

    asyncio.run(check())


@pytest.mark.parametrize("reads", [True, False])
def test_a_stream_ends_when_its_client_goes(reads):
    async def check() -> None:
        client, source = Client(), Source(2, endless=True)
        client.reads = reads
        scope: dict = {"state": {}}
        sending = asyncio.ensure_future(source.stream()(scope, client.receive, client.send))
        await asyncio.sleep(0.01)
        assert not sending.done()
        client.gone.set()
        await asyncio.wait_for(sending, 1)
        assert source.ended
        assert source.closed
        assert scope["state"] == {"rejected": "disconnected", "status": 499}

    asyncio.run(check())


def test_a_client_that_goes_before_the_first_event_leaves_nothing_open():
    async def check() -> None:
        client, source = Client(), Source(2, endless=True)
        client.gone.set()
        await asyncio.wait_for(source.stream()({"state": {}}, client.receive, client.send), 1)
        assert source.closed

    asyncio.run(check())


def test_a_server_that_ends_closes_the_source():
    async def check() -> None:
        client, source = Client(), Source(2, endless=True)
        sending = asyncio.ensure_future(source.stream()({"state": {}}, client.receive, client.send))
        await asyncio.sleep(0.01)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert source.ended
        assert source.closed

    asyncio.run(check())


def test_work_is_done_while_the_client_waits():
    async def work() -> int:
        await asyncio.sleep(0)
        return 5

    async def fails() -> int:
        raise KeyError("broken")

    async def check() -> None:
        client = Client()
        assert await while_connected(client.receive, work()) == 5
        with pytest.raises(KeyError):
            await while_connected(client.receive, fails())
        for _ in range(2):
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(check())


def test_work_is_given_up_when_the_client_goes():
    async def check() -> None:
        client, ended = Client(), False

        async def work() -> None:
            nonlocal ended
            try:
                await asyncio.Event().wait()
            finally:
                # Clearing up is waited for, too.
                await asyncio.sleep(0.01)
                ended = True

        waiting = asyncio.ensure_future(while_connected(client.receive, work()))
        await asyncio.sleep(0.01)
        client.gone.set()
        with pytest.raises(Disconnected):
            await waiting
        assert ended
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(check())
