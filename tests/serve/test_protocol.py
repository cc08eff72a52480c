from __future__ import annotations

import inspect

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.moderation_create_params import ModerationCreateParams
from pydantic import ValidationError

from tests.serve.asked import conversation
from undertow.prompts import Prompt
from undertow.serve.jobs import Judgement
from undertow.serve.protocol import ChatRequest, ModerationRequest, VerdictBody


def request(**options: object) -> ChatRequest:
    return ChatRequest.model_validate({"model": "any", "messages": conversation("hello"), **options})


def test_every_option_of_the_official_client_is_known_by_name():
    names = {*inspect.get_annotations(CompletionCreateParamsBase), "stream"}
    assert names - set(ChatRequest.model_fields) == set()
    assert set(ModerationCreateParams.__annotations__) == set(ModerationRequest.model_fields)


def test_what_asks_for_nothing_is_taken():
    request(
        n=1, tools=[], tool_choice="none", response_format={"type": "text"}, logprobs=False, logit_bias={}, store=True
    )
    request(frequency_penalty=0, presence_penalty=0.0, modalities=["text"], user="me", metadata={"a": "b"}, audio=None)


def test_the_conversation_is_a_prompt():
    turns = [{"role": "developer", "content": "a"}, *conversation("b"), {"role": "assistant", "content": "c"}]
    found = request(messages=[*turns, *conversation("d")]).prompt()
    plain = [{"role": "system", "content": "a"}, *turns[1:], *conversation("d")]
    assert found == Prompt(tuple(plain))


def test_the_last_message_is_the_users():
    for messages in ([{"role": "assistant", "content": "a"}], [*conversation("a"), {"role": "system", "content": "b"}]):
        with pytest.raises(ValidationError, match="last message"):
            request(messages=messages)


def test_the_length_goes_by_either_name():
    assert request().most_tokens is None
    assert request(max_tokens=3).most_tokens == 3
    assert request(max_completion_tokens=4).most_tokens == 4
    assert request(max_tokens=4, max_completion_tokens=4).most_tokens == 4
    with pytest.raises(ValidationError):
        request(max_tokens=3, max_completion_tokens=4)


def test_values_are_not_converted():
    for options in ({"temperature": "1"}, {"seed": "1"}, {"stream": 1}, {"max_tokens": 1.0}, {"top_p": True}):
        with pytest.raises(ValidationError):
            request(**options)


def test_the_verdict_on_the_wire_is_the_described_one():
    wire = Judgement(None, "refused", "too_long").to_wire(0.5)
    assert VerdictBody.model_validate(wire).model_dump() == wire
    assert set(wire) == set(VerdictBody.model_fields)
