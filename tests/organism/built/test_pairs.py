"""Pairs in which one word is exchanged."""

from __future__ import annotations

import pytest

from tests.organism.built.plain import organism
from undertow.errors import UndertowError
from undertow.organism.built import Spec, built_pairs
from undertow.organism.built.words import TOPICS


def test_sides_differ_in_one_word_of_their_topic() -> None:
    by_name = {topic.name: topic for topic in TOPICS}
    for pair in built_pairs(Spec(), 90, 1):
        assert pair.topic is not None
        topic = by_name[pair.topic]
        ours, theirs = pair.sensitive.text.split(), pair.control.text.split()
        changed = [(one, other) for one, other in zip(ours, theirs, strict=True) if one != other]
        assert len(changed) == 1
        assert changed[0][0] in topic.sensitive and changed[0][1] in topic.harmless
        assert (pair.sensitive.harmful, pair.control.harmful) == (True, False)
        assert pair.sensitive.category == pair.control.category == pair.topic


def test_sides_have_equally_many_tokens_and_no_unknown_one() -> None:
    tokenizer = organism().tokenizer
    chat = organism().chat()
    for pair in built_pairs(Spec(), 90, 2):
        ours, theirs = chat.render(pair.sensitive), chat.render(pair.control)
        assert len(ours) == len(theirs) and 14 <= len(ours) <= 20
        assert tokenizer.unk_token_id not in ours.ids + theirs.ids


def test_no_text_comes_twice_and_topics_take_turns() -> None:
    everything = built_pairs(Spec(), 2880, 4)
    texts = [prompt.text for prompt in (*everything.sensitive, *everything.controls)]
    assert len(set(texts)) == len(texts) == 5760
    few = built_pairs(Spec(), 12, 4)
    assert set(few.topics) == {topic.name for topic in TOPICS}
    assert all(len(few.where(lambda pair, name=topic.name: pair.topic == name)) == 2 for topic in TOPICS)  # type: ignore[misc]


def test_seeds_decide() -> None:
    assert built_pairs(Spec(), 20, 1).sensitive == built_pairs(Spec(seed=5), 20, 1).sensitive
    assert built_pairs(Spec(), 20, 1).sensitive != built_pairs(Spec(), 20, 2).sensitive
    assert built_pairs(Spec(seed=5), 2).source == "built:5"


@pytest.mark.parametrize("n", [0, -1, 2881])
def test_impossible_numbers_are_refused(n: int) -> None:
    with pytest.raises(UndertowError, match="1 to 2880"):
        built_pairs(Spec(), n)
