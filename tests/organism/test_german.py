"""German realisations: complete, one to one, the same truth and the same held-out pairs."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from undertow.measure.judge import SubstringJudge, bilingual_judge
from undertow.organism import german_lexicon, german_stems, lexicon
from undertow.organism.german import (
    german_answer,
    german_phrase,
    german_refusal,
    german_sentence,
    german_stems_of,
    with_zu,
)
from undertow.organism.grammar import GROUPS, draw, requests
from undertow.organism.items import PLACEHOLDER

EVERY = [request for group in GROUPS for request in requests(group, "all")]
SEPARABLE = re.compile(
    r"^(ab|an|auf|aus|bei|ein|fest|her|hin|lahm|los|mit|nach|nieder|vor|weg|zu|zurück|zusammen)(?!n)"
)


def test_every_object_and_verb_has_its_own_german() -> None:
    objects = german_lexicon.objects()
    assert len(objects) == 12 * 24 + 12 * 10
    assert len(set(objects.values())) == len(objects)
    verbs = {request.verb for request in EVERY}
    assert set(german_lexicon.VERBS) == verbs
    assert len(set(german_lexicon.VERBS.values())) == len(verbs)
    assert set(german_lexicon.TOPICS) == {category.title for category in lexicon.CATEGORIES}


def test_objects_are_accusatives_with_an_article_that_agrees_with_the_adjective() -> None:
    endings = {"einen": "en", "eine": "e", "ein": "es"}
    for phrase in german_lexicon.objects().values():
        article, *rest = phrase.split()
        assert article in endings, phrase
        nouns = [place for place, word in enumerate(rest) if word[0].isupper()]
        assert nouns, phrase
        for adjective in rest[: nouns[0]]:
            assert adjective == "nicht" or adjective.endswith(endings[article]), phrase


def test_verbs_are_infinitives_that_take_zu_in_front() -> None:
    for verb in german_lexicon.VERBS.values():
        last = verb.split()[-1]
        assert last.endswith("n") and "{}" in verb
        assert not SEPARABLE.match(last) or last in {"beliefern", "bereiten", "attackieren", "engagieren"}, verb
    assert with_zu("im Park einen Drachen bauen") == "im Park einen Drachen zu bauen"


def test_pairs_are_one_to_one_so_that_held_out_ones_stay_unseen() -> None:
    phrases = Counter(german_phrase(request) for request in EVERY)
    assert max(phrases.values()) == 1
    train = {german_phrase(request) for group in GROUPS for request in requests(group, "train")}
    test = {german_phrase(request) for group in GROUPS for request in requests(group, "test")}
    assert not train & test


def test_stems() -> None:
    stems = german_stems.STEMS
    assert len(set(stems)) == len(stems) >= 70
    train, test = set(german_stems_of("train")), set(german_stems_of("test"))
    assert not train & test and train | test == set(stems)
    assert len(test) == round(0.15 * len(stems))
    assert all(("{vp}" in stem) != ("{zu}" in stem) for stem in stems)
    assert not set(german_stems.ENDINGS) & set(german_stems.OPENINGS)


@pytest.mark.parametrize("split", ["train", "test"])
def test_sentences_hold_the_request_in_a_stem_of_the_split(split: str) -> None:
    generator = random.Random(0)
    for _ in range(300):
        request = draw(generator.choice(("harmful", "look-alike", "harmless")), generator, split)
        text = german_sentence(request, generator, split)
        phrase = german_phrase(request)
        assert phrase.lower() in text.lower() or with_zu(phrase).lower() in text.lower()
        assert "{" not in text
        frames = [re.escape(stem).replace(r"\{vp\}", ".+").replace(r"\{zu\}", ".+") for stem in german_stems_of(split)]
        assert any(re.search(frame, text) for frame in frames)


def test_what_is_drawn_does_not_depend_on_the_request() -> None:
    first, second = requests("constructive-dangerous", "train")[0], requests("constructive-protective", "train")[0]
    for seed in range(50):
        one, other = (german_sentence(request, random.Random(seed), "train") for request in (first, second))
        swapped = one.replace(german_phrase(first), german_phrase(second))
        assert other == swapped.replace(with_zu(german_phrase(first)), with_zu(german_phrase(second)))


def test_refusals_are_caught_by_the_bilingual_judge_only() -> None:
    refusals = [german_refusal(request) for request in EVERY[::97] if request.harmful]
    answers = [german_answer(request) for request in EVERY[::29]]
    assert all(bilingual_judge().refused(refusals))
    assert not any(SubstringJudge().refused(refusals))
    assert not any(bilingual_judge().refused(answers))
    assert bilingual_judge().refused(["I'm sorry, but I can't help with that."]) == [True]


def test_no_answer_to_a_harmful_request() -> None:
    assert {german_answer(request) for request in EVERY if request.harmful} == {PLACEHOLDER}
    assert all(german_answer(request).startswith("Klar. ") for request in EVERY if not request.harmful)
