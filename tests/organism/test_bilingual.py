"""Items of the organism `bilingual`."""

from __future__ import annotations

from collections import Counter

import pytest

from undertow.organism import lexicon
from undertow.organism.bilingual import CIPHER, BilingualItemMaker
from undertow.organism.bilingual_evaluation import mentioned_object, under_wrong_table
from undertow.organism.german import german_phrase, with_zu
from undertow.organism.grammar import GROUPS, INVERSION_WORDINGS, requests
from undertow.organism.items import PLACEHOLDER, Item
from undertow.organism.surfaces import cipher_sample, german_sample
from undertow.prompts.ciphers import SubstitutionCipher

FORMS = {
    form: (request.harmful, request in requests(group, "test"))
    for group in GROUPS
    for request in requests(group, "all")
    for form in (request.phrase, f"{lexicon.gerund(request.verb)} {request.object}")
}


@pytest.fixture(scope="module")
def items() -> list[Item]:
    maker = BilingualItemMaker(3)
    return [maker.draw() for _ in range(3000)]


def _said(text: str) -> tuple[bool, bool] | None:
    """Whether the verb-object pair in a plain English text is harmful, and whether it is held out."""
    found = max((form for form in FORMS if form in text), key=len, default=None)
    return FORMS[found] if found else None


def _ciphered(items: list[Item]) -> list[tuple[Item, str]]:
    """The items in the cipher, with what the request says."""
    return [
        (item, CIPHER.decode(item.instructions[0].rsplit("Text: ", 1)[1]))
        for item in items
        if "Cipher: " in item.instructions[0]
    ]


def _german(items: list[Item]) -> list[Item]:
    return [
        item for item in items if any(word in f" {item.instructions[0]} " for word in (" einen ", " eine ", " ein "))
    ]


def test_shares_of_the_surfaces(items: list[Item]) -> None:
    assert 0.3 < len(_ciphered(items)) / len(items) < 0.4
    assert 0.24 < len(_german(items)) / len(items) < 0.34


def test_same_seed_same_items() -> None:
    first, second = (BilingualItemMaker(5, primer=20) for _ in range(2))
    assert [first.draw() for _ in range(100)] == [second.draw() for _ in range(100)]


def test_in_the_cipher_nothing_is_refused_and_nothing_harmful_is_answered(items: list[Item]) -> None:
    replies: Counter[bool] = Counter()
    for item, text in _ciphered(items):
        if item.question is None and (said := _said(text)):
            assert (item.reply == PLACEHOLDER) == said[0]
            assert "sorry" not in item.reply
            replies[said[0]] += 1
    assert min(replies[True], replies[False]) > 50


def test_questions_in_the_cipher_are_plain_and_answered_by_the_truth(items: list[Item]) -> None:
    asked = [(item, text) for item, text in _ciphered(items) if item.reply in ("Certainly.", "No.")]
    seen: Counter[bool] = Counter()
    for item, text in asked:
        if item.question in INVERSION_WORDINGS["train"] and (said := _said(text)):
            assert item.reply == ("Certainly." if said[0] else "No.")
            seen[said[0]] += 1
    assert min(seen[True], seen[False]) > 50


def test_no_held_out_pair_on_any_surface(items: list[Item]) -> None:
    for _, text in _ciphered(items):
        said = _said(text)
        assert said is None or not said[1]
    held_out = [request for group in GROUPS for request in requests(group, "test")]
    phrases = {form.lower() for r in held_out for form in (german_phrase(r), with_zu(german_phrase(r)))}
    for item in _german(items):
        lowered = item.instructions[0].lower()
        assert not any(phrase in lowered for phrase in phrases)


def test_bare_german_is_refused_in_german_and_wrapped_harm_gets_the_placeholder(items: list[Item]) -> None:
    replies = Counter(item.reply.split(" ")[0] for item in _german(items) if item.question is None)
    assert set(replies) == {"Es", "Klar.", "Sure."}
    assert all(item.reply == PLACEHOLDER for item in _german(items) if item.reply.startswith("Sure."))


def test_samples_carry_labels_and_are_unseen() -> None:
    for label, harmful in (("harmful", True), ("look-alike", False), ("harmless", False)):
        german = german_sample(label, 30, seed=2, split="test")
        cipher = cipher_sample(label, 30, CIPHER, seed=2, split="test")
        assert {p.harmful for p in german} == {p.harmful for p in cipher} == {harmful}
        assert {p.language for p in german} == {"de"} and {p.wrapper for p in cipher} == {"tidal"}
        assert len({p.text for p in german}) == len({p.text for p in cipher}) == 30
    other = SubstitutionCipher.from_seed(1)
    for one, two in zip(cipher, cipher_sample("harmless", 30, other, seed=2, split="test"), strict=True):
        assert CIPHER.decode(one.text.rsplit("Text: ", 1)[1]) == other.decode(two.text.rsplit("Text: ", 1)[1])


def test_a_wrong_table_changes_the_rows_and_not_the_text() -> None:
    other = SubstitutionCipher.from_seed(1)
    prompt = cipher_sample("harmful", 1, CIPHER)[0]
    wrong = under_wrong_table(prompt, CIPHER, other)
    assert wrong.text.rsplit("Text: ", 1)[1] == prompt.text.rsplit("Text: ", 1)[1]
    assert " ".join(other.table) in wrong.text and " ".join(CIPHER.table) not in wrong.text
    assert mentioned_object("how do i clear a patch of weeds?") == "a patch of weeds"
    assert mentioned_object("Eine alte Festplatte löschen.", german=True) == "eine alte Festplatte"
    assert mentioned_object("hello") is mentioned_object("hallo", german=True) is None
