from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from tests.guard.taught import fit_prompts
from tests.serve.asked import chat_body
from tests.serve.served import client, serving, settings_with
from undertow.guard import LatentGuard
from undertow.guard.verdict import Verdict
from undertow.serve.jobs import EngineStatus, Judgement
from undertow.serve.metrics import Metrics

FLAGGED = Judgement(Verdict(0.9, -0.2, "harmful, about to be answered", True, 2.0, 0.5), "flagged", tokens=9)
UNJUDGED = Judgement(None, "refused", "too_long")


def samples(metrics: Metrics, status: EngineStatus) -> dict[tuple[str, ...], float]:
    """What a Prometheus server reads: name and label values, in order of the labels' names -> value."""
    body, kind = metrics.render(status)
    assert kind.startswith("text/plain")

    def walk() -> Iterator[tuple[tuple[str, ...], float]]:
        for family in text_string_to_metric_families(body.decode("utf-8")):
            for sample in family.samples:
                yield (sample.name, *(value for _, value in sorted(sample.labels.items()))), sample.value

    return dict(walk())


STATUS = EngineStatus(3, 2, 7, True, {"prompt_tokens": 11})


def test_what_happened_is_counted() -> None:
    metrics = Metrics()
    metrics.request("/v1/chat/completions", 200, 0.25)
    metrics.request("/v1/chat/completions", 200, 40.0)
    metrics.request("/v1/chat/completions", 429, 0.125)
    for judgement in (FLAGGED, FLAGGED, UNJUDGED):
        metrics.verdict(judgement)
    metrics.first_token(0.02)
    metrics.tokens(9, 300)
    metrics.tokens(9)
    metrics.tokens(0)
    metrics.rejected("full")
    metrics.audit_failed()
    found = samples(metrics, STATUS)
    chat = "/v1/chat/completions"
    assert found["undertow_requests_total", chat, "200"] == 2
    assert found["undertow_requests_total", chat, "429"] == 1
    assert found["undertow_request_seconds_count", chat] == 3
    assert found["undertow_request_seconds_sum", chat] == 40.375
    assert found["undertow_request_seconds_bucket", "0.5", chat] == 2
    assert found["undertow_verdicts_total", "flagged", "harmful, about to be answered"] == 2
    assert found["undertow_unjudged_total", "refused", "too_long"] == 1
    assert found["undertow_first_token_seconds_count",] == 1
    assert found["undertow_prompt_tokens_count",] == 2 and found["undertow_prompt_tokens_sum",] == 18
    assert found["undertow_reply_tokens_count",] == 1 and found["undertow_reply_tokens_sum",] == 300
    assert found["undertow_rejected_total", "full"] == 1
    assert found["undertow_audit_failures_total",] == 1


def test_the_queues_are_those_of_the_moment() -> None:
    metrics = Metrics()
    found = samples(metrics, STATUS)
    assert [found[f"undertow_{name}",] for name in ("waiting", "running", "judging", "ready")] == [3, 2, 7, 1]
    assert found["undertow_engine_prompt_tokens_total",] == 11
    found = samples(metrics, EngineStatus(0, 0, 0, False, {"prompt_tokens": 12}))
    assert [found[f"undertow_{name}",] for name in ("waiting", "running", "judging", "ready")] == [0, 0, 0, 0]
    assert found["undertow_engine_prompt_tokens_total",] == 12


def test_clients_cannot_invent_labels() -> None:
    metrics = Metrics()
    for number in range(50):
        metrics.request(f"/v1/{number}", 404, 0.0)
    found = samples(metrics, STATUS)
    assert {key[1:] for key in found if key[0] == "undertow_requests_total"} == {("other", "404")}


def test_two_servers_in_one_process_count_for_themselves() -> None:
    first, second = Metrics(), Metrics()
    first.rejected("full")
    assert ("undertow_rejected_total", "full") not in samples(second, STATUS)
    assert ("undertow_rejected_total", "full") in samples(first, STATUS)


def test_a_server_counts_what_it_does(guard: LatentGuard) -> None:
    metrics = Metrics()
    harmful, harmless = (prompts[0].text for prompts in fit_prompts())
    expected = {text: guard(text).quadrant for text in (harmful, harmless)}
    with serving(guard, settings_with(name="taught"), metrics=metrics) as served, client(served) as asking:
        for text in (harmful, harmless):
            assert asking.post("/v1/chat/completions", json=chat_body(text, max_tokens=3)).status_code == 200
        assert asking.post("/v1/moderations", json={"input": [harmful, harmless]}).status_code == 200
        assert asking.post("/v1/chat/completions", json=chat_body(text, model="other")).status_code == 404
        assert asking.get("/nowhere").status_code == 404
        text = asking.get("/metrics").text
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert found['undertow_requests_total{route="/v1/chat/completions",status="200"}'] == 2
    assert found['undertow_requests_total{route="/v1/chat/completions",status="404"}'] == 1
    assert found['undertow_requests_total{route="/v1/moderations",status="200"}'] == 1
    assert found['undertow_requests_total{route="other",status="404"}'] == 1
    for action, about in (("refused", harmful), ("flagged", harmful)):
        assert found[f'undertow_verdicts_total{{action="{action}",quadrant="{expected[about]}"}}'] == 1
    assert found[f'undertow_verdicts_total{{action="none",quadrant="{expected[harmless]}"}}'] == 2
    tokens = {text: len(guard.model.render(text)) for text in (harmful, harmless)}
    assert found["undertow_prompt_tokens_sum"] == 2 * sum(tokens.values())
    assert found["undertow_reply_tokens_count"] == 2 and found["undertow_reply_tokens_sum"] <= 3
    assert found["undertow_first_token_seconds_count"] == 1, "the refused one has no token of the model's"
