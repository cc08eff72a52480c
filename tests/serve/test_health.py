from __future__ import annotations

from tests.serve.served import Served, client, serving, settings_with


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
