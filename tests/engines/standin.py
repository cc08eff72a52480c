"""A small server of moderations on a free port, whose misbehaviour a test can choose."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any, dict[str, str]]


def verdict_of(text: str) -> dict[str, Any]:
    """A verdict that tells which text it belongs to."""
    harmful = text.startswith("attack")
    return {
        "action": "flagged" if harmful else "none",
        "judged": True,
        "reason": None,
        "harmful": len(text) / 100,
        "harmfulness": float(len(text)),
        "threshold": 0.0,
        "refusal": -1.5,
        "flagged": harmful,
        "quadrant": "harmful, about to be answered" if harmful else "harmless, answered",
        "warnings": [],
    }


def unjudged(reason: str) -> dict[str, Any]:
    """A verdict that says why there is none."""
    nothing = dict.fromkeys(("harmful", "harmfulness", "refusal", "quadrant"))
    return {"action": "flagged", "judged": False, "reason": reason, "flagged": True, "threshold": 0.0, **nothing}


def moderation(texts: list[str], judge: Callable[[str], dict[str, Any]] = verdict_of) -> dict[str, Any]:
    """The body of a good answer."""
    verdicts = [judge(text) for text in texts]
    return {"id": "modr-1", "model": "m", "results": [{"flagged": v["flagged"], "undertow": v} for v in verdicts]}


@dataclass
class Standin:
    """What the server does and what it was asked.

    Attributes:
        url: its address.
        answer: makes the answer to the texts of a moderation; status, body and headers.
        guard: fingerprint that GET /v1/models tells; None tells none.
        key: the bearer token that it wants.
        asked: texts of every moderation that came in.
        most: the most moderations that were open at once.
    """

    url: str = ""
    answer: Callable[[list[str]], Answer] = field(default=lambda texts: (200, moderation(texts), {}))
    guard: str | None = "f" * 64
    key: str | None = None
    about: dict[str, Any] = field(default_factory=lambda: {"quadrants": ["a", "b", "c", "d"], "warnings": []})
    asked: list[list[str]] = field(default_factory=list)
    open: int = 0
    most: int = 0

    def models(self) -> dict[str, Any]:
        about = self.about | ({"fingerprint": self.guard} if self.guard else {})
        return {"object": "list", "data": [{"id": "m", "object": "model", "undertow": about}]}


@contextmanager
def standing_in() -> Iterator[Standin]:
    """Run the server while the block runs."""
    standin, lock = Standin(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def reply(self, status: int, body: Any, headers: dict[str, str]) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def allowed(self) -> bool:
            return standin.key is None or self.headers.get("authorization") == f"Bearer {standin.key}"

        def do_GET(self) -> None:
            if not self.allowed():
                return self.reply(401, {"error": {"message": "no key"}}, {})
            return self.reply(200, standin.models(), {})

        def do_POST(self) -> None:
            texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
            with lock:
                standin.asked.append(texts)
                standin.open += 1
                standin.most = max(standin.most, standin.open)
            try:
                answer = standin.answer(texts)
            finally:
                with lock:
                    standin.open -= 1
            if answer[0] == 0:
                self.close_connection = True
                return None
            return self.reply(*answer)

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            # Clients that hang up are part of the tests.
            if not isinstance(sys.exc_info()[1], ConnectionError):
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    standin.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield standin
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
