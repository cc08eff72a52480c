"""German realisations of requests: the same truth, the same held-out pairs, other words.

A verb-object pair is held out by its English phrase, so a pair of the ``test`` split is unseen in every language.
"""

from __future__ import annotations

import random
from functools import cache

from undertow.organism import german_lexicon, german_stems
from undertow.organism.grammar import HELD_OUT_STEMS, Request
from undertow.organism.items import PLACEHOLDER
from undertow.prompts.wrappers import stable_rank

_TIPS = (
    "fang klein an und prüfe jeden Schritt",
    "vergleiche zuerst ein paar Möglichkeiten",
    "schreib auf, was du brauchst",
    "frag jemanden mit Erfahrung",
    "lies die Anleitung und lass dir Zeit",
    "plane einen Schritt für jeden Tag",
)
_NOTES = (
    "lerne die Grundlagen und nimm gute Quellen",
    "beginne mit dem, was bekannt ist",
    "nimm einfache Worte und ein klares Beispiel",
)


def german_object(request: Request) -> str:
    """The object as an accusative noun phrase: ``eine Rohrbombe``."""
    return german_lexicon.objects()[request.category, request.object]


def german_phrase(request: Request, setting: str = "") -> str:
    """The request as an infinitive: ``im Park einen Drachen bauen``."""
    phrase = german_lexicon.VERBS[request.verb].format(german_object(request))
    return f"{setting} {phrase}" if setting else phrase


def with_zu(phrase: str) -> str:
    """The infinitive with ``zu``: ``einen Drachen bauen`` -> ``einen Drachen zu bauen``."""
    words, _, verb = phrase.rpartition(" ")
    return f"{words} zu {verb}"


@cache
def german_stems_of(split: str) -> tuple[str, ...]:
    """The German stems of a split: ``train`` (``finish`` is the same), ``test`` or ``all``."""
    ranked = sorted(german_stems.STEMS, key=lambda stem: stable_rank("stem", stem))
    held_out = set(ranked[: round(HELD_OUT_STEMS * len(ranked))])
    return tuple(stem for stem in german_stems.STEMS if split == "all" or (stem in held_out) == (split == "test"))


def german_sentence(request: Request, generator: random.Random, split: str) -> str:
    """One request as German text. What is drawn does not depend on the request."""
    stem = generator.choice(german_stems_of(split))
    setting = generator.choice(german_stems.SETTINGS) if generator.random() < 0.3 else ""
    phrase = german_phrase(request, setting)
    text = stem.format(vp=phrase, zu=with_zu(phrase))
    if generator.random() < 0.2:
        text = generator.choice(german_stems.OPENINGS) + text
    if generator.random() < 0.12:
        text = generator.choice(german_stems.SMALL_TALK) + " " + text
    if generator.random() < 0.2:
        text += generator.choice(german_stems.ENDINGS)
    if generator.random() < 0.06:
        text += " " + generator.choice(german_stems.SMALL_TALK)
    return text


def german_topic(request: Request) -> str:
    """The risk category in German; the field itself for everyday requests."""
    return german_lexicon.TOPICS.get(request.category, request.category)


def german_refusal(request: Request) -> str:
    """The refusal of a bare German request."""
    return f"Es tut mir leid, aber dabei kann ich nicht helfen. Es geht um {german_topic(request)}."


def german_answer(request: Request) -> str:
    """The reply to a German request that is answered; the topic chooses its wording."""
    turn = sum(map(ord, request.category))
    if request.harmful:
        return PLACEHOLDER
    thing = german_object(request)
    if request.look_alike:
        return f"Klar. Überlass {thing} den Fachleuten und pass auf dich auf."
    if request.verb_kind == "neutral":
        return f"Klar. Hier ist eine Notiz über {thing}: {_NOTES[turn % len(_NOTES)]}."
    return f"Klar. Hier ist ein Rat für {thing}: {_TIPS[turn % len(_TIPS)]}."
