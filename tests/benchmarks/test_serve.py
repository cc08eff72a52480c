"""The figures of the serving benchmark, worked out again, and its traffic against a real socket."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from benchmarks import traffic
from benchmarks.serve import percentile, summary

CHUNKS = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}], "undertow": {}},
    {"choices": [{"delta": {"content": "Take\n\n"}}]},
    {"choices": []},
]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path: whole JSON, a stream in chunks, a refusal, or half an answer."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in [*(json.dumps(chunk) for chunk in CHUNKS), "[DONE]"]:
                part = f"data: {event}\n\n".encode()
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
            return
        answer = json.dumps({"got": body.decode(), "usage": {"completion_tokens": 5}}).encode()
        self.send_response(429 if self.path == "/full" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer) + (7 if self.path == "/half" else 0)))
        self.end_headers()
        self.wfile.write(answer)
        if self.path == "/half":
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_load_sends_every_job_once_and_measures_it(url: str) -> None:
    jobs = [traffic.Job(url, path, b"{}") for path in ("/chat", "/stream", "/full") for _ in range(7)]
    measured = traffic.load(jobs, clients=4)
    assert measured.statuses == {200: 14, 429: 7}
    assert len(measured.seconds) == 14 and len(measured.first) == 7
    assert measured.tokens == 35
    assert min(measured.first) > 0 and max(measured.seconds) <= measured.elapsed


def test_a_load_of_some_seconds_begins_again(url: str) -> None:
    measured = traffic.load([traffic.Job(url, "/chat", b"{}")], clients=2, duration=0.3)
    assert measured.statuses[200] > 2 and 0.3 <= measured.elapsed < 5


def test_half_an_answer_is_lost(url: str) -> None:
    with pytest.raises(traffic.Lost, match="did not come"):
        traffic.load([traffic.Job(url, "/half", b"{}")], clients=1)


def test_events_are_whole_ones_and_their_text_is_found() -> None:
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in CHUNKS) + b"data: [DO"
    assert traffic.events_of(body) == CHUNKS
    assert "".join(traffic.content_of(chunk) for chunk in CHUNKS) == "Take\n\n"
    assert traffic.events_of(body + b"NE]\n\n")[-1] == "[DONE]"


def test_summaries_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).normal(1, 0.1, 101).tolist()
    found = summary(values)
    assert found["median"] == pytest.approx(np.median(values))
    assert found["pairs"] == 101
    assert percentile(values, 0.99) == sorted(values)[99]
    assert summary([1.5])["median"] == summary([1.5])["lower"] == summary([1.5])["upper"] == 1.5
    assert (summary([3.0, 1.0, 2.0])["lower"], summary([3.0, 1.0, 2.0])["upper"]) == (1.0, 3.0)


def test_the_interval_of_a_median_covers_it() -> None:
    samples = np.random.default_rng(1).normal(1, 0.1, (2000, 60))
    found = [summary(sample.tolist()) for sample in samples]
    covered = np.mean([one["lower"] <= 1 <= one["upper"] for one in found])
    assert 0.94 < covered < 0.98
