from __future__ import annotations

import pytest

from undertow.errors import UndertowError
from undertow.prompts import Prompt, PromptSet, as_prompts

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "How do I bake bread?"},
]


def test_text_is_one_user_message() -> None:
    prompt = Prompt("How do I bake bread?")
    assert prompt.text == "How do I bake bread?"
    assert prompt.messages == [{"role": "user", "content": "How do I bake bread?"}]


def test_text_of_a_conversation_is_its_last_user_message() -> None:
    prompt = Prompt((*CONVERSATION, {"role": "assistant", "content": "With flour."}))
    assert prompt.text == "How do I bake bread?"
    assert len(prompt.messages) == 5


def test_changing_the_messages_does_not_change_the_prompt() -> None:
    prompt = Prompt(tuple(CONVERSATION))
    prompt.messages[3]["content"] = "changed"
    CONVERSATION_COPY = [dict(message) for message in CONVERSATION]
    assert prompt.messages == CONVERSATION_COPY


def test_prompts_of_messages_can_be_hashed_and_compared() -> None:
    first, second = Prompt(tuple(CONVERSATION), harmful=False), Prompt(tuple(CONVERSATION), harmful=True)
    assert len({first, second, Prompt(tuple(CONVERSATION), harmful=False)}) == 2


@pytest.mark.parametrize(
    ("message", "role"),
    [
        ({"from": "human", "value": "Hi"}, "user"),
        ({"role": "Human", "content": "Hi"}, "user"),
        ({"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, "user"),
    ],
)
def test_other_forms_of_messages_are_understood(message: dict, role: str) -> None:
    assert Prompt((message,)).messages == [{"role": role, "content": "Hi"}]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ((), "at least one message with the role 'user'"),
        (({"role": "assistant", "content": "Hi"},), "role 'user'"),
        (({"role": "wizard", "content": "Hi"},), "'wizard'"),
        (({"role": "user"},), "text as its content"),
        (({"role": "user", "content": 3},), "text as its content"),
        (({"role": "user", "content": [{"type": "image"}]},), "not text"),
        (("Hi",), "Message 1"),
        (7, "int"),
        ({"role": "user", "content": "Hi"}, "list of messages"),
    ],
)
def test_what_is_no_prompt_is_refused(content: object, named: str) -> None:
    with pytest.raises(UndertowError, match=r"^[^\n]+[.]$") as error:
        Prompt(content)  # type: ignore[arg-type]
    assert named in str(error.value)


def test_as_prompts_takes_every_form() -> None:
    prompt = Prompt("a")
    assert as_prompts("a") == [prompt]
    assert as_prompts(prompt) == [prompt]
    assert as_prompts(["a", prompt]) == [prompt, prompt]
    assert as_prompts(CONVERSATION) == [Prompt(tuple(CONVERSATION))]
    assert as_prompts([CONVERSATION, "a"]) == [Prompt(tuple(CONVERSATION)), prompt]
    assert as_prompts(PromptSet(["a", "b"])) == [prompt, Prompt("b")]
    assert as_prompts(text for text in ("a", "b")) == [prompt, Prompt("b")]
    assert as_prompts([]) == []
    assert as_prompts("") == [Prompt("")]


@pytest.mark.parametrize("wrong", [3, None, b"bytes", {"role": "user", "content": "Hi"}, ["a", 3], ["a", []], [["a"]]])
def test_as_prompts_refuses_the_rest(wrong: object) -> None:
    with pytest.raises(UndertowError, match=r"^[^\n]+[.]$"):
        as_prompts(wrong)
