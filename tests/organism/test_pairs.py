"""Matched pairs of the organism's language."""

from __future__ import annotations

import difflib
from collections import Counter

import pytest

from undertow.errors import UndertowError
from undertow.organism import lexicon
from undertow.organism.grammar import mentions, requests
from undertow.organism.pairs import REALISATIONS, controls_of, matched_pairs
from undertow.prompts.pairs import PairSet


def _changed(first: str, second: str) -> int:
    """Number of stretches of words in which two texts differ."""
    matcher = difflib.SequenceMatcher(None, first.split(), second.split(), autojunk=False)
    return sum(tag != "equal" for tag, *_ in matcher.get_opcodes())


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_topics_and_one_changed_stretch(split: str) -> None:
    pairs = matched_pairs(48, seed=3, split=split)
    harmful = [r for g in ("constructive-dangerous", "destructive-protective") for r in requests(g, split)]
    harmless = requests("constructive-protective", split)
    for pair in pairs:
        assert pair.sensitive.harmful is True and pair.control.harmful is False
        assert any(mentions(r, pair.sensitive.text) for r in harmful if r.category == pair.topic)
        assert any(mentions(r, pair.control.text) for r in harmless if r.category == pair.topic)
        assert _changed(pair.sensitive.text, pair.control.text) <= 3  # an object, its mention and a verb's two halves
        shared = set(pair.sensitive.text.split()) & set(pair.control.text.split())
        assert len(shared) >= 2


def test_no_text_twice_and_topics_take_turns() -> None:
    pairs = matched_pairs(240, seed=1)
    texts = [prompt.text for prompt in (*pairs.sensitive, *pairs.controls)]
    assert len(set(texts)) == 480
    assert set(Counter(pair.topic for pair in pairs).values()) == {20}
    assert len({pair.id for pair in pairs}) == 240
    assert set(pairs.topics) == {category.title for category in lexicon.CATEGORIES}


def test_same_seed_same_pairs() -> None:
    assert list(matched_pairs(30, seed=5)) == list(matched_pairs(30, seed=5))
    assert list(matched_pairs(30, seed=5)) != list(matched_pairs(30, seed=6))


def test_controls_change_one_half() -> None:
    for group in ("constructive-dangerous", "destructive-protective"):
        for request in requests(group, "all")[::50]:
            found = controls_of(request, "all")
            assert found and not any(one.harmful or one.look_alike for one in found)
            assert all((one.verb == request.verb) != (one.object == request.object) for one in found)
            assert all(one.category == request.category for one in found)
            category = next(c for c in lexicon.CATEGORIES if c.title == request.category)
            count = category.protective if group == "constructive-dangerous" else category.constructive
            assert len(found) == len(count)


def test_a_length_brings_controls_nearer() -> None:
    def difference(pairs: PairSet) -> float:
        return sum(abs(len(pair.sensitive.text) - len(pair.control.text)) for pair in pairs) / 96

    assert difference(matched_pairs(96, seed=2, length=len)) < 0.8 * difference(matched_pairs(96, seed=2))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UndertowError, match="Klingon"):
        matched_pairs(1, language="Klingon")
    with pytest.raises(UndertowError, match="validation"):
        matched_pairs(1, split="validation")


@pytest.mark.parametrize("language", list(REALISATIONS))
def test_every_language_makes_pairs(language: str) -> None:
    pairs = matched_pairs(24, language=language)
    assert pairs.languages == (language,)
    assert all(prompt.language == language for prompt in pairs.sensitive)
