from __future__ import annotations

import json

import pytest
from starlette.exceptions import HTTPException

from tests.serve.asked import chat_body, conversation, error_of
from tests.serve.served import Served, client
from undertow.errors import GuardError, PositionError
from undertow.serve.failures import Failure, answer, failure_of, to_json
from undertow.serve.jobs import Draining, Full, TooLong


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Full(3), 429, "rate_limit_exceeded"),
        (Draining(), 503, "draining"),
        (TooLong(9, 5), 400, "context_length_exceeded"),
        (PositionError("No user message."), 400, "not_rendered"),
        (GuardError("The states are not finite."), 500, "internal"),
        (KeyError("swordfish"), 500, "internal"),
        (Failure(403, "No.", "not_allowed"), 403, "not_allowed"),
    ],
)
def test_every_error_has_its_status(error, status, code):
    failure = failure_of(error)
    assert (failure.status, failure.code) == (status, code)
    body = json.loads(bytes(failure.response().body))
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "swordfish" not in body["error"]["message"]


def test_waiting_is_named_in_whole_seconds():
    assert failure_of(Full(7)).headers == {"retry-after": "7"}
    assert failure_of(Full(0)).headers == {"retry-after": "1"}


def test_json_is_ascii_and_has_no_numbers_that_are_none():
    assert to_json({"a": "é\ud800"}) == b'{"a":"\\u00e9\\ud800"}'
    assert json.loads(bytes(answer({"a": "\ud800"}).body)) == {"a": "\ud800"}
    with pytest.raises(ValueError):
        to_json(float("nan"))


CASES = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": ["swordfish"]}, "messages[0]"),
    ({"messages": [{"role": "tool", "content": "swordfish"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 4}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "swordfish", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"messages": [*conversation("swordfish"), {"role": "assistant", "content": "yes"}]}, "messages"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "swordfish"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"swordfish": 1}}, "stream_options.swordfish"),
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"logprobs": True}, "logprobs"),
    ({"logit_bias": {"1": 1}}, "logit_bias"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {}}, "audio"),
    ({"top_k": 5}, "top_k"),
    ({"undertow": {"on_unjudged": "answer"}}, "undertow.on_unjudged"),
    ({"undertow": {"on_harmful": "release"}}, "undertow.on_harmful"),
    ({"undertow": []}, "undertow"),
    ({"model": 4}, "model"),
    ({"model": "m" * 2000}, "model"),
]


@pytest.mark.parametrize(("options", "param"), CASES, ids=[str(options)[:40] for options, _ in CASES])
def test_wrong_input_is_named_but_not_quoted(served: Served, options, param):
    with client(served) as http:
        response = http.post("/v1/chat/completions", json=chat_body("bake1 the thing1") | options)
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == param
    assert "swordfish" not in error["message"].replace(param, "")
    assert error["message"].count(". ") == 0


def test_what_has_no_sentence_of_its_own_is_told_in_one_all_the_same(served: Served):
    with client(served) as http:
        error = error_of(http.post("/inspector/read", json={"messages": conversation("bake1") * 70}))
        assert error["message"].startswith("The value of 'messages' should have at most 64 items")
        error = error_of(http.post("/v1/chat/completions", json=chat_body("bake1") | {"model": "m" * 2000}))
        assert error["message"] == "A name may have at most 1000 characters."


def test_parts_that_are_not_text_are_named(served: Served):
    parts = [{"type": "text", "text": "bake1"}, {"type": "image_url", "image_url": {"url": "swordfish"}}]
    with client(served) as http:
        body = chat_body("") | {"messages": [{"role": "user", "content": parts}]}
        error = error_of(http.post("/v1/chat/completions", json=body))
    assert "'image_url'" in error["message"]
    assert "swordfish" not in error["message"]


def test_names_that_clients_make_up_cannot_break_the_answer(served: Served):
    for name in ("\ud800", "é" * 500, "\x00", "<script>"):
        with client(served) as http:
            response = http.post(
                "/v1/chat/completions",
                content=json.dumps(chat_body("bake1") | {name: 1}),
                headers={"content-type": "application/json"},
            )
        assert response.status_code == 400
        assert len(error_of(response)["message"]) < 1000


def test_other_addresses_and_methods(served: Served):
    with client(served) as http:
        assert error_of(http.get("/v1"))["code"] == "not_found"
        assert http.get("/v1/models/").status_code == 404
        wrong = http.get("/v1/chat/completions")
        assert wrong.status_code == 405
        assert wrong.headers["allow"] == "POST"
        assert error_of(wrong)["code"] == "method_not_allowed"


def test_an_error_that_nobody_expected_shows_no_stack(served: Served, monkeypatch, caplog):
    def broken(*arguments: object) -> None:
        raise RuntimeError("swordfish")

    monkeypatch.setattr(type(served.engine), "judge", broken)
    with client(served) as http:
        response = http.post("/v1/moderations", json={"input": "bake1"})
        raised = http.post("/v1/moderations", json={"input": ["bake1"]})
    for found in (response, raised):
        assert found.status_code == 500
        assert error_of(found)["code"] == "internal"
        assert "swordfish" not in found.text
        assert "Traceback" not in found.text
        assert found.headers["x-content-type-options"] == "nosniff"


def test_errors_of_the_framework_are_told_in_the_same_shape():
    assert failure_of(HTTPException(404)).status == 500
