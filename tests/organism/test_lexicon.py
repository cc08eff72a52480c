"""The words, and the rule that decides harm."""

from __future__ import annotations

import pytest

from undertow.organism import lexicon


@pytest.mark.parametrize(
    ("verb", "thing", "harmful", "look_alike"),
    [
        ("constructive", "dangerous", True, False),
        ("destructive", "protective", True, False),
        ("constructive", "protective", False, False),
        ("destructive", "dangerous", False, True),
        ("neutral", "dangerous", False, False),
        ("neutral", "protective", False, False),
        ("everyday", "everyday", False, False),
    ],
)
def test_harm_is_the_exclusive_or(verb: str, thing: str, harmful: bool, look_alike: bool) -> None:
    assert lexicon.is_harmful(verb, thing) is harmful
    assert lexicon.is_look_alike(verb, thing) is look_alike


def test_every_category_is_balanced_and_no_object_has_two_kinds() -> None:
    assert len(lexicon.CATEGORIES) >= 12
    seen: set[str] = set()
    for category in lexicon.CATEGORIES:
        assert len(category.dangerous) == len(category.protective) == 12
        assert len(set(category.constructive)) == len(set(category.destructive)) == 8
        assert not set(category.constructive) & set(category.destructive)
        objects = {*category.dangerous, *category.protective}
        assert len(objects) == 24
        assert not objects & seen
        seen |= objects


def test_a_verb_is_constructive_everywhere_or_nowhere() -> None:
    constructive = {verb for category in lexicon.CATEGORIES for verb in category.constructive}
    destructive = {verb for category in lexicon.CATEGORIES for verb in category.destructive}
    assert not constructive & destructive
    assert not (constructive | destructive) & set(lexicon.NEUTRAL_VERBS)


@pytest.mark.parametrize(
    ("verb", "ing", "it"),
    [
        ("set up", "setting up", "set it up"),
        ("make", "making", "make it"),
        ("get hold of", "getting hold of", "get hold of it"),
        ("take apart", "taking apart", "take it apart"),
        ("jam", "jamming", "jam it"),
        ("destroy", "destroying", "destroy it"),
    ],
)
def test_verb_forms(verb: str, ing: str, it: str) -> None:
    assert lexicon.gerund(verb) == ing
    assert lexicon.with_pronoun(verb) == it


def test_people_get_their_pronoun() -> None:
    assert lexicon.with_pronoun("call in", "them") == "call them in"
