from __future__ import annotations

import pytest

from tests.serve.asked import chat_body, error_of
from tests.serve.served import Served, client, serving, settings_with
from undertow.guard import LatentGuard
from undertow.serve.jobs import ServeError
from undertow.serve.metrics import Metrics
from undertow.serve.security import HEADERS, check_listening, is_open

KEY = "0f2c9a55d1e84b7c"


@pytest.fixture(scope="module")
def keyed(guard: LatentGuard):
    with serving(guard, settings_with(name="taught", api_key=KEY), metrics=Metrics()) as server:
        yield server


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "::1", "[::1]", "127.8.8.8"])
def test_loopback_needs_no_key(host):
    check_listening(settings_with(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.4", "example.org", "", "localhost.example.org"])
def test_any_other_host_needs_a_key(host):
    with pytest.raises(ServeError, match="UNDERTOW_API_KEY"):
        check_listening(settings_with(host=host))
    check_listening(settings_with(host=host, api_key=KEY))


@pytest.mark.parametrize("key", ["", "  "])
def test_an_empty_key_is_no_key(key):
    with pytest.raises(ServeError, match="empty"):
        check_listening(settings_with(host="0.0.0.0", api_key=key))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Bearer {KEY.upper()}"},
        {"authorization": f"Bearer {KEY} {KEY}"},
        {"authorization": "Bearer kéy".encode("latin-1")},
        [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")],
    ],
)
def test_without_the_key_nothing_is_told(keyed, headers):
    with client(keyed) as http:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/inspector/about", "/nowhere"):
            response = http.get(path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert error_of(response)["code"] == "invalid_api_key"
        assert http.post("/v1/chat/completions", json=chat_body("bake1"), headers=headers).status_code == 401


def test_with_the_key_everything_is(keyed):
    with client(keyed, headers={"authorization": f"bearer {KEY}"}) as http:
        for path in ("/v1/models", "/metrics", "/openapi.json"):
            assert http.get(path).status_code == 200
        assert http.post("/v1/chat/completions", json=chat_body("bake1 the thing1")).status_code == 200


def test_health_and_the_page_are_open(keyed):
    with client(keyed) as http:
        for path in ("/", "/healthz", "/readyz"):
            assert http.get(path).status_code == 200
    assert is_open("/inspector/page.js")
    assert not is_open("/inspector/read")
    assert not is_open("/inspector/../v1/models")


def test_turned_away_requests_are_counted(keyed):
    metrics = keyed.app.state.service.metrics
    with client(keyed) as http:
        http.get("/v1/models")
    assert b'undertow_rejected_total{reason="key"}' in metrics.render(keyed.engine.status())[0]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:8000", "[::1]"])
def test_names_of_this_machine_are_answered(served: Served, host):
    with client(served) as http:
        assert http.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_a_page_of_another_site_does_not_get_in_by_a_name_of_its_own(served: Served, host):
    with client(served) as http:
        for path in ("/v1/models", "/", "/healthz"):
            response = http.get(path, headers={"host": host})
            assert response.status_code == 421
            assert error_of(response)["code"] == "wrong_host"


def test_the_configured_name_is_answered_and_with_a_key_any(guard, keyed):
    with serving(guard, settings_with(host="127.0.0.2")) as server, client(server) as http:
        assert http.get("/v1/models", headers={"host": "127.0.0.2:9"}).status_code == 200
    with client(keyed, headers={"authorization": f"Bearer {KEY}"}) as http:
        assert http.get("/v1/models", headers={"host": "guarded.example"}).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_browsers_send_unasked_is_refused(served: Served, kind):
    with client(served) as http:
        for path in ("/v1/chat/completions", "/v1/moderations"):
            response = http.post(path, content=b'{"input": "hello"}', headers={"content-type": kind} if kind else {})
            assert response.status_code == 415
            assert error_of(response)["code"] == "not_json"


def test_json_may_name_its_encoding(served: Served):
    with client(served) as http:
        headers = {"content-type": "Application/JSON; charset=utf-8"}
        assert http.post("/v1/moderations", content=b'{"input": "hello"}', headers=headers).status_code == 200


def test_no_other_site_may_read(served: Served):
    with client(served) as http:
        for method in ("GET", "OPTIONS", "POST"):
            response = http.request(method, "/v1/models", headers={"origin": "https://evil.example"})
            assert not [name for name in response.headers if name.startswith("access-control-")]


def test_every_response_carries_the_headers(served: Served):
    with client(served) as http:
        responses = [http.get(path) for path in ("/", "/v1/models", "/nowhere", "/healthz", "/metrics")]
        responses.append(http.post("/v1/moderations", json={}))
        responses.append(http.get("/", headers={"host": "evil.example"}))
    for response in responses:
        assert response.headers["x-content-type-options"] == "nosniff"
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        assert set(HEADERS) <= set(response.headers)
        assert "server" not in response.headers
