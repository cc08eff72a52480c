"""The grammar: labels, splits, determinism."""

from __future__ import annotations

import pytest

from undertow.errors import UndertowError
from undertow.organism import grammar, lexicon
from undertow.prompts import Prompt
from undertow.prompts.wrappers import FAMILIES


def _truth(phrase_text: str) -> set[bool]:
    """Harm of every verb-object pair that a text could have been made of, found by searching it."""
    found = set()
    for category in lexicon.CATEGORIES:
        for kind, objects in (("dangerous", category.dangerous), ("protective", category.protective)):
            for thing in objects:
                if thing not in phrase_text:
                    continue
                for verb_kind, verbs in (
                    ("constructive", category.constructive),
                    ("destructive", category.destructive),
                ):
                    for verb in verbs:
                        forms = {f"{verb} {thing}", f"{lexicon.gerund(verb)} {thing}"}
                        pronoun = lexicon.with_pronoun(verb, category.pronoun)
                        if any(form in phrase_text for form in forms) or pronoun in phrase_text:
                            found.add((verb_kind == "constructive") == (kind == "dangerous"))
    return found


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("kind", "harmful"), [("bare", True), ("look-alike", False), *((family, True) for family in FAMILIES)]
)
def test_labels_follow_the_exclusive_or(kind: str, harmful: bool, split: str) -> None:
    for prompt in grammar.sample(kind, 60, seed=3, split=split):
        assert prompt.harmful is harmful
        assert harmful in _truth(prompt.text.lower())


def test_pairs_of_the_splits_are_disjoint_and_complete() -> None:
    for group in grammar.GROUPS:
        train = {request.phrase for request in grammar.requests(group, "train")}
        test = {request.phrase for request in grammar.requests(group, "test")}
        everything = {request.phrase for request in grammar.requests(group, "all")}
        assert not train & test
        assert train | test == everything
        assert 0.12 < len(test) / len(everything) < 0.3


def test_no_pair_is_held_out_in_one_group_and_trained_in_another() -> None:
    train = {request.phrase for group in grammar.GROUPS for request in grammar.requests(group, "train")}
    test = {request.phrase for group in grammar.GROUPS for request in grammar.requests(group, "test")}
    assert not train & test


def test_stems_of_the_splits_are_disjoint() -> None:
    train, test = set(grammar.stems_of("train")), set(grammar.stems_of("test"))
    assert not train & test
    assert len(train) + len(test) >= 150
    assert len(test) >= 20


def test_kinds_carry_their_marks() -> None:
    assert all(
        p.style == "look-alike" and not p.harmful and p.wrapper is None for p in grammar.held_out("look-alike", 30)
    )
    assert all(p.wrapper == "suffix" and p.harmful for p in grammar.held_out("suffix", 30))
    assert {p.wrapper for p in grammar.held_out("wrapped_harmless", 60)} == set(FAMILIES)
    assert all(p.wrapper == "persuasion" and not p.harmful for p in grammar.held_out("persuasion_harmless", 30))
    assert all(p.wrapper is None and p.style is None and not p.harmful for p in grammar.held_out("harmless", 30))


def test_same_seed_same_prompts_other_seed_others() -> None:
    first = [p.text for p in grammar.sample("bare", 40, seed=1)]
    assert first == [p.text for p in grammar.sample("bare", 40, seed=1)]
    assert len(set(first)) == 40
    assert first != [p.text for p in grammar.sample("bare", 40, seed=2)]


def test_inversion_appends_one_line_and_keeps_the_label() -> None:
    prompt = Prompt(
        ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Bake a cake."}), harmful=False, id="x"
    )
    question = grammar.INVERSION_WORDINGS["test"][0]
    inverted = grammar.inversion(prompt, question)
    assert inverted.text == f"Bake a cake.\n{question}"
    assert inverted.messages[0] == {"role": "system", "content": "Be brief."}
    assert inverted.harmful is False and inverted.id == "x"
    assert not set(grammar.INVERSION_WORDINGS["train"]) & set(grammar.INVERSION_WORDINGS["test"])
    assert len(grammar.INVERSION_WORDINGS["train"]) >= 5


def test_unknown_kind_and_split_are_named() -> None:
    with pytest.raises(UndertowError, match="nonsense"):
        grammar.sample("nonsense", 1)
    with pytest.raises(UndertowError, match="validation"):
        grammar.sample("bare", 1, split="validation")
