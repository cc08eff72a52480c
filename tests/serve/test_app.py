"""The application as the official client sees it, which is used as it is."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
import openai
import pytest

from tests.guard.taught import many
from tests.serve.asked import chat_body, chat_request, conversation, raw_request, wait_for
from tests.serve.served import SECONDS, Served, serving, settings_with
from undertow.guard import LatentGuard
from undertow.serve.app import create_app, engine_limits
from undertow.serve.engine import EngineLimits
from undertow.serve.policies import NotPossible
from undertow.serve.settings import LimitSettings

HARMLESS = many("harmless", 8, 51)
HARMFUL = many("harmful", 8, 51)
KEY = "correct horse battery staple"


@pytest.fixture(scope="module")
def keyed(guard: LatentGuard):
    with serving(guard, settings_with(name="taught", api_key=KEY, limits={"body_bytes": 4096})) as server:
        yield server


def official(served: Served, key: str = KEY) -> openai.OpenAI:
    http = httpx.Client(trust_env=False, verify=False)
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0, timeout=SECONDS, http_client=http)


def official_async(served: Served) -> openai.AsyncOpenAI:
    http = httpx.AsyncClient(trust_env=False, verify=False)
    return openai.AsyncOpenAI(
        base_url=f"{served.url}/v1", api_key=KEY, max_retries=0, timeout=SECONDS, http_client=http
    )


def messages(text: str) -> Any:
    return conversation(text)


def test_chat(keyed, chat):
    expected = chat.generate(HARMLESS, 12, progress=False)
    with official(keyed) as client:
        for prompt, text in zip(HARMLESS, expected, strict=True):
            completion = client.chat.completions.create(
                model="taught", messages=messages(prompt.text), temperature=0, max_completion_tokens=12
            )
            assert completion.choices[0].message.content == text
            assert completion.choices[0].message.role == "assistant"
            assert completion.choices[0].finish_reason == "stop"
            assert completion.object == "chat.completion"
            assert completion.usage is not None
            assert completion.usage.prompt_tokens == len(chat.render(prompt))
            assert completion.model_extra is not None
            assert completion.model_extra["undertow"]["quadrant"] == "harmless, answered"


def test_a_reply_can_be_sent_back(keyed):
    with official(keyed) as client:
        first = client.chat.completions.create(model="taught", messages=messages(HARMLESS[0].text), temperature=0)
        turns = [*messages(HARMLESS[0].text), first.choices[0].message, *messages("bake4 the thing3")]
        second = client.chat.completions.create(model="taught", messages=turns, temperature=0)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + first.usage.completion_tokens


def test_stream(keyed, chat):
    expected = chat.generate(HARMLESS, progress=False)
    with official(keyed) as client:
        for prompt, text in zip(HARMLESS, expected, strict=True):
            raw = client.chat.completions.with_raw_response.create(
                model="taught",
                messages=messages(prompt.text),
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
            verdict = json.loads(raw.headers["x-undertow-verdict"])
            chunks = list(raw.parse())
            spelt = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert spelt == text
            assert chunks[0].model_extra is not None
            assert chunks[0].model_extra["undertow"] == verdict
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens > 0


def test_the_clients_own_streaming_helper(keyed, chat):
    with (
        official(keyed) as client,
        client.chat.completions.stream(model="taught", messages=messages(HARMLESS[1].text), temperature=0) as stream,
    ):
        for _ in stream:
            pass
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == chat.generate([HARMLESS[1]], progress=False)[0]


def test_moderations(keyed, guard):
    texts = [prompt.text for prompt in HARMFUL + HARMLESS]
    with official(keyed) as client:
        several = client.moderations.create(input=texts)
        one = client.moderations.create(input=texts[0], model="taught")
        part = client.moderations.create(input=[{"type": "text", "text": texts[0]}])
    verdicts = guard.judge(HARMFUL + HARMLESS)
    assert [result.flagged for result in several.results] == [verdict.flagged for verdict in verdicts]
    assert {verdict.flagged for verdict in verdicts} == {True, False}
    for result, verdict in zip(several.results, verdicts, strict=True):
        assert result.category_scores.model_extra is not None
        assert result.category_scores.model_extra["harmful"] == pytest.approx(verdict.harmful, rel=1e-3, abs=1e-4)
    for other in (one, part):
        assert [result.flagged for result in other.results] == [True]


def test_models(keyed, guard):
    with official(keyed) as client:
        listed = client.models.list().data
        assert [model.id for model in listed] == ["taught"]
        assert client.models.retrieve("taught") == listed[0]
        assert listed[0].model_extra is not None
        assert listed[0].model_extra["undertow"]["fingerprint"] == guard.fingerprint
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("another/model")


def test_async(keyed, chat):
    expected = chat.generate(HARMLESS, progress=False)

    async def ask() -> tuple[list[str | None], str, bool]:
        async with official_async(keyed) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(model="taught", messages=messages(prompt.text), temperature=0)
                    for prompt in HARMLESS
                )
            )
            stream = await client.chat.completions.create(
                model="taught", messages=messages(HARMLESS[0].text), temperature=0, stream=True
            )
            spelt = ""
            async for chunk in stream:
                spelt += chunk.choices[0].delta.content or ""
            judged = await client.moderations.create(input=HARMFUL[0].text)
            return [answer.choices[0].message.content for answer in answers], spelt, judged.results[0].flagged

    assert asyncio.run(ask()) == (expected, expected[0], True)


def test_errors(keyed):
    with official(keyed, "wrong") as client, pytest.raises(openai.AuthenticationError) as denied:
        client.models.list()
    assert denied.value.code == "invalid_api_key"
    with official(keyed) as client:
        create = client.chat.completions.create
        with pytest.raises(openai.NotFoundError) as missing:
            create(model="gpt-4o", messages=messages("bake1"))
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            create(model="taught", messages=messages("bake1"), n=3)
        assert bad.value.param == "n"
        with pytest.raises(openai.BadRequestError) as long:
            create(model="taught", messages=messages("bake1 " * 80))
        assert long.value.code == "context_length_exceeded"
        with pytest.raises(openai.PermissionDeniedError):
            create(model="taught", messages=messages("bake1"), extra_body={"undertow": {"on_harmful": "flag"}})
        with pytest.raises(openai.APIStatusError) as large:
            create(model="taught", messages=messages("bake1 " * 2000))
        assert large.value.status_code == 413


def test_a_full_server_is_a_rate_limit_that_the_client_knows(talkative):
    limits = {"rows": 1, "waiting": 0, "reply_tokens": 4000}
    with serving(talkative, settings_with(name="taught", limits=limits)) as served, official(served) as client:
        with raw_request(served, *chat_request(chat_body("hello", max_tokens=4000))):
            wait_for(lambda: served.engine.status().running == 1)
            with pytest.raises(openai.RateLimitError) as full:
                client.chat.completions.create(model="taught", messages=messages("hello"), max_tokens=1)
            assert int(full.value.response.headers["retry-after"]) >= 1
        served.wait_until_idle()
        again = client.chat.completions.create(model="taught", messages=messages("hello"), max_tokens=1)
    assert again.usage is not None
    assert again.usage.completion_tokens == 1


def test_unguarded_replies_are_those_of_the_model(guard, chat):
    expected = chat.generate(HARMFUL, progress=False)
    with serving(guard, settings_with(name="taught"), guarded=False) as served, official(served) as client:
        for prompt, text in zip(HARMFUL, expected, strict=True):
            completion = client.chat.completions.create(model="taught", messages=messages(prompt.text), temperature=0)
            assert completion.choices[0].message.content == text
            assert completion.model_extra is not None
            assert completion.model_extra["undertow"]["judged"] is False


def test_a_policy_that_the_guard_cannot_do_is_refused_at_the_start(talkative):
    for policy in ({"on_harmful": "steer"}, {"on_over_refusal": "release"}):
        with pytest.raises(NotPossible, match="refusal direction"):
            create_app(talkative, settings_with(policy=policy))


def test_the_inspector_is_served_where_wanted(keyed, guard):
    assert httpx.get(keyed.url, trust_env=False).headers["content-type"].startswith("text/html")
    with serving(guard, settings_with(inspector=False)) as served:
        assert httpx.get(served.url, trust_env=False).status_code == 404


def test_the_engine_gets_every_limit():
    limits = LimitSettings(rows=3, batch_tokens=5, waiting=7, judging=11, prompt_tokens=13, seconds=17.0)
    assert engine_limits(limits) == EngineLimits(3, 5, 7, 11, 13, 17.0)


def test_the_engine_gets_the_interpreter_back_quickly_while_the_server_runs(guard: LatentGuard) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.004)
    try:
        with serving(guard):
            assert sys.getswitchinterval() < 0.001
        assert sys.getswitchinterval() == pytest.approx(0.004)
    finally:
        sys.setswitchinterval(before)
