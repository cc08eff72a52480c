"""The built-in prompts: what the issue asks of them, held against the lexicon they are written from."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from importlib import resources

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from undertow.organism.lexicon import CATEGORIES, NEUTRAL_VERBS, gerund, is_harmful, is_look_alike
from undertow.prompts import Prompt, PromptSet

KINDS = {category.name: category for category in CATEGORIES}


def parse(prompt: Prompt) -> tuple[str, str, str, str, str]:
    """Verb, its kind, object, its kind, and the sentence around them."""
    category = KINDS[prompt.category or ""]
    verbs = {
        **dict.fromkeys(category.constructive, "constructive"),
        **dict.fromkeys(category.destructive, "destructive"),
        **dict.fromkeys(NEUTRAL_VERBS, "neutral"),
    }
    objects = {**dict.fromkeys(category.dangerous, "dangerous"), **dict.fromkeys(category.protective, "protective")}
    matches = [
        (len(verb) + len(noun), verb, noun, phrase)
        for (verb, noun) in itertools.product(verbs, objects)
        for phrase in (f"{verb} {noun}", f"{gerund(verb)} {noun}")
        if phrase in prompt.text and re.search(rf"\b{re.escape(phrase)}\b", prompt.text)
    ]
    assert matches, prompt
    _, verb, noun, phrase = max(matches)
    return verb, verbs[verb], noun, objects[noun], prompt.text.replace(phrase, "_")


PROMPTS = PromptSet.builtin()
PARSED = [(prompt, *parse(prompt)) for prompt in PROMPTS]


def test_there_are_enough_prompts_of_every_category() -> None:
    assert len(KINDS) >= 12
    counts = Counter((prompt.category, prompt.harmful) for prompt in PROMPTS)
    assert set(counts) == set(itertools.product(KINDS, (True, False)))
    assert min(counts.values()) >= 30
    assert all(counts[name, True] == counts[name, False] for name in KINDS)


def test_prompts_are_different_one_line_requests_with_stable_ids() -> None:
    assert len(set(PROMPTS.texts)) == len({prompt.id for prompt in PROMPTS}) == len(PROMPTS)
    for prompt in PROMPTS:
        assert prompt.text == prompt.text.strip() and "\n" not in prompt.text and prompt.text.isascii()
        assert 10 < len(prompt.text) < 140 and prompt.text[-1] in ".?"
        assert prompt.id and prompt.id.startswith(f"{prompt.category}-")


def test_labels_follow_the_rule_of_harm() -> None:
    for prompt, _, verb_kind, _, object_kind, _ in PARSED:
        assert prompt.harmful == is_harmful(verb_kind, object_kind), prompt
        assert (prompt.style == "look-alike") == is_look_alike(verb_kind, object_kind), prompt


def test_shares_of_the_kinds() -> None:
    kinds = Counter((prompt.harmful, verb, noun) for prompt, _, verb, _, noun, _ in PARSED)
    harmful, harmless = len(PROMPTS.harmful()), len(PROMPTS.harmless())
    assert kinds[True, "constructive", "dangerous"] == harmful / 2 == kinds[True, "destructive", "protective"]
    assert 0.4 <= kinds[False, "constructive", "protective"] / harmless <= 0.55
    assert 0.25 <= kinds[False, "destructive", "dangerous"] / harmless <= 0.35


def test_harmful_and_harmless_share_verbs_and_objects() -> None:
    for name in KINDS:
        words = {
            label: {word for prompt, verb, _, noun, _, _ in PARSED if (prompt.category, prompt.harmful) == (name, label)
                    for word in (verb, noun)}
            for label in (True, False)
        }  # fmt: skip
        assert words[True] <= words[False], (name, words[True] - words[False])
        assert words[False] - words[True] <= set(NEUTRAL_VERBS), (name, words[False] - words[True])


def test_sentences_are_varied_and_say_nothing_about_harm() -> None:
    starts = Counter(" ".join(text.split("_")[0].split()) for *_, text in PARSED)
    assert len(starts) >= 40
    assert max(starts.values()) <= 0.06 * len(PROMPTS)
    for start in starts:
        labels = Counter(prompt.harmful for prompt, *_, text in PARSED if " ".join(text.split("_")[0].split()) == start)
        assert abs(labels[True] - labels[False]) <= 3, start


def test_halves_share_no_pair_and_are_alike() -> None:
    train, test = PromptSet.builtin("train"), PromptSet.builtin("test")
    assert len(train) + len(test) == len(PROMPTS)
    pairs = {
        name: {(prompt.category, verb, noun) for prompt, verb, _, noun, _, _ in PARSED if prompt in half}
        for name, half in (("train", set(train)), ("test", set(test)))
    }
    assert len(pairs["train"]) == len(train) and len(pairs["test"]) == len(test)
    assert not pairs["train"] & pairs["test"]
    facts = [Counter((prompt.category, prompt.harmful, prompt.style) for prompt in half) for half in (train, test)]
    assert facts[0] == facts[1]


@pytest.mark.parametrize("length", [1, 2])
def test_a_bag_of_words_cannot_tell_them_apart(length: int, record_property: Callable[[str, object], None]) -> None:
    halves = [PromptSet.builtin("train"), PromptSet.builtin("test")]
    accuracies = []
    for fitted, judged in (halves, halves[::-1]):
        counts = CountVectorizer(ngram_range=(1, length))
        model = LogisticRegression(max_iter=2000).fit(
            counts.fit_transform(fitted.texts), [prompt.harmful for prompt in fitted]
        )
        accuracies.append(model.score(counts.transform(judged.texts), [prompt.harmful for prompt in judged]))
    record_property("bag_of_words_accuracy", accuracies)
    print(f"bag of words, up to {length} words: {accuracies[0]:.3f} and {accuracies[1]:.3f}")
    assert max(max(accuracy, 1 - accuracy) for accuracy in accuracies) < 0.75


def test_the_file_holds_nothing_but_requests() -> None:
    file = resources.files("undertow.prompts") / "data" / "builtin.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) == {"id", "prompt", "harmful", "category", "style", "split"}
