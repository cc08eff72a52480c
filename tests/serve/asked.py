"""Requests that tests make, and streams that they read."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpx

from tests.serve.served import Served


def conversation(text: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def chat_body(text: str, **options: Any) -> dict[str, Any]:
    """The body of a chat completion by the model "taught", the likeliest tokens unless told otherwise."""
    return {"model": "taught", "messages": conversation(text), "temperature": 0, **options}


def chunks_of(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a stream that ended as it should."""
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def text_of(chunks: Iterable[dict[str, Any]]) -> str:
    """The reply that a stream spells."""
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a response, in OpenAI's shape."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"].endswith(".")
    return dict(body["error"])


def raw_request(served: Served, head: str, body: bytes = b"") -> socket.socket:
    """A connection on which a request's head, and part of its body, has been sent."""
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=20)
    connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    return connection


def chat_request(body: dict[str, Any]) -> tuple[str, bytes]:
    """Head and body of a chat completion, as bytes on the wire."""
    raw = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\nHost: localhost\nContent-Type: application/json\n"
        f"Content-Length: {len(raw)}"
    )
    return head, raw


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something holds; an AssertionError where that takes longer."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "It did not come about in time."
        time.sleep(0.005)
