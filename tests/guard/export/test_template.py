from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.builders import byte_level_tokenizer, tiny_model
from tests.model.templates import ACCEPTED, Shape
from tests.model.templates import tokenizers as splitters
from undertow.errors import GuardError, PositionError
from undertow.guard.export.template import CONTENTS, cut_template, prompt_ids, prove_template, trial_prompts
from undertow.model import ChatModel
from undertow.prompts import Prompt

UNCUT = {"parts": "lists of parts", "tagged-last": "gives other tokens"}
"""Shapes that are refused: content as parts, and a mark of plain text right after the content, which merges with it."""


def opened(tokenizer: Any, thinking: bool | None = None) -> ChatModel:
    model = tiny_model("llama", vocab_size=max(420, len(tokenizer)))
    return ChatModel(model, tokenizer, name="tiny", thinking=thinking)


def with_template(chat: ChatModel, template: str) -> Any:
    tokenizer = copy.deepcopy(chat.tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def refusal(chat: ChatModel, prompt: Prompt) -> str:
    try:
        chat.render(prompt)
    except PositionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("splitter", ["words", "byte_level"])
@pytest.mark.parametrize("shape", ACCEPTED, ids=lambda shape: shape.name)
def test_every_shape_is_cut_at_the_last_token_of_the_message_or_refused(shape: Shape, splitter: str) -> None:
    inner = getattr(splitters, splitter)()
    for thinking in dict.fromkeys([None, *(case.thinking for case in shape.cases)]):
        chat = opened(splitters.wrap(inner, shape.template), thinking)
        if shape.name in UNCUT:
            with pytest.raises(GuardError, match=UNCUT[shape.name]):
                prove_template(chat, with_template(chat, cut_template(chat)), trial_prompts())
            continue
        tokenizer = with_template(chat, cut_template(chat))
        for prompt in [Prompt("Hi"), Prompt("How do I mend a red bicycle?"), *trial_prompts()]:
            if prompt.text != prompt.text.strip() or "no system message" in refusal(chat, prompt):
                continue
            rendered = chat.render(prompt)
            assert prompt_ids(tokenizer, prompt) == list(rendered.ids[: rendered.t_inst + 1])


def test_hundreds_of_contents_in_chat_markup() -> None:
    chat = opened(byte_level_tokenizer())
    prompts = [Prompt(f"{text}{edge}{number}") for text in CONTENTS for number in range(8) for edge in ("", " ", "\n")]
    prompts += [Prompt(text) for text in CONTENTS]
    assert prove_template(chat, with_template(chat, cut_template(chat)), prompts) == (len(prompts), 0)


def test_what_the_caller_asks_for_changes_nothing() -> None:
    chat = opened(byte_level_tokenizer())
    tokenizer = with_template(chat, cut_template(chat))
    messages = [{"role": "user", "content": "How do I build a table?"}]
    texts = {
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask) for ask in (True, False)
    }
    assert texts == {"<|im_start|>user\nHow do I build a table?"}


def test_a_conversation_that_does_not_end_with_the_user_is_refused() -> None:
    chat = opened(byte_level_tokenizer())
    tokenizer = with_template(chat, cut_template(chat))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    with pytest.raises(Exception, match="last message must be the user"):
        tokenizer.apply_chat_template(messages, tokenize=False)


THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize("thinking", [True, False])
def test_the_thinking_mode_is_fixed(thinking: bool) -> None:
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    tokenizer.chat_template = THINKING
    chat = opened(tokenizer, thinking)
    cut = with_template(chat, cut_template(chat))
    messages = [{"role": "user", "content": "Hi"}]
    for asked in ({}, {"enable_thinking": not thinking}, {"enable_thinking": thinking}):
        assert cut.apply_chat_template(messages, tokenize=False, **asked) == "<|im_start|>user\nHi"


def test_a_mode_that_changes_the_tail_cannot_slip_through() -> None:
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    tokenizer.chat_template = THINKING
    chat = opened(tokenizer)
    cut = with_template(chat, cut_template(chat))
    with pytest.raises(Exception, match="not the one this template was cut by"):
        cut.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, enable_thinking=False)


def test_quotes_and_backslashes_in_the_tail_survive() -> None:
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
        '{{ "\\n\'quoted\' \\\\back\\\\ \\"double\\"" }}'
    )
    chat = opened(tokenizer)
    assert "'quoted' \\back\\" in chat.render("Hi").text
    cut = with_template(chat, cut_template(chat))
    assert cut.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "<|im_start|>Hi"


def test_blanks_at_the_edges_may_differ_where_plain_text_ends_the_message_and_are_counted() -> None:
    template = "{% for m in messages %}user\n\n{{ m['content'] }}\n\n{% endfor %}assistant\n\n"
    chat = opened(splitters.wrap(splitters.byte_level(), template))
    cut = with_template(chat, cut_template(chat))
    edged, plain = Prompt("a table\n"), Prompt("a table")
    whole = chat.render(edged)
    last = whole.ids[whole.t_inst], prompt_ids(cut, edged)[-1]
    assert [chat.tokenizer.decode(token) for token in last] == ["\n\n", "\n"], "the mark of the end shares its token"
    assert prove_template(chat, cut, [edged, plain, Prompt("   ")]) == (2, 1), "the last cannot be rendered"


def test_a_tail_that_changes_with_the_conversation_is_refused() -> None:
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}turn {{ messages | length }}"
    )
    with pytest.raises(GuardError, match="no constant text after the last user message"):
        cut_template(opened(tokenizer))
