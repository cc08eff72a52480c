from __future__ import annotations

from tests.serve.asked import chat_body
from tests.serve.served import client, serving, settings_with
from undertow.serve.metrics import Metrics

KEY = {"authorization": "Bearer 0f2c9a55d1e84b7c"}


def test_what_is_answered_is_described_with_its_headers(guard):
    limits = {"body_bytes": 2048, "judging": 1, "inputs": 4}
    settings = settings_with(name="taught", api_key="0f2c9a55d1e84b7c", limits=limits)
    with serving(guard, settings, metrics=Metrics()) as server, client(server) as http:
        paths = http.get("/openapi.json", headers=KEY).json()["paths"]
        chat, moderations = "/v1/chat/completions", "/v1/moderations"
        answers = [
            (chat, http.post(chat, json=chat_body("bake1 the thing1"), headers=KEY)),
            (chat, http.post(chat, json=chat_body("bake1 the thing1", stream=True), headers=KEY)),
            (chat, http.post(chat, json=chat_body("bake1 " * 80), headers=KEY)),
            (chat, http.post(chat, json=chat_body("bake1", undertow={"on_harmful": "flag"}), headers=KEY)),
            (chat, http.post(chat, json=chat_body("bake1", model="other"), headers=KEY)),
            (chat, http.post(chat, json=chat_body("bake1 " * 800), headers=KEY)),
            (chat, http.post(chat, content=b"{}", headers=KEY)),
            (chat, http.post(chat, json={})),
            (moderations, http.post(moderations, json={"input": "bake1"}, headers=KEY)),
            (moderations, http.post(moderations, json={"input": ["bake1"] * 2}, headers=KEY)),
            ("/v1/models", http.get("/v1/models", headers=KEY)),
            ("/v1/models/{id}", http.get("/v1/models/other", headers=KEY)),
            ("/metrics", http.get("/metrics", headers=KEY)),
            ("/healthz", http.get("/healthz")),
            ("/readyz", http.get("/readyz")),
        ]
        server.engine.stop()
        answers.append(("/readyz", http.get("/readyz")))
        answers.append((chat, http.post(chat, json=chat_body("bake1"), headers=KEY)))
    assert {answer.status_code for _, answer in answers} == {200, 400, 401, 403, 404, 413, 415, 429, 503}
    for path, answer in answers:
        method = answer.request.method.lower()
        described = paths[path][method]["responses"][str(answer.status_code)]
        assert answer.headers["content-type"].partition(";")[0] in described["content"]
        for name, header in described["headers"].items():
            assert not header["required"] or name in answer.headers
