from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.guard.taught import many
from tests.serve.asked import chat_body, chat_request, chunks_of, conversation, error_of, raw_request, text_of, wait_for
from tests.serve.served import client, serving, settings_with
from undertow.prompts import Prompt
from undertow.serve.metrics import Metrics

KINDS = {
    "harmless": many("harmless", 6, 41),
    "look-alike": many("look-alike", 6, 41),
    "harmful": many("harmful", 6, 41),
    "jailbreak": many("harmful", 6, 41, "persuasion"),
}
MIXED = [prompt for kind in KINDS.values() for prompt in kind]
POLICIES = [("refuse", "keep"), ("flag", "keep"), ("steer", "keep"), ("refuse", "release")]


def close(values: dict, others: dict) -> bool:
    numbers = ("harmful", "harmfulness", "refusal")
    same = all(values[name] == pytest.approx(others[name], rel=1e-3, abs=1e-4) for name in numbers)
    return same and all(values[name] == others[name] for name in values if name not in numbers)


@pytest.mark.parametrize(("on_harmful", "on_over_refusal"), POLICIES)
def test_replies_and_verdicts_are_those_of_the_library(served, guard, on_harmful, on_over_refusal):
    expected = guard.generate(MIXED, on_harmful, on_over_refusal, max_new_tokens=12, progress=False)
    asked = {"on_harmful": on_harmful, "on_over_refusal": on_over_refusal}
    with client(served) as http:
        for prompt, reply, verdict in zip(MIXED, expected, guard.judge(MIXED), strict=True):
            response = http.post("/v1/chat/completions", json=chat_body(prompt.text, max_tokens=12, undertow=asked))
            body = response.json()
            assert body["choices"][0]["message"]["content"] == reply.text
            assert body["undertow"]["action"] == reply.action == response.headers["x-undertow-action"]
            assert json.loads(response.headers["x-undertow-verdict"]) == body["undertow"]
            wire = {name: getattr(verdict, name) for name in ("harmful", "harmfulness", "refusal", "flagged")}
            wire |= {"quadrant": verdict.quadrant, "threshold": verdict.threshold, "action": reply.action}
            assert close(wire | {"judged": True, "reason": None, "warnings": []}, body["undertow"])


def test_every_action_was_seen_in_that_comparison(guard):
    seen = {
        reply.action
        for policy in POLICIES
        for reply in guard.generate(MIXED, *policy, max_new_tokens=2, progress=False)
    }
    assert seen == {"none", "refused", "flagged", "steered", "released"}


