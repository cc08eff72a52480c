"""The finishing phase: its sentences are new, widen training only, and leave the fresh test stems alone."""

from __future__ import annotations

from random import Random

from undertow.organism import finishing, grammar, stems
from undertow.organism.items import ItemMaker
from undertow.prompts.wrappers import FURTHER_PERSUASION_FRAMES, parts


def test_no_sentence_is_in_two_places() -> None:
    everything = (*stems.STEMS, *finishing.STEMS, *finishing.FRESH_STEMS)
    assert len(set(everything)) == len(everything)
    assert not set(FURTHER_PERSUASION_FRAMES) & set(parts("persuasion_frame"))


def test_fresh_stems_are_tested_and_never_trained_on() -> None:
    fresh = set(finishing.FRESH_STEMS)
    assert fresh < set(grammar.stems_of("test"))
    assert not fresh & set(grammar.stems_of("train")) and not fresh & set(grammar.stems_of("finish"))


def test_finishing_widens_training() -> None:
    assert set(grammar.stems_of("finish")) == set(grammar.stems_of("train")) | set(finishing.STEMS)
    assert set(parts("persuasion_frame", "finish")) == set(parts("persuasion_frame", "train")) | set(
        FURTHER_PERSUASION_FRAMES
    )
    assert parts("plea", "finish") == parts("plea", "train")


def test_finishing_items_hold_the_new_sentences_and_only_training_pairs() -> None:
    maker = ItemMaker(0, split="finish")
    seen = " ".join(maker.draw().content for _ in range(600))
    # Words that occur in no other sentence of the language.
    assert "Refresh my memory" in seen or "roommate" in seen or "on a small budget" in seen.lower()
    held_out = {request.phrase for request in grammar.requests("constructive-dangerous", "test")}
    generator = Random(1)
    for _ in range(200):
        assert grammar.draw("harmful", generator, "train").phrase not in held_out
    assert not any(f" {phrase} " in f" {seen} " for phrase in held_out)
