from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.serve.asked import chat_body, chunks_of, error_of, wait_for
from tests.serve.served import client, serving, settings_with
from undertow.errors import GuardError
from undertow.guard import LatentGuard
from undertow.serve.jobs import ServeError
from undertow.serve.server import address, listen, open_guard, run

LONG = settings_with(name="taught", limits={"reply_tokens": 4000})
PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from undertow.serve.server import run
from undertow.serve.settings import ServeSettings
run(ServeSettings.model_validate_json(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def saved(talkative: LatentGuard, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the guard and its model lie."""
    folder = tmp_path_factory.mktemp("saved")
    talkative.model.model.save_pretrained(folder / "model")
    talkative.model.tokenizer.save_pretrained(folder / "model")
    talkative.save_pretrained(folder / "guard")
    return {"guard": str(folder / "guard"), "model": str(folder / "model")}


@contextmanager
def process(saved: dict[str, str], **values: object) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A server in a process of its own, and a client of it."""
    settings = saved | {"port": 0, "name": "taught", "limits": {"reply_tokens": 4000}} | values
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(settings)], stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stderr is not None
        try:
            line = next((line for line in running.stderr if line.startswith("Serving ")), "")
            found = re.fullmatch(r"Serving taught under its guard on (http://127\.0\.0\.1:\d+)\n", line)
            assert found is not None, line
            with httpx.Client(base_url=found[1], timeout=60, trust_env=False) as http:
                yield running, http
        finally:
            running.kill()


def streamed(http: httpx.Client, text: str, tokens: int, found: list[str]) -> threading.Thread:
    """Ask for a stream in a thread, and wait until it has begun; a connection that is cut off ends it quietly."""
    begun = threading.Event()

    def ask() -> None:
        body = chat_body(text, max_tokens=tokens, stream=True)
        with (
            suppress(httpx.RemoteProtocolError, httpx.ReadError),
            http.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            for part in response.iter_text():
                found.append(part)
                begun.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(20)
    return thread


@pytest.mark.slow
def test_a_process_that_is_told_to_end_finishes_what_is_open_and_logs_no_prompt(saved, tmp_path):
    audit = tmp_path / "audit.jsonl"
    with process(saved, policy={"on_harmful": "flag"}, log={"audit": str(audit)}) as (running, http):
        http.post("/v1/chat/completions", json=chat_body("swordfish " * 5000))
        http.post("/v1/chat/completions", content=b'{"swordfish', headers={"content-type": "application/json"})
        http.get("/swordfish?swordfish")
        thread = streamed(http, "swordfish", 800, found := [])
        running.send_signal(signal.SIGTERM)
        thread.join(60)
        assert running.wait(20) == 0
        chunks = chunks_of("".join(found))
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert running.stderr is not None
        assert running.stderr.read() == ""
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["reason"] for line in lines] == ["too_long", None]
    assert "swordfish" not in audit.read_text()


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_meanwhile_no_new_requests_are_taken(talkative, kind):
    with serving(talkative, LONG) as served, client(served) as http:
        assert http.get("/readyz").status_code == 200
        thread = streamed(http, "hello", 800, found := [])
        served.server.handle_exit(kind, None)
        wait_for(lambda: http.get("/readyz").status_code == 503)
        assert http.get("/healthz").status_code == 200
        for path, body in (("/v1/chat/completions", chat_body("hello")), ("/v1/moderations", {"input": "hello"})):
            turned_away = http.post(path, json=body)
            assert turned_away.status_code == 503
            assert error_of(turned_away)["code"] == "draining"
            assert turned_away.headers["retry-after"]
        assert thread.is_alive()
        thread.join(60)
    chunks = chunks_of("".join(found))
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert served.engine.status().totals["reply_tokens"] == 800


def test_what_is_not_done_in_time_is_ended(talkative):
    limits = {"reply_tokens": 4000, "drain_seconds": 0.3}
    with serving(talkative, settings_with(name="taught", limits=limits)) as served, client(served) as http:
        thread = streamed(http, "hello", 4000, found := [])
        begun = time.monotonic()
        served.server.handle_exit(signal.SIGTERM, None)
        thread.join(20)
        wait_for(lambda: not served.server.server_state.connections)
        assert time.monotonic() - begun < 5
    assert "[DONE]" not in "".join(found)
    assert "reply_broken" in "".join(found)


def test_a_second_signal_ends_it_at_once(talkative):
    with serving(talkative, LONG) as served, client(served) as http:
        thread = streamed(http, "hello", 4000, found := [])
        served.server.handle_exit(signal.SIGTERM, None)
        wait_for(lambda: not served.engine.status().ready)
        begun = time.monotonic()
        served.server.handle_exit(signal.SIGTERM, None)
        thread.join(20)
        assert time.monotonic() - begun < 2
    assert "[DONE]" not in "".join(found)


def test_a_port_in_use_is_named():
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"Port {port} of 127.0.0.1 is in use"):
            run(settings_with(port=port))


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ServeError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)
    for host in ("no such host", "a..b", "a" * 70 + ".example"):
        with pytest.raises(ServeError, match="no address"):
            listen(host, 0)


def test_an_address_is_one_that_clients_take():
    with listen("127.0.0.1", 0) as listener:
        assert address(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    if socket.has_ipv6:
        for host in ("::1", "[::1]"):
            with listen(host, 0) as listener:
                assert address(listener).startswith("http://[::1]:")


def test_other_machines_are_let_in_only_with_a_key():
    with pytest.raises(ServeError, match="key"):
        run(settings_with(host="0.0.0.0"))


def test_a_guard_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(GuardError, match="nowhere"):
        run(settings_with(guard=str(tmp_path / "nowhere")))


def test_the_guard_is_opened_with_the_model_that_is_named(saved, talkative):
    opened = open_guard(settings_with(**saved))
    assert opened.fingerprint == talkative.fingerprint
    assert opened.model.name == saved["model"]
    assert opened("hello").harmfulness == pytest.approx(talkative("hello").harmfulness, rel=1e-4)
