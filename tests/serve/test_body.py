from __future__ import annotations

import json
import time

import pytest

from tests.serve.asked import chat_body, error_of, raw_request
from tests.serve.served import client, serving, settings_with
from undertow.serve.metrics import Metrics

MOST = 2048


@pytest.fixture(scope="module")
def bounded(guard):
    limits = {"body_bytes": MOST, "seconds": 1.0}
    with serving(guard, settings_with(name="taught", limits=limits), metrics=Metrics()) as server:
        yield server


def padded(size: int) -> bytes:
    """A moderation request of exactly so many bytes."""
    raw = json.dumps({"input": "bake1 the thing1"}).encode()
    return raw + b" " * (size - len(raw))


def read(connection) -> bytes:
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def test_the_limit_is_exact(bounded):
    headers = {"content-type": "application/json"}
    with client(bounded) as http:
        assert http.post("/v1/moderations", content=padded(MOST), headers=headers).status_code == 200
        response = http.post("/v1/moderations", content=padded(MOST + 1), headers=headers)
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"
    assert str(MOST) in error_of(response)["message"]


def test_it_holds_without_a_declared_length(bounded):
    headers = {"content-type": "application/json"}
    for size, status in ((MOST, 200), (MOST + 1, 413), (200 * MOST, 413)):
        pieces = (padded(size)[begin : begin + 500] for begin in range(0, size, 500))
        with client(bounded) as http:
            assert http.post("/v1/moderations", content=pieces, headers=headers).status_code == status


def test_a_sender_of_far_too_much_reads_the_answer(bounded):
    with client(bounded) as http:
        response = http.post(
            "/v1/moderations", content=b"x" * (200 * MOST), headers={"content-type": "application/json"}
        )
        assert response.status_code == 413
        assert response.headers["connection"] == "close"
        # And the next one gets in as ever.
        assert http.post("/v1/moderations", json={"input": "bake1"}).status_code == 200


def test_an_endless_body_is_cut_off(bounded):
    head = "POST /v1/moderations HTTP/1.1\nHost: localhost\nContent-Type: application/json\nTransfer-Encoding: chunked"
    begun = time.monotonic()
    with raw_request(bounded, head) as connection:
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        with pytest.raises(OSError):
            while time.monotonic() < begun + 20:
                connection.sendall(chunk)
    assert time.monotonic() < begun + 10


def test_a_sender_that_asks_first_is_told_at_once(bounded):
    head = (
        "POST /v1/moderations HTTP/1.1\nHost: localhost\nContent-Type: application/json\n"
        f"Content-Length: {MOST + 1}\nExpect: 100-continue"
    )
    with raw_request(bounded, head) as connection:
        received = read(connection)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in received


def test_a_body_that_dribbles_in_is_given_up(bounded):
    head = "POST /v1/moderations HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: 100"
    begun = time.monotonic()
    with raw_request(bounded, head, b'{"input"') as connection:
        received = read(connection)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert json.loads(received.split(b"\r\n\r\n")[1])["error"]["code"] == "body_timeout"
    assert 0.5 < time.monotonic() - begun < 5


def test_a_sender_that_goes_in_the_middle_leaves_nothing_behind(bounded):
    metrics = bounded.app.state.service.metrics
    head = "POST /v1/moderations HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: 100"
    raw_request(bounded, head, b'{"input"').close()
    until = time.monotonic() + 5
    while b'rejected_total{reason="disconnected"}' not in metrics.render(bounded.engine.status())[0]:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe\xff",
        b'{"input": "\xff"}',
        b"[" * 2000,
        b'{"a":' * 400,
        b"9" * 2000,
        b"null",
        b"[]",
        b'"text"',
    ],
)
def test_what_is_no_request_is_a_400(bounded, raw):
    with client(bounded) as http:
        for path in ("/v1/moderations", "/v1/chat/completions"):
            response = http.post(path, content=raw, headers={"content-type": "application/json"})
            assert response.status_code == 400
            error_of(response)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400, "-1"])
def test_numbers_that_are_none_are_a_400(bounded, number):
    raw = json.dumps(chat_body("bake1 the thing1")).replace('"temperature": 0', f'"temperature": {number}')
    with client(bounded) as http:
        response = http.post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert error_of(response)["param"] == "temperature"


def test_halves_of_characters_are_a_400(bounded):
    for body in (chat_body("\ud800"), chat_body("bake1", stop=["\udfff"]), chat_body("bake1", model="\ud800")):
        with client(bounded) as http:
            response = http.post(
                "/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"}
            )
        assert response.status_code == 400
        error_of(response)
