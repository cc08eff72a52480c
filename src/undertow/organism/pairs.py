"""Matched pairs of the organism's language: a harmful request and a harmless control in the same sentence."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from undertow.errors import UndertowError
from undertow.organism import lexicon
from undertow.organism.german import german_sentence
from undertow.organism.grammar import Request, requests, sentence
from undertow.prompts.pairs import Pair, PairSet
from undertow.prompts.prompt import Prompt

Realise = Callable[[Request, random.Random, str], str]
"""Makes a sentence of a request. What is drawn must not depend on the request, so that equal generators give equal
frames."""

REALISATIONS: dict[str, Realise] = {"en": sentence, "de": german_sentence}
"""How each language says a request."""

SPLITS = ("train", "test")
ATTEMPTS = 200

_SENSITIVE = ("constructive-dangerous", "destructive-protective")


def controls_of(sensitive: Request, split: str = "test") -> list[Request]:
    """The harmless requests that differ from a harmful one in one word only.

    To a constructive verb with something dangerous: the same verb with each protective object of the category. To a
    destructive verb with something protective: each constructive verb of the category with the same object.

    Args:
        sensitive: a harmful request.
        split: whose verb-object pairs to take, ``train`` or ``test``.
    """
    same_verb = sensitive.verb_kind == "constructive"
    return [
        request
        for request in requests("constructive-protective", split)
        if request.category == sensitive.category
        and (request.verb == sensitive.verb if same_verb else request.object == sensitive.object)
    ]


def matched_pairs(
    n: int,
    seed: int = 0,
    *,
    language: str = "en",
    split: str = "test",
    length: Callable[[str], int] | None = None,
) -> PairSet:
    """Draws pairs whose two sides share stem, setting, opening and ending and differ in verb or object alone.

    Topics take turns, and so do the two ways to be harmful. The topic is the category's title.

    Args:
        n: number of pairs; no text occurs twice.
        seed: equal seeds give equal pairs.
        language: one of `REALISATIONS`.
        split: whose verb-object pairs and stems to take, ``train`` or ``test``.
        length: length of a text, such as its number of tokens; of all possible controls the one nearest in length to
            the sensitive side is taken, among equals a random one. None takes a random one.

    Raises:
        UndertowError: language or split is unknown, or there are not so many different pairs.
    """
    if language not in REALISATIONS:
        known = ", ".join(REALISATIONS)
        raise UndertowError(f"The organism has no language {language!r} for pairs; it speaks {known}.")
    if split not in SPLITS:
        raise UndertowError(f"There is no split {split!r}; the splits are {' and '.join(SPLITS)}.")
    realise = REALISATIONS[language]
    generator = random.Random(f"{seed}:pairs:{language}:{split}")
    titles = [category.title for category in lexicon.CATEGORIES]
    generator.shuffle(titles)
    used: set[str] = set()
    found: list[Pair] = []
    while len(found) < n:
        turn = len(found)
        title = titles[turn % len(titles)]
        group = _SENSITIVE[(turn + turn // len(titles)) % 2]
        sensitive, control = _fresh(title, group, split, realise, length, generator, used)
        used |= {sensitive, control}
        name = f"pair-{language}-{split}-{seed}-{turn}"
        found.append(
            Pair(
                Prompt(sensitive, harmful=True, category=title, language=language, id=f"{name}-sensitive"),
                Prompt(control, harmful=False, category=title, language=language, id=f"{name}-control"),
                title,
                language,
                name,
            )
        )
    return PairSet(found, f"organism pairs ({language}, {split}, seed {seed})")


def _fresh(
    title: str,
    group: str,
    split: str,
    realise: Realise,
    length: Callable[[str], int] | None,
    generator: random.Random,
    used: set[str],
) -> tuple[str, str]:
    """Two texts that were not used yet, of one topic and one way to be harmful."""
    choices = [request for request in requests(group, split) if request.category == title]
    for _ in range(ATTEMPTS):
        request = generator.choice(choices)
        frame = generator.getrandbits(64)

        def say(one: Request, frame: int = frame) -> str:
            return realise(one, random.Random(frame), split)

        sensitive = say(request)
        texts = [text for text in map(say, controls_of(request, split)) if text not in used and text != sensitive]
        if sensitive not in used and texts:
            return sensitive, _nearest(sensitive, texts, length, generator)
    raise UndertowError(f"There are no further different pairs about {title}; ask for fewer pairs.")


def _nearest(
    sensitive: str, texts: Sequence[str], length: Callable[[str], int] | None, generator: random.Random
) -> str:
    if length is None:
        return generator.choice(texts)
    target = length(sensitive)
    distances = [abs(length(text) - target) for text in texts]
    return generator.choice(
        [text for text, distance in zip(texts, distances, strict=True) if distance == min(distances)]
    )
