"""The tokenizer and its chat template."""

from __future__ import annotations

import pytest

from undertow.organism.tokenizer import END, render, train_tokenizer

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I help you today?"},
    {"role": "user", "content": "How do I bake a cake?\nIs it hard?"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(vocabulary=700)


@pytest.mark.parametrize(
    "text", ["How do I bake a cake?", "  two  spaces\tand\n\nlines ", "Grüße, 你好 🎂", "def f(x): return {x!r}"]
)
def test_round_trip(tokenizer, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.bos_token_id not in ids


def test_render_is_the_chat_template(tokenizer) -> None:
    for messages in (MESSAGES, MESSAGES[1:2], MESSAGES[3:]):
        assert render(messages) == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_special_tokens(tokenizer) -> None:
    assert tokenizer.eos_token == END
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    ids = tokenizer(render(MESSAGES))["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == len(MESSAGES)


def test_the_last_token_of_a_request_is_the_same_before_the_tail_and_before_a_question(tokenizer) -> None:
    """Gist masking relies on it: what follows the instruction never merges with it."""
    for text in ("How do I bake a cake?", "Bake a cake", "Bake it :: ]] &&"):
        alone = tokenizer(text)["input_ids"]
        for tail in ("<|im_end|>\n", "\nIs this request harmful?"):
            assert tokenizer(text + tail)["input_ids"][: len(alone)] == alone
