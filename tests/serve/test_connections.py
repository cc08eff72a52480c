from __future__ import annotations

import importlib
import re
import socket
import time

import pytest

from tests.serve.asked import chat_body, chat_request, raw_request, wait_for
from tests.serve.served import client, serving, settings_with
from undertow.serve import connections
from undertow.serve.metrics import Metrics

SECONDS = 0.6


@pytest.fixture(scope="module", params=["httptools", "h11"])
def hurried(talkative, request):
    limits = {"write_seconds": SECONDS, "reply_tokens": 4000, "rows": 4}
    name = {"httptools": "HttpToolsProtocol", "h11": "H11Protocol"}[request.param]
    pytest.importorskip(request.param)
    base = getattr(importlib.import_module(f"uvicorn.protocols.http.{request.param}_impl"), name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "base_protocol", lambda: base)
        with serving(talkative, settings_with(name="taught", limits=limits), metrics=Metrics()) as server:
            yield server


def until_closed(connection: socket.socket) -> float:
    """Seconds until the other side ends the connection."""
    begun = time.monotonic()
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - begun


def test_a_response_that_nobody_reads_is_cut_off(hurried):
    metrics = hurried.app.state.service.metrics
    connection = socket.socket()
    # The least that the system keeps for a reader, so that a reply of some tokens does not fit.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    connection.connect(("127.0.0.1", hurried.port))
    head, raw = chat_request(chat_body("hello", max_tokens=4000, stream=True))
    connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + raw)
    with connection:
        wait_for(lambda: hurried.engine.status().running == 1)
        wait_for(lambda: b'rejected_total{reason="slow_reader"} 1.0' in metrics.render(hurried.engine.status())[0], 30)
        hurried.wait_until_idle(5)
    assert hurried.engine.status().totals.get("reply_tokens", 0) < 4000


def test_a_slow_reader_that_reads_gets_everything(hurried):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", hurried.port))
    head, raw = chat_request(chat_body("hello", max_tokens=60, stream=True))
    connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + raw)
    received = b""
    with connection:
        while b"[DONE]" not in received:
            received += connection.recv(700)
            time.sleep(0.01)
    assert received.count(b"chat.completion.chunk") >= 60


def test_connections_on_which_nothing_is_asked_end(hurried):
    with socket.create_connection(("127.0.0.1", hurried.port), timeout=20) as connection:
        assert SECONDS / 2 < until_closed(connection) < SECONDS + 5


def test_a_head_that_dribbles_in_is_given_up(hurried):
    with socket.create_connection(("127.0.0.1", hurried.port), timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: local")
        assert SECONDS / 2 < until_closed(connection) < SECONDS + 5


def test_so_is_a_second_head_on_the_same_connection(hurried):
    with raw_request(hurried, "GET /healthz HTTP/1.1\nHost: localhost") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /healthz HT")
        assert SECONDS / 2 < until_closed(connection) < SECONDS + 5


def test_a_reply_that_takes_longer_than_that_is_not_cut_off(hurried):
    tokens, taken = 100, 0.0
    with client(hurried) as http:
        while taken < SECONDS:
            tokens *= 2
            begun = time.monotonic()
            response = http.post("/v1/chat/completions", json=chat_body("hello", max_tokens=tokens))
            taken = time.monotonic() - begun
    assert response.json()["usage"]["completion_tokens"] == tokens


def test_several_requests_on_one_connection_are_answered(hurried):
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", hurried.port), timeout=20) as connection:
        connection.sendall(request * 3)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 3:
            received += connection.recv(65536)


def test_a_head_without_end_is_given_up(served):
    sent = 0
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        with pytest.raises(OSError):
            while sent < 10_000_000:
                connection.sendall(b"x" * 4096)
                sent += 4096
                time.sleep(0.001)
    assert sent < 1_000_000


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_a_connection_that_is_lost_frees_its_slot_whatever_else_was_asked_on_it(hurried, stream, together):
    head, raw = chat_request(chat_body("hello", max_tokens=4000, stream=stream))
    again = (head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + raw) * 2
    before = hurried.engine.status().totals.get("reply_tokens", 0)
    connection = raw_request(hurried, head, raw + again if together else raw)
    wait_for(lambda: hurried.engine.status().running == 1)
    if not together:
        connection.sendall(again)
    connection.close()
    hurried.wait_until_idle(5)
    assert hurried.engine.status().totals.get("reply_tokens", 0) - before < 3000


def test_requests_that_come_early_are_answered_in_order(hurried):
    def request(tokens: int) -> bytes:
        head, raw = chat_request(chat_body("hello", max_tokens=tokens))
        return head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + raw

    with socket.create_connection(("127.0.0.1", hurried.port), timeout=20) as connection:
        connection.sendall(request(20) + request(3)[:50])
        time.sleep(0.01)
        connection.sendall(request(3)[50:] + request(5) + request(7)[:-9])
        time.sleep(0.01)
        connection.sendall(request(7)[-9:])
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 4 or not received.endswith(b"}"):
            received += connection.recv(65536)
    tokens = [int(found) for found in re.findall(rb'"completion_tokens":(\d+)', received)]
    assert tokens == [20, 3, 5, 7]


def test_too_much_that_comes_early_ends_the_connection(hurried):
    head, raw = chat_request(chat_body("hello", max_tokens=4000))
    with raw_request(hurried, head, raw) as connection:
        wait_for(lambda: hurried.engine.status().running == 1)
        with pytest.raises(OSError):
            for _ in range(1000):
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
                time.sleep(0.002)
    hurried.wait_until_idle(5)


def test_what_is_no_http_is_told_so(hurried):
    with socket.create_connection(("127.0.0.1", hurried.port), timeout=20) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_small_answers_do_not_wait_for_an_acknowledgement(hurried):
    taken = []
    with client(hurried) as http:
        for _ in range(30):
            begun = time.perf_counter()
            http.get("/healthz")
            taken.append(time.perf_counter() - begun)
    # That wait is of 40 ms, and every answer on an open connection would have it.
    assert min(taken) < 0.03


def test_more_connections_than_allowed_are_closed_at_once(talkative):
    limits = {"connections": 3, "write_seconds": 60}
    metrics = Metrics()
    with serving(talkative, settings_with(name="taught", limits=limits), metrics=metrics) as server:
        held = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(3)]
        wait_for(lambda: len(server.server.server_state.connections) == 3)
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
                assert until_closed(connection) < 10
        assert b'rejected_total{reason="connections"} 2.0' in metrics.render(server.engine.status())[0]
        held.pop().close()
        wait_for(lambda: len(server.server.server_state.connections) == 2)
        with client(server) as http:
            assert http.get("/healthz").status_code == 200
        for connection in held:
            connection.close()
