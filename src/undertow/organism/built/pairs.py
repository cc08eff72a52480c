"""Matched pairs for the built organisms: one word exchanged, everything else alike."""

from __future__ import annotations

import random
from itertools import product

from undertow.errors import UndertowError
from undertow.organism.built.spec import Spec
from undertow.organism.built.words import FORMS, TOPICS, Topic
from undertow.prompts import Prompt
from undertow.prompts.pairs import Pair, PairSet


def built_pairs(spec: Spec, n: int, seed: int = 0) -> PairSet:
    """Draws pairs: a sensitive word against a harmless one of its topic, in one form, at one place.

    Both sides have the same number of tokens (14 to 19 with the template), topics take turns, and no text comes twice.

    Args:
        spec: the build that they are for; every build speaks the same language.
        n: number of pairs.
        seed: equal seeds give equal pairs.

    Raises:
        UndertowError: there are not so many different pairs.
    """
    most = len(TOPICS) * len(TOPICS[0].sensitive) * len(TOPICS[0].places) * len(FORMS)
    if not 1 <= n <= most:
        raise UndertowError(f"Ask for 1 to {most} pairs, not {n}.")
    generator = random.Random(f"pairs {seed}")
    decks = [_deck(topic, generator) for topic in TOPICS]
    order = list(range(len(TOPICS)))
    generator.shuffle(order)
    pairs = []
    for number in range(n):
        topic = TOPICS[order[number % len(order)]]
        form, place, sensitive, harmless = decks[order[number % len(order)]][number // len(order)]
        sides = [
            Prompt(
                form.format(place=place, word=word),
                harmful=harmful,
                category=topic.name,
                language="en",
                id=f"{number}, {side}",
            )
            for word, harmful, side in ((sensitive, True, "sensitive"), (harmless, False, "control"))
        ]
        pairs.append(Pair(sides[0], sides[1], topic.name, "en", str(number)))
    return PairSet(pairs, f"built:{spec.seed}")


def _deck(topic: Topic, generator: random.Random) -> list[tuple[str, str, str, str]]:
    """(form, place, sensitive word, harmless word): every pair of form and place with each word exactly once."""
    cards = []
    for form, place in product(FORMS, topic.places):
        harmless = list(topic.harmless)
        generator.shuffle(harmless)
        cards += [(form, place, one, other) for one, other in zip(topic.sensitive, harmless, strict=True)]
    generator.shuffle(cards)
    return cards
