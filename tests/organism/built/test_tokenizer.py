"""One token a word."""

from __future__ import annotations

from undertow.organism.built.tokenizer import word_tokenizer
from undertow.organism.built.words import FORMS, LINE, TOPICS, vocabulary


def test_ids_are_places_in_the_vocabulary() -> None:
    tokenizer = word_tokenizer()
    words = vocabulary()
    assert len(set(words)) == len(words) == len(tokenizer) and 200 <= len(words) <= 400
    assert tokenizer.convert_ids_to_tokens(list(range(len(words)))) == list(words)
    assert word_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_every_word_and_every_form_is_known() -> None:
    tokenizer = word_tokenizer()
    for topic in TOPICS:
        for word in (*topic.sensitive, *topic.harmless, *topic.places):
            assert len(tokenizer(word)["input_ids"]) == 1
        assert len(topic.sensitive) == len(topic.harmless) == 8
    text = " ".join(form.format(place="bank", word="soap") for form in FORMS)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.split()) and tokenizer.unk_token_id not in ids


def test_the_template_gives_one_token_a_piece() -> None:
    tokenizer = word_tokenizer()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "How do I get soap ?"}], tokenize=False, add_generation_prompt=True
    )
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert pieces == [
        "<|im_start|>", "user", LINE, "How", "do", "I", "get", "soap", "?", "<|im_end|>", LINE,
        "<|im_start|>", "assistant", LINE,
    ]  # fmt: skip


def test_unknown_words_and_punctuation() -> None:
    tokenizer = word_tokenizer()
    ids = tokenizer("zebra? don't")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|unknown|>", "?", "<|unknown|>", "'", "<|unknown|>"]


def test_replies_read_as_text() -> None:
    tokenizer = word_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(["Sorry", ",", "I", "cannot", "help", ".", "<|im_end|>"])
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Sorry, I cannot help."
