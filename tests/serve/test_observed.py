from __future__ import annotations

import re

from tests.serve.asked import chat_body, conversation, error_of
from tests.serve.served import client, serving, settings_with
from undertow.serve.metrics import Metrics


def counted(served) -> dict[str, float]:
    with client(served) as http:
        lines = http.get("/metrics").text.splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def test_requests_tokens_and_verdicts_are_counted(guard, chat):
    with serving(guard, settings_with(name="taught", limits={"body_bytes": 2048}), metrics=Metrics()) as served:
        with client(served) as http:
            for stream in (False, True):
                body = chat_body("bake1 the thing1", stream=stream)
                assert http.post("/v1/chat/completions", json=body).status_code == 200
            http.post("/v1/chat/completions", json=chat_body("attack1 the thing1"))
            http.post("/v1/chat/completions", json=chat_body("bake1 " * 80))
            http.post("/v1/moderations", json={"input": ["attack2 the thing2", ""]})
            http.post("/v1/moderations", json={"input": "x" * 5000})
            http.get("/nowhere/at/all")
            http.get("/v1/models/taught")
        found = counted(served)
    requests = 'undertow_requests_total{route="%s",status="%d"}'
    assert found[requests % ("/v1/chat/completions", 200)] == 3
    assert found[requests % ("/v1/chat/completions", 400)] == 1
    assert found[requests % ("/v1/moderations", 200)] == 1
    assert found[requests % ("/v1/moderations", 413)] == 1
    assert found[requests % ("/v1/models/{id}", 200)] == 1
    assert found[requests % ("other", 404)] == 1
    assert found['undertow_rejected_total{reason="body"}'] == 1
    assert found['undertow_verdicts_total{action="none",quadrant="harmless, answered"}'] == 2
    assert found['undertow_verdicts_total{action="refused",quadrant="harmful, refused"}'] == 1
    assert found['undertow_unjudged_total{action="refused",reason="too_long"}'] == 1
    # The refused one has no token of the model's.
    assert found["undertow_first_token_seconds_count"] == 2
    assert found["undertow_reply_tokens_count"] == 3
    rendered = len(chat.render(conversation("bake1 the thing1"))) * 2
    rendered += len(chat.render(conversation("attack1 the thing1"))) * 2
    assert found["undertow_prompt_tokens_sum"] == rendered
    assert found['undertow_request_seconds_count{route="/v1/chat/completions"}'] == 4


def test_what_the_inspector_asks_is_counted_by_name(guard):
    with serving(guard, settings_with(), metrics=Metrics()) as served:
        with client(served) as http:
            http.post("/inspector/read", json={"messages": conversation("bake1")})
            http.post("/inspector/reply", json={"messages": []})
            http.get("/inspector/inspector.js")
            http.get("/inspector/nothing.js")
            http.post("/inspector/read", content=b"")
        found = counted(served)
    requests = 'undertow_requests_total{route="%s",status="%d"}'
    assert found[requests % ("/inspector/read", 200)] == 1
    assert found[requests % ("/inspector/read", 415)] == 1
    assert found[requests % ("/inspector/reply", 400)] == 1
    assert found[requests % ("/inspector/{name}", 200)] == 1
    assert found[requests % ("/inspector/{name}", 404)] == 1
    assert not [name for name in found if 'route="other"' in name]


def test_every_response_has_an_id_of_its_own(served):
    with client(served) as http:
        ids = [http.get(path).headers["x-request-id"] for path in ("/", "/nowhere", "/v1/models", "/healthz")]
        forged = http.get("/healthz", headers={"x-request-id": "mine"}).headers["x-request-id"]
    assert len({*ids, forged}) == 5
    assert all(re.fullmatch(r"req-[0-9a-f]{24}", one) for one in [*ids, forged])


def test_an_error_in_a_layer_is_answered(guard, monkeypatch):
    from undertow.serve.body import BoundedBody

    with serving(guard, settings_with(), metrics=Metrics()) as served, client(served) as http:

        async def broken(*arguments: object) -> None:
            raise RuntimeError("swordfish")

        monkeypatch.setattr(BoundedBody, "_read", broken)
        response = http.get("/healthz")
        monkeypatch.undo()
        assert response.status_code == 500
        assert error_of(response)["code"] == "internal"
        assert "swordfish" not in response.text
        assert counted(served)['undertow_requests_total{route="/healthz",status="500"}'] == 1
