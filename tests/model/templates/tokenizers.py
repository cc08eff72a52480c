"""Tokenizers for the template shapes, built from nothing: one for people to read, six for random content."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.builders import CORPUS
from tests.model.templates import ACCEPTED
from tests.model.templates.shape import BOS, EOS, QUESTION, SPECIALS

MARKS = re.compile("|".join(re.escape(mark) for mark in sorted(SPECIALS, key=len, reverse=True)))
_BYTES = [f"<0x{value:02X}>" for value in range(256)]
_TRAINING = [*CORPUS, *(f"{shape.before}{QUESTION}{shape.after}" for shape in ACCEPTED)]


def wrap(tokenizer: Tokenizer, template: str) -> PreTrainedTokenizerFast:
    """A transformers tokenizer with the shapes' special tokens."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast


def _stretches() -> Iterator[str]:
    for shape in ACCEPTED:
        for text in (f"{shape.before}{QUESTION}{shape.after}", *(case.text for case in shape.cases)):
            yield from MARKS.split(text)


@lru_cache(maxsize=1)
def words() -> Tokenizer:
    """A GPT-2 style splitter with every word of the shapes in its vocabulary, so that tokens can be told by eye."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.WordLevelTrainer(vocab_size=5000, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(_stretches(), trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    """Byte-level BPE, also over runs of blanks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    blanks = ["a\n\nb", "a \nb", "a  \n\n b", "a\n  b", " \n", "\n\n", "   ", "\t\t", "\U0001f642\u05d0\u0301"] * 20
    tokenizer.train_from_iterator([*_TRAINING, *blanks], trainer)
    return tokenizer


def byte_level_composed() -> Tokenizer:
    """Byte-level BPE after Unicode composition (NFC)."""
    tokenizer = Tokenizer.from_str(byte_level().to_str())
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def byte_level_trimmed() -> Tokenizer:
    """Byte-level BPE with spaces trimmed off the offsets, and special tokens that swallow the blanks around them."""
    tokenizer = Tokenizer.from_str(byte_level().to_str())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.add_special_tokens([AddedToken(mark, lstrip=True, rstrip=True) for mark in SPECIALS])
    return tokenizer


def sentence_pieces() -> Tokenizer:
    """SentencePiece-style BPE without any splitting: a space in front, blanks as U+2581, bytes for the unknown."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIALS, *_BYTES], show_progress=False)
    trained.train_from_iterator([part for text in _TRAINING for part in MARKS.split(text)], trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=model["vocab"],
            merges=[tuple(pair) for pair in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def unigram() -> Tokenizer:
    """SentencePiece-style Unigram after compatibility composition (NFKC), bytes for the unknown and for line breaks."""
    known = ["\u2581", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:?!()<>/#'"]
    longer = ["\u2581How", "\u2581mend", "\u2581bicycle", "\u2581the", "ASSISTANT", "assistant", "user", "\u2581\u2581"]
    pieces = [("<unk>", 0.0), *((piece, -3.0) for piece in known), *((piece, -5.0) for piece in longer)]
    pieces += [(byte, -20.0) for byte in _BYTES]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def word_pieces() -> Tokenizer:
    """WordPiece behind BERT's normaliser: lower case, no accents, no control characters."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator([part for text in _TRAINING for part in MARKS.split(text)], trainer)
    return tokenizer
