"""Positions for random content in every accepted template shape, checked by decoding the tokens one by one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime as real_datetime
from functools import cache
from itertools import cycle, islice
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers.utils import chat_template_utils

from tests.model.templates import ACCEPTED, Shape
from tests.model.templates import tokenizers as built
from tests.model.templates.shape import SPECIALS, TODAY_PARTS
from undertow.errors import PositionError
from undertow.model.positions import Rendered, Renderer
from undertow.prompts import Prompt

TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": built.byte_level,
    "byte-level, composed": built.byte_level_composed,
    "byte-level, trimmed": built.byte_level_trimmed,
    "SentencePiece BPE": built.sentence_pieces,
    "SentencePiece Unigram": built.unigram,
    "WordPiece": built.word_pieces,
}
CONTENTS_EACH = 500
SHAPES_EACH = 3
# What the tokenizers library counts as blank.
BLANKS = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
BYTE = re.compile(r"<0x([0-9A-F]{2})>")

EMOJI = [
    "\U0001f642",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f44d\U0001f3fd",
    "\U0001f1eb\U0001f1f7",
    "\u2764\ufe0f\u200d\U0001f525",
    "3\ufe0f\u20e3",
]
RIGHT_TO_LEFT = [
    "\u05e9\u05dc\u05d5\u05dd",
    "\u0645\u0631\u062d\u0628\u0627",
    "\u202eabc\u202c",
    "\u2067\u0627\u2069",
    "\u200f",
]
MARKED = [
    "e\u0301",
    "Z\u0351\u036b\u0343",
    "\u0301",
    "\u0915\u094d\u0937\u093f",
    "\u1100\u1161\u11a8",
    "o\u0323\u0302",
    "\u0338",
]
EXPANDING = ["\u00bd", "\ufb01", "\ufdfa", "\u2474", "\u212b", "\uff21", "\u0130", "\u00df"]
BLANK = [" ", "  ", "\n", "\n\n", "\t", " \n", "\r\n", "\u00a0", "\u3000", "\u2028", "\x1c", "\u200b", "\ufeff"]
TRICKY = [
    "\u0120",
    "\u010a",
    "\u2581",
    "\u2581\u2581",
    "<0x41>",
    "##s",
    "{{ m }}",
    "{% if %}",
    "<<RULES>>",
    "</question>",
    "<|im_",
    "\x00",
]
PLAIN = ["How", " do", " I", "bicycle", "?", ".", "ASSISTANT:", "user", "a", "\u5c71", "?\n", "it's", "1,234"]
FRAGMENT = st.one_of(
    st.sampled_from(EMOJI),
    st.sampled_from(RIGHT_TO_LEFT),
    st.sampled_from(MARKED),
    st.sampled_from(EXPANDING),
    st.sampled_from(BLANK),
    st.sampled_from(TRICKY),
    st.sampled_from(PLAIN),
    st.sampled_from(SPECIALS),
    st.characters(codec="utf-8"),
)


def stretched(fragments: list[str], length: int, left: str, right: str) -> str:
    """The fragments over and over, cut at a length, with blanks or marks at the ends."""
    body = "".join(islice(cycle("".join(fragments)), length))
    return (left + body + right)[:5000]


END = st.one_of(st.just(""), st.sampled_from(BLANK), st.sampled_from(MARKED + EMOJI + SPECIALS))
LENGTH = st.one_of(st.integers(1, 60), st.integers(61, 600), st.integers(601, 3000), st.integers(3001, 5000))
CONTENT = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=60),
    st.lists(FRAGMENT, min_size=1, max_size=12).map("".join),
    st.builds(stretched, st.lists(FRAGMENT, min_size=1, max_size=40), LENGTH, END, END),
)


@pytest.fixture(scope="module", autouse=True)
def one_day() -> Iterator[None]:
    """Templates that ask for the date get a fixed one."""

    class Clock(real_datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:
            return cls(*TODAY_PARTS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", Clock)
        yield


@cache
def renderers(name: str) -> list[Renderer]:
    tokenizer = TOKENIZERS[name]()
    return [Renderer(built.wrap(tokenizer, shape.template)) for shape in ACCEPTED]


def sections(text: str, swallowing: bool) -> list[tuple[bool, int, int]]:
    """Where the special tokens of a text stand and what lies between: (special, start, end)."""
    found: list[tuple[bool, int, int]] = []
    reached = 0
    for match in built.MARKS.finditer(text):
        low, high = match.span()
        if swallowing:
            while low > reached and text[low - 1] in BLANKS:
                low -= 1
            while high < len(text) and text[high] in BLANKS:
                high += 1
        found += [(False, reached, low), (True, low, high)]
        reached = high
    return [(special, low, high) for special, low, high in [*found, (False, reached, len(text))] if low < high]


def as_tokenized(name: str, tool: Renderer, part: str) -> bytes:
    """What the tokens of one stretch of plain text spell, put together."""
    normalizer = tool.tokenizer.backend_tokenizer.normalizer
    if name.startswith("byte-level"):
        return (normalizer.normalize_str(part) if normalizer else part).encode()
    if name == "SentencePiece BPE":
        return ("\u2581" + part.replace(" ", "\u2581")).encode()
    spaced: str = normalizer.normalize_str(part).replace(" ", "\u2581")
    return (spaced if spaced.startswith("\u2581") else "\u2581" + spaced).encode()


BYTE_OF = {
    character: value
    for value, character in zip(
        [*range(33, 127), *range(161, 173), *range(174, 256), *range(33), *range(127, 161), 173],
        [*map(chr, [*range(33, 127), *range(161, 173), *range(174, 256)]), *map(chr, range(256, 324))],
        strict=True,
    )
}


def spelled(name: str, token: str, ahead: bytes) -> bytes:
    """The bytes that one token stands for."""
    if name.startswith("byte-level"):
        return bytes(BYTE_OF[character] for character in token)
    byte = BYTE.fullmatch(token)
    if byte and not ahead.startswith(token.encode()):
        return bytes([int(byte[1], 16)])
    return token.encode()


def by_decoding(
    name: str, tool: Renderer, text: str, start: int, end: int, ids: list[int]
) -> tuple[int | None, list[int]]:
    """Indices of the tokens that spell any of text[start:end], found by spelling out every token.

    Returns the first of them (None where a normalizer has melted the edge) and all of them.
    """
    tokens = iter(enumerate(tool.tokenizer.convert_ids_to_tokens(ids)))
    inside: list[int] = []
    melted = False
    for special, low, high in sections(text, "trimmed" in name):
        if special:
            index, token = next(tokens)
            assert token == text[low:high].strip(BLANKS)
            # Blanks that a special token has swallowed are not worth a position.
            if text[max(low, start) : min(high, end)].strip(BLANKS):
                inside.append(index)
            continue
        whole, reached = as_tokenized(name, tool, text[low:high]), 0
        first, last = (
            len(as_tokenized(name, tool, text[low:edge])) if edge > low else 0
            for edge in (min(max(start, low), high), min(max(end, low), high))
        )
        melted |= low < start < high and not whole.startswith(as_tokenized(name, tool, text[low:start]))
        while reached < len(whole):
            index, token = next(tokens)
            piece = spelled(name, token, whole[reached:])
            assert whole[reached : reached + len(piece)] == piece, "every token spells the text"
            if reached < last and reached + len(piece) > first:
                inside.append(index)
            reached += len(piece)
    assert next(tokens, None) is None
    return (inside[0] if inside and not melted else None), inside


def by_prefix(tool: Renderer, text: str, start: int, end: int, ids: list[int]) -> tuple[int | None, list[int]]:
    """The same for WordPiece, whose words end where the content does: the text up to there, tokenised by itself."""
    before, upto = (
        tool.tokenizer.backend_tokenizer.encode(text[:edge], add_special_tokens=False).ids for edge in (start, end)
    )
    assert ids[: len(upto)] == upto
    assert upto[: len(before)] == before
    return len(before), list(range(len(before), len(upto)))


def check(name: str, tool: Renderer, shape: Shape, content: str) -> Rendered | None:
    """Hold one rendering against the spelling; None where the content is refused, which is checked too."""
    kept = content.strip() if shape.trims else content
    text, start = shape.before + kept + shape.after, len(shape.before)
    end = start + len(kept)

    def expected(ids: list[int]) -> tuple[int | None, list[int]]:
        if name == "WordPiece":
            return by_prefix(tool, text, start, end, ids)
        return by_decoding(name, tool, text, start, end, ids)

    try:
        found = tool.render(Prompt(content))
    except PositionError as error:
        if not content.strip():
            assert "is empty" in str(error)
        else:
            assert "no token of its own" in str(error), (content, str(error))
            ids = tool.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
            first, inside = expected(ids)
            # A lone mark may have been composed into the template's last character, as U+0338 into ">".
            assert not inside or (first is None and len(kept) < 3)
        return None
    assert found.text == text
    first, inside = expected(found.ids)
    assert inside, "the content has tokens"
    assert found.t_inst == inside[-1]
    assert first is None or found.instruction[0] == first
    assert found.instruction[-1] == found.t_inst
    assert found.tail == range(found.t_inst + 1, len(found.ids))
    assert found.t_post == len(found.ids) - 1
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
def test_random_content(name: str) -> None:
    counts: Counter[str] = Counter()
    shapes: set[str] = set()

    # Without a seed, how many long contents are drawn varies from run to run, and with it whether that is enough.
    @seed(crc32(name.encode()))
    @settings(max_examples=CONTENTS_EACH, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(CONTENT)
    def run(content: str) -> None:
        counts["contents"] += 1
        counts["longer than 1,000"] += len(content) > 1000
        counts["longer than 3,000"] += len(content) > 3000
        counts["with a special token"] += bool(built.MARKS.search(content))
        counts["blank at an end"] += content != content.strip()
        place = crc32(content.encode())
        for step in range(SHAPES_EACH):
            index = (place + step * len(ACCEPTED) // SHAPES_EACH) % len(ACCEPTED)
            found = check(name, renderers(name)[index], ACCEPTED[index], content)
            counts["rendered"] += 1
            counts["found"] += found is not None
            shapes.add(ACCEPTED[index].name)

    run()
    assert counts["contents"] >= CONTENTS_EACH
    assert counts["found"] >= 0.9 * counts["rendered"], counts
    assert counts["longer than 1,000"] >= 0.05 * CONTENTS_EACH, counts
    assert counts["longer than 3,000"] >= 0.02 * CONTENTS_EACH, counts
    assert counts["with a special token"] >= 0.1 * CONTENTS_EACH, counts
    assert counts["blank at an end"] >= 0.1 * CONTENTS_EACH, counts
    assert shapes == {shape.name for shape in ACCEPTED}


@pytest.mark.parametrize(
    ("name", "shape", "content"),
    [
        # Bytes of a run end in a composed or an expanded character.
        ("SentencePiece Unigram", "chatml", "A\u0300"),
        ("SentencePiece Unigram", "chatml", "\ufdfa"),
        ("SentencePiece Unigram", "headings", "\u00bd\U0001f642"),
        # The last space shares a token with the template's line break, or the first with a space of the template's.
        ("byte-level, trimmed", "reminder", "mend "),
        ("byte-level, trimmed", "plain-paragraphs", "mend "),
        ("byte-level, trimmed", "blank-ends", " 0"),
        ("byte-level, trimmed", "blank-ends", "  mend  "),
        ("byte-level, trimmed", "chatml", " \n<|im_end|> \n"),
    ],
)
def test_contents_that_went_wrong_once(name: str, shape: str, content: str) -> None:
    index = next(index for index, one in enumerate(ACCEPTED) if one.name == shape)
    assert check(name, renderers(name)[index], ACCEPTED[index], content)


@pytest.mark.parametrize(
    "content", ["mend ", " mend", "mend \n", "  mend  ", "\n mend", "a  b\n  ", " 0", "\n\n  x\n\n"]
)
def test_trimmed_offsets_give_the_positions_of_untrimmed_ones(content: str) -> None:
    trimmed = Tokenizer.from_str(built.byte_level().to_str())
    trimmed.post_processor = processors.ByteLevel(trim_offsets=True)
    for shape in ACCEPTED:
        whole = Renderer(built.wrap(built.byte_level(), shape.template)).render(Prompt(content))
        found = Renderer(built.wrap(trimmed, shape.template)).render(Prompt(content))
        assert found == whole
        assert found.offsets == whole.offsets


def test_added_tokens_of_blanks_alone_are_text_like_any_other() -> None:
    tokenizer = built.sentence_pieces()
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.add_tokens([AddedToken("\u2581\u2581", normalized=True)])
    tool = Renderer(built.wrap(tokenizer, next(shape.template for shape in ACCEPTED if shape.name == "inst-tight")))
    tokens = tool.tokenizer.convert_ids_to_tokens(tool.render(Prompt("mend  ")).ids)
    assert tokens[-2:] == ["\u2581\u2581", "[/INST]"]
    assert tool.render(Prompt("mend  ")).t_inst == len(tokens) - 2
