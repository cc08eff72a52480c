from __future__ import annotations

import pytest

from tests.serve.asked import raw_request, wait_for
from tests.serve.served import Served, client, serving, settings_with
from undertow.serve import health


def test_a_server_that_takes_work_is_ready(served: Served):
    with client(served) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/readyz").json() == {"status": "ready"}


def test_without_its_engine_it_lives_but_is_not_ready(guard):
    with serving(guard, settings_with()) as server, client(server) as http:
        server.engine.stop()
        assert http.get("/healthz").status_code == 200
        response = http.get("/readyz")
        assert response.status_code == 503
        assert response.json() == {"status": "draining"}
        assert response.headers["retry-after"] == "1"


def test_metrics_are_text_for_prometheus(served: Served):
    with client(served) as http:
        response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert "undertow_ready 1.0" in response.text.splitlines()


def test_there_are_none_where_nothing_is_counted(guard):
    with serving(guard, settings_with()) as server, client(server) as http:
        assert http.get("/metrics").status_code == 404


def test_with_an_engine_that_hangs_it_is_not_ready(guard, monkeypatch: pytest.MonkeyPatch):
    assert health.STALLED_SECONDS == 60
    monkeypatch.setattr(health, "STALLED_SECONDS", 0.5)
    with serving(guard, settings_with()) as server, client(server) as http:
        raw = b'{"input": "bake1"}'
        head = "POST /v1/moderations HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: 18"
        with server.held(), raw_request(server, head, raw):
            wait_for(lambda: http.get("/readyz").status_code == 503)
            response = http.get("/readyz")
            assert response.json() == {"status": "stalled"}
            assert response.headers["retry-after"] == "1"
            assert http.get("/healthz").status_code == 200
            assert server.engine.status().stalled > 0.5
        wait_for(lambda: http.get("/readyz").status_code == 200)