def test_a_stream_spells_the_same_reply(served, chat):
    prompt = KINDS["harmless"][0]
    with client(served) as http:
        body = chat_body(prompt.text, stream=True, stream_options={"include_usage": True})
        response = http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = chunks_of(response.text)
    assert text_of(chunks) == chat.generate([prompt], progress=False)[0]
    assert chunks[0]["undertow"] == json.loads(response.headers["x-undertow-verdict"])
    assert all("undertow" not in chunk for chunk in chunks[1:])
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]][-1] == "stop"
    length = len(chat.render(prompt))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens"] == length
    assert chunks[-1]["usage"]["total_tokens"] == length + chunks[-1]["usage"]["completion_tokens"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_refused_stream_has_no_reply(served):
    with client(served) as http:
        response = http.post("/v1/chat/completions", json=chat_body(KINDS["harmful"][0].text, stream=True))
    chunks = chunks_of(response.text)
    assert text_of(chunks) == "I'm sorry, but I can't help with that."
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert response.headers["x-undertow-action"] == "refused"


def test_sampling_is_that_of_the_library(served, chat):
    prompt = KINDS["harmless"][1]
    expected = [
        chat.generate([prompt], 12, temperature=1.5, top_p=0.9, seed=seed, progress=False)[0] for seed in range(6)
    ]
    assert len(set(expected)) > 1
    with client(served) as http:
        for seed, text in enumerate(expected):
            body = chat_body(prompt.text, temperature=1.5, top_p=0.9, seed=seed, max_completion_tokens=12)
            assert http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"] == text


def test_stop_and_length_end_a_reply(served, chat):
    prompt = KINDS["harmless"][2]
    whole = chat.generate([prompt], progress=False)[0]
    word = whole.split()[2]
    with client(served) as http:
        stopped = http.post("/v1/chat/completions", json=chat_body(prompt.text, stop=[word])).json()
        short = http.post("/v1/chat/completions", json=chat_body(prompt.text, max_tokens=2)).json()
    assert stopped["choices"][0]["message"]["content"] == whole[: whole.index(word)]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert short["choices"][0]["message"]["content"] == " ".join(whole.split()[:2])
    assert short["choices"][0]["finish_reason"] == short["choices"][0]["ended_by"] == "length"
    assert short["usage"]["completion_tokens"] == 2


def test_a_conversation_of_several_turns_is_read_whole(served, guard):
    messages = [
        {"role": "developer", "content": "please now"},
        {"role": "user", "content": [{"type": "text", "text": "bake1 "}, {"type": "text", "text": "the thing4"}]},
        {"role": "assistant", "content": "Sure here is", "refusal": None, "tool_calls": None},
        *conversation("bake3 the thing5"),
    ]
    plain = [
        {"role": "system", "content": "please now"},
        {"role": "user", "content": "bake1 the thing4"},
        {"role": "assistant", "content": "Sure here is"},
        *conversation("bake3 the thing5"),
    ]
    expected = guard.generate([Prompt(tuple(plain))], progress=False)[0]
    with client(served) as http:
        body = http.post("/v1/chat/completions", json=chat_body("") | {"messages": messages}).json()
    assert body["choices"][0]["message"]["content"] == expected.text
    assert body["undertow"]["harmfulness"] == pytest.approx(expected.verdict.harmfulness, rel=1e-3)


def test_mixed_requests_at_once_never_cross(served, guard):
    prompts = MIXED * 4
    expected = guard.generate(prompts, max_new_tokens=12, progress=False)

    def ask(index: int) -> None:
        prompt, reply = prompts[index], expected[index]
        if index % 3 == 2:
            wire = http.post("/v1/moderations", json={"input": prompt.text}).json()["results"][0]["undertow"]
            text = reply.text
        else:
            body = chat_body(prompt.text, max_tokens=12, stream=index % 3 == 1)
            response = http.post("/v1/chat/completions", json=body)
            wire = json.loads(response.headers["x-undertow-verdict"])
            if index % 3 == 1:
                text = text_of(chunks_of(response.text))
            else:
                text = response.json()["choices"][0]["message"]["content"]
        assert text == reply.text
        assert wire["harmfulness"] == pytest.approx(reply.verdict.harmfulness, rel=1e-3, abs=1e-4)
        assert wire["refusal"] == pytest.approx(reply.verdict.refusal, rel=1e-3, abs=1e-4)

    with client(served) as http, ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(len(prompts))))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_slot(talkative, stream):
    metrics = Metrics()
    settings = settings_with(name="taught", limits={"reply_tokens": 4000})
    with serving(talkative, settings, metrics=metrics) as served:
        connection = raw_request(served, *chat_request(chat_body("hello", max_tokens=4000, stream=stream)))
        wait_for(lambda: served.engine.status().running == 1)
        connection.close()
        served.wait_until_idle(5)
        assert served.engine.status().totals.get("reply_tokens", 0) < 4000
        wait_for(lambda: b'rejected_total{reason="disconnected"} 1.0' in metrics.render(served.engine.status())[0])


def test_a_full_queue_turns_clients_away(talkative):
    limits = {"rows": 1, "waiting": 1, "reply_tokens": 4000}
    with serving(talkative, settings_with(name="taught", limits=limits)) as served, client(served) as http:
        head, raw = chat_request(chat_body("hello", max_tokens=4000))
        open_ones = [raw_request(served, head, raw) for _ in range(2)]
        wait_for(lambda: served.engine.status().running + served.engine.status().waiting == 2)
        response = http.post("/v1/chat/completions", json=chat_body("hello"))
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert error_of(response)["code"] == "rate_limit_exceeded"
        assert http.post("/v1/moderations", json={"input": "hello"}).status_code == 200
        for connection in open_ones:
            connection.close()


def test_the_verdict_precedes_the_first_token(talkative):
    settings = settings_with(name="taught", limits={"reply_tokens": 4000})
    with serving(talkative, settings) as served, client(served) as http:
        body = chat_body("hello", max_tokens=4000, stream=True)
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            # The reply is far from its end, so the header did not wait for it.
            verdict = json.loads(response.headers["x-undertow-verdict"])
            assert served.engine.status().running == 1
            assert verdict["harmfulness"] == pytest.approx(talkative("hello").harmfulness, rel=1e-3, abs=1e-4)
            first = next(response.iter_lines())
        assert json.loads(first.removeprefix("data: "))["undertow"] == verdict


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/moderations", "/inspector/reply", "steered"])
def test_the_time_for_a_body_is_part_of_a_requests(guard, monkeypatch, path):
    body: dict = {"messages": conversation("bake1 the thing1")}
    if path == "/v1/chat/completions":
        body = chat_body("bake1 the thing1")
    if path == "/v1/moderations":
        body = {"input": "bake1 the thing1"}
    elif path == "steered":
        body["steering"] = {"direction": "refusal", "state": 2, "coefficient": 1.0, "span": "tail"}
    raw = json.dumps(body).encode()
    route = "/inspector/reply" if path == "steered" else path
    head = f"POST {route} HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: {len(raw)}"
    deadlines = []
    with serving(guard, settings_with(limits={"seconds": 50.0})) as server:
        chat, judge = server.engine.chat, server.engine.judge
        monkeypatch.setattr(server.engine, "chat", lambda job, at=None: deadlines.append(at) or chat(job, at))
        monkeypatch.setattr(server.engine, "judge", lambda *given: deadlines.append(given[2]) or judge(*given))
        before = time.monotonic()
        with raw_request(server, head, raw[:5]) as connection:
            time.sleep(0.5)
            sent = time.monotonic()
            connection.sendall(raw[5:])
            wait_for(lambda: len(deadlines) == (2 if path == "steered" else 1))
        server.wait_until_idle()
    assert all(before + 50 <= at < sent + 50 - 0.2 for at in deadlines)


