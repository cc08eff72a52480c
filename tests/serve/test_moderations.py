from __future__ import annotations

import json

import pytest

from tests.guard.taught import many
from tests.serve.asked import chat_request, error_of, raw_request, wait_for
from tests.serve.served import Served, client, serving, settings_with
from undertow.serve.audit import Audit
from undertow.serve.metrics import Metrics

PROMPTS = [prompt for kind in ("harmful", "harmless", "look-alike") for prompt in many(kind, 5, 61)]
PROMPTS += many("harmful", 5, 61, "persuasion")


def test_verdicts_are_those_of_the_library_in_order(served: Served, guard):
    with client(served) as http:
        body = http.post("/v1/moderations", json={"input": [prompt.text for prompt in PROMPTS]}).json()
    verdicts = guard.judge(PROMPTS)
    assert body["model"] == "taught"
    for result, verdict in zip(body["results"], verdicts, strict=True):
        wire = result["undertow"]
        assert result["flagged"] == wire["flagged"] == result["categories"]["harmful"] == verdict.flagged
        assert wire["action"] == ("flagged" if verdict.flagged else "none")
        assert wire["quadrant"] == verdict.quadrant
        assert result["category_scores"]["harmful"] == wire["harmful"]
        for name in ("harmful", "harmfulness", "refusal", "threshold"):
            assert wire[name] == pytest.approx(getattr(verdict, name), rel=1e-3, abs=1e-4)


def test_what_cannot_be_judged_is_flagged_with_its_reason(served: Served):
    with client(served) as http:
        texts = ["bake1 the thing1", "", "bake1 " * 80, "attack1 the thing1"]
        results = http.post("/v1/moderations", json={"input": texts}).json()["results"]
    assert [result["undertow"]["reason"] for result in results] == [None, "not_rendered", "too_long", None]
    assert [result["flagged"] for result in results] == [False, True, True, True]
    for result in results[1:3]:
        assert result["category_scores"] == {"harmful": 1.0}
        assert result["undertow"]["action"] == "flagged"
        assert result["undertow"]["judged"] is False
        assert result["undertow"]["harmful"] is None


def test_unless_the_operator_chose_otherwise(guard):
    settings = settings_with(policy={"on_unjudged": "answer"})
    with serving(guard, settings) as server, client(server) as http:
        result = http.post("/v1/moderations", json={"input": ""}).json()["results"][0]
    assert result["flagged"] is False
    assert result["category_scores"] == {"harmful": None}
    assert (result["undertow"]["action"], result["undertow"]["reason"]) == ("none", "not_rendered")


def test_there_are_bounds(guard):
    limits = {"inputs": 3, "judging": 2}
    settings = settings_with(name="taught", limits=limits)
    with serving(guard, settings, metrics=Metrics()) as server, client(server) as http:
        many_texts = http.post("/v1/moderations", json={"input": ["bake1"] * 4})
        assert many_texts.status_code == 400
        assert error_of(many_texts)["param"] == "input"
        full = http.post("/v1/moderations", json={"input": ["bake1"] * 3})
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        assert http.post("/v1/moderations", json={"input": ["bake1"] * 2}).status_code == 200
        other = http.post("/v1/moderations", json={"input": "bake1", "model": "omni-moderation-latest"})
        assert other.status_code == 404
        assert 'undertow_rejected_total{reason="full"} 1.0' in http.get("/metrics").text


def test_a_client_that_goes_leaves_nothing_behind(served: Served):
    metrics = served.app.state.service.metrics

    def gone() -> float:
        text = metrics.render(served.engine.status())[0].decode()
        lines = [line for line in text.splitlines() if line.startswith('undertow_requests_total{route="/v1/mod')]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    before = gone()
    head, raw = chat_request({"input": [prompt.text for prompt in PROMPTS] * 12})
    connections = [raw_request(served, head.replace("chat/completions", "moderations"), raw) for _ in range(8)]
    for connection in connections:
        connection.close()
    wait_for(lambda: gone() == before + 8)
    served.wait_until_idle()
    with client(served) as http:
        assert http.post("/v1/moderations", json={"input": "bake1"}).status_code == 200


def test_the_audit_says_what_the_client_was_told(guard, tmp_path):
    audit = Audit(tmp_path / "audit.jsonl")
    with serving(guard, settings_with(), metrics=Metrics(), audit=audit) as server, client(server) as http:
        told = http.post("/v1/moderations", json={"input": ["", "attack1 the thing1"]}).json()["results"]
        counted = http.get("/metrics").text
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["action"] for line in lines] == [result["undertow"]["action"] for result in told] == ["flagged"] * 2
    assert 'undertow_unjudged_total{action="flagged",reason="not_rendered"} 1.0' in counted
