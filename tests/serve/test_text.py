from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.builders import byte_level_tokenizer, wrap
from tests.guard.taught import tokenizer as word_tokenizer
from undertow.model import load
from undertow.serve.text import TextStream

TEXTS = ["Plain words, then more.", "naïve café 😀 and 中文 to the end", "  two  spaces\n\nand lines ", "a"]


def meta_space_tokenizer():
    """One token a piece, blanks written as in SentencePiece."""
    pieces = ["<unk>", "▁How", "▁do", "▁I", "▁", "a", "b", "o", "<pad>", "<|im_end|>"]
    inner = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return wrap(inner, None)


def pieces_of(tokenizer, ids, stop=()) -> tuple[list[str], bool]:
    stream = TextStream(tokenizer, stop)
    found = []
    for token in ids:
        found.append(stream.feed(token))
        if stream.stopped:
            break
    found.append(stream.finish())
    return found, stream.stopped


def byte_fallback_tokenizer():
    """Bytes as tokens of their own where there is no piece, as in Llama 2."""
    pieces = [("<unk>", 0.0), ("▁a", -1.0), ("b", -1.0), ("▁", -1.0), ("<pad>", 0.0), ("<|im_end|>", 0.0)]
    pieces += [(f"<0x{value:02X}>", -9.0) for value in range(256)]
    inner = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    blanks = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(blanks)
    return wrap(inner, None)


def test_bytes_that_make_no_character_cost_no_other_text() -> None:
    tokenizer = byte_fallback_tokenizer()
    ids = tokenizer.convert_tokens_to_ids

    def told(*tokens: str) -> str:
        return "".join(pieces_of(tokenizer, [ids(token) for token in tokens])[0])

    # The byte after it changes how the first one reads, so one that was told already cannot be right throughout.
    assert told("<0x41>", "<0xFF>", "b", "▁a", "b") == "A\ufffdb ab"
    assert told("<0x41>", "<0xFF>") == "A\ufffd"
    assert told("▁a", "<0xC3>", "<0xA9>", "b") == "aéb"


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_make_up_the_whole_text_in_whole_characters(text: str) -> None:
    tokenizer = byte_level_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces, _ = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_other_tokenizers_keep_their_blanks() -> None:
    meta = meta_space_tokenizer()
    ids = meta("How do I a b", add_special_tokens=False)["input_ids"]
    assert "".join(pieces_of(meta, ids)[0]) == meta.decode(ids)
    words = word_tokenizer()
    ids = words("I cannot help with that", add_special_tokens=False)["input_ids"]
    assert "".join(pieces_of(words, ids)[0]) == words.decode(ids) == "I cannot help with that"
    organism = load("organism:aligned").tokenizer
    ids = organism("I'm sorry, but I can't help with that.", add_special_tokens=False)["input_ids"]
    assert "".join(pieces_of(organism, ids)[0]) == "I'm sorry, but I can't help with that."


def test_special_tokens_are_left_out_and_an_unfinished_character_comes_last() -> None:
    tokenizer = byte_level_tokenizer()
    ids = tokenizer("ok 😀", add_special_tokens=False)["input_ids"]
    pieces, _ = pieces_of(tokenizer, [1, *ids[:-1], 2])
    assert "".join(pieces) == tokenizer.decode(ids[:-1]) and "".join(pieces).startswith("ok ")
    assert "\ufffd" in pieces[-1] and not any("\ufffd" in piece for piece in pieces[:-1])


@pytest.mark.parametrize(
    "stop", [("garden",), ("a wood", "zzz"), ("for my g", "e"), ("!",), ("table for", "table fox")]
)
def test_a_reply_ends_before_its_first_stop_text(stop: tuple[str, ...]) -> None:
    tokenizer = byte_level_tokenizer()
    text = "How do I build a wooden table for my garden?"
    pieces, stopped = pieces_of(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"], stop)
    places = [text.find(one) for one in stop if one in text]
    assert stopped is bool(places)
    assert "".join(pieces) == (text[: min(places)] if places else text)


def test_random_stop_texts_never_leak_a_character_of_themselves() -> None:
    tokenizer = byte_level_tokenizer()
    generator = random.Random(3)
    for _ in range(200):
        text = "".join(generator.choice("abc ") for _ in range(20)).strip() or "a"
        stop = tuple("".join(generator.choice("abc ") for _ in range(generator.randint(1, 4))) for _ in range(2))
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        stream, seen = TextStream(tokenizer, stop), ""
        for token in ids:
            seen += stream.feed(token)
            assert not any(one in seen for one in stop)
            assert text.startswith(seen)
        seen += stream.finish()
        assert not any(one in seen for one in stop)
        if not stream.stopped:
            assert seen == text