def test_a_reply_beyond_its_time_says_so(talkative):
    limits = {"reply_tokens": 4000, "seconds": 1.0}
    with serving(talkative, settings_with(name="taught", limits=limits)) as served, client(served) as http:
        whole = http.post("/v1/chat/completions", json=chat_body("hello", max_tokens=4000)).json()
        stream = http.post("/v1/chat/completions", json=chat_body("hello", max_tokens=4000, stream=True))
    choices = [whole["choices"][0], chunks_of(stream.text)[-1]["choices"][0]]
    for choice in choices:
        assert (choice["finish_reason"], choice["ended_by"]) == ("length", "time")
    assert 0 < whole["usage"]["completion_tokens"] < 4000


@pytest.mark.parametrize(
    ("options", "status", "param", "code"),
    [
        ({"model": "gpt-4o"}, 404, "model", "model_not_found"),
        ({"messages": conversation("bake1 " * 80)}, 400, "messages", "context_length_exceeded"),
        ({"messages": conversation("  ")}, 400, "messages", "not_rendered"),
        ({"max_tokens": 100_000}, 400, "max_tokens", "invalid_value"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(served, options, status, param, code):
    with client(served) as http:
        response = http.post("/v1/chat/completions", json=chat_body("bake1 the thing1") | options)
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert "bake1 bake1" not in error["message"]
    if code in ("context_length_exceeded", "not_rendered"):
        verdict = json.loads(response.headers["x-undertow-verdict"])
        assert (verdict["action"], verdict["judged"], verdict["flagged"]) == ("refused", False, True)


def test_a_policy_that_is_not_allowed_is_refused(guard):
    asked = {"on_harmful": "flag"}
    with serving(guard, settings_with(name="taught", policy={"allowed": ["steer"]})) as served, client(served) as http:
        text = KINDS["harmful"][0].text
        response = http.post("/v1/chat/completions", json=chat_body(text, undertow=asked))
        assert response.status_code == 403
        error = error_of(response)
        assert error["param"] == "undertow.on_harmful"
        assert "refuse, steer" in error["message"]
        steered = http.post("/v1/chat/completions", json=chat_body(text, undertow={"on_harmful": "steer"}))
        assert steered.status_code == 200


def test_a_policy_that_the_guard_cannot_do_is_refused(talkative):
    settings = settings_with(name="taught", policy={"allowed": ["steer", "release"]})
    with serving(talkative, settings) as served, client(served) as http:
        for asked in ({"on_harmful": "steer"}, {"on_over_refusal": "release"}):
            response = http.post("/v1/chat/completions", json=chat_body("hello", undertow=asked))
            assert response.status_code == 400
            assert error_of(response)["code"] == "policy_not_possible"


def test_a_reply_that_breaks_off_is_an_error_not_an_answer(talkative):
    settings = settings_with(name="taught", limits={"reply_tokens": 4000})
    found: list[httpx.Response] = []
    with serving(talkative, settings) as served, client(served) as http:

        def ask(stream: bool) -> None:
            found.append(http.post("/v1/chat/completions", json=chat_body("hello", max_tokens=4000, stream=stream)))

        threads = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for thread in threads:
            thread.start()
        wait_for(lambda: served.engine.status().running == 2)
        served.engine.stop()
        for thread in threads:
            thread.join()
    assert {response.status_code for response in found} == {200, 500}
    whole = next(response for response in found if response.status_code == 500)
    assert error_of(whole)["code"] == "reply_broken"
    assert "x-undertow-verdict" in whole.headers
    stream = next(response for response in found if response.status_code == 200)
    assert "[DONE]" not in stream.text
    assert json.loads(stream.text.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "reply_broken"
