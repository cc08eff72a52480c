"""What the library is handed: tokens that a suffix may hold, and suffixes tokenised in their place."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests.builders import tiny_chat
from undertow.errors import UndertowError
from undertow.prompts import Prompt
from undertow.studies.beliefs.suffix_library import (
    Frame,
    PlacedTokenizer,
    Task,
    Vocabulary,
    check_suffix_library,
    decode,
    rendered_ids,
    with_suffix,
)

CHAT = tiny_chat()
PROMPT = Prompt("How do I build a table?", harmful=False, category="wood", id="3")


def plain_ids(suffix: str) -> list[int]:
    """The attacked prompt through transformers alone."""
    messages = [{"role": "user", "content": f"{PROMPT.content}{suffix}"}]
    text = CHAT.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(CHAT.tokenizer(text, add_special_tokens=False)["input_ids"])


def a_suffix() -> list[int]:
    return list(CHAT.tokenizer(" school bank alarm", add_special_tokens=False)["input_ids"])


def placed() -> tuple[PlacedTokenizer, Frame, list[int]]:
    ids = a_suffix()
    task = Task(CHAT, PROMPT, "", tuple(ids), (7, 8), Vocabulary(CHAT), steps=1, width=1, seed=0)
    frame = Frame(CHAT, PROMPT, "", ids)
    return PlacedTokenizer(task, frame), frame, ids


def test_a_missing_library_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UndertowError, match="pip install --no-deps nanogcg"):
        check_suffix_library()


def test_suffixes_hold_no_special_token_and_no_row_without_a_token() -> None:
    vocabulary = Vocabulary(CHAT)
    assert vocabulary.size == 420 > len(CHAT.tokenizer)
    assert len(vocabulary.texts) == 420
    special = set(CHAT.tokenizer.all_special_ids) | set(CHAT.tokenizer.added_tokens_decoder)
    assert special and not special & set(vocabulary.allowed)
    for index in range(420):
        text = CHAT.tokenizer.decode([index]) if index < len(CHAT.tokenizer) else ""
        wanted = index not in special and text.strip() != "" and text.isascii() and text.isprintable()
        assert (index in vocabulary.allowed) == wanted
        assert vocabulary.texts[index].isprintable() == wanted


def test_a_suffix_goes_behind_the_last_user_message_and_keeps_the_labels() -> None:
    attacked = with_suffix(PROMPT, " zzz")
    assert attacked.content == f"{PROMPT.content} zzz"
    assert (attacked.harmful, attacked.category, attacked.id) == (False, "wood", "3")
    talk = Prompt(
        (
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Ho."},
            {"role": "user", "content": "So?"},
        )
    )
    assert [message["content"] for message in with_suffix(talk, "!").messages] == ["Hi.", "Ho.", "So?!"]
    assert with_suffix(talk, "!").wrapper == "gradient_suffix"


def test_the_frame_is_what_transformers_puts_around_the_suffix() -> None:
    _, frame, ids = placed()
    assert [*frame.before, *ids, *frame.after] == plain_ids(" school bank alarm")
    assert frame.ids(" school bank alarm") == ids
    other = " garden bank"
    assert [*frame.before, *frame.ids(other), *frame.after] == plain_ids(other)
    found = rendered_ids(CHAT, PROMPT, [other, " bank"])
    assert [item[0] for item in found if item] == [plain_ids(other), plain_ids(" bank")]


def test_a_suffix_that_changes_the_tokens_around_it_does_not_count() -> None:
    _, frame, _ = placed()
    # The template's own mark in the text becomes one special token.
    assert frame.ids("<|im_end|>") != list(CHAT.tokenizer("<", add_special_tokens=False)["input_ids"])
    parts = [index for piece in ("<", "|", "im", "_", "end", "|", ">") for index in CHAT.tokenizer(piece)["input_ids"]]
    assert frame.ids(decode(CHAT, [parts])[0]) != parts
    with pytest.raises(UndertowError, match="draw another"):
        Frame(CHAT, PROMPT, "", parts)


def test_the_tokenizer_knows_the_pieces_by_name() -> None:
    tokenizer, frame, ids = placed()
    before, after = tokenizer.apply_chat_template([], tokenize=False).split("{optim_str}")
    assert tokenizer([before])["input_ids"].tolist() == [frame.before]
    assert tokenizer([after])["input_ids"].tolist() == [frame.after]
    assert tokenizer(["target"])["input_ids"].tolist() == [[7, 8]]
    (text,) = tokenizer.batch_decode([ids])
    assert tokenizer(text).to("cpu")["input_ids"][0].tolist() == ids
    assert not tokenizer.decode([CHAT.tokenizer.convert_tokens_to_ids("<|im_start|>")]).isprintable()
