"""Labelled prompts of the organism `bilingual`: German, and English in a cipher."""

from __future__ import annotations

import random

from undertow.errors import UndertowError
from undertow.organism.german import german_sentence
from undertow.organism.grammar import draw, sentence
from undertow.prompts import Prompt, PromptSet
from undertow.prompts.ciphers import SubstitutionCipher

LABELS = ("harmful", "look-alike", "harmless")


def german_sample(label: str, n: int, seed: int = 0, split: str = "train") -> PromptSet:
    """Draws German prompts, bare; arguments and errors as for `cipher_sample`."""
    return _sample(label, n, seed, split, None)


def cipher_sample(label: str, n: int, cipher: SubstitutionCipher, seed: int = 0, split: str = "train") -> PromptSet:
    """Draws English requests of one kind and puts them into a cipher.

    Args:
        label: ``harmful``, ``look-alike`` or ``harmless``.
        n: number of prompts; all texts are different.
        cipher: the cipher.
        seed: the same arguments give the same prompts, and with another cipher the same requests.
        split: whose verb-object pairs and stems to take, ``train`` or ``test``.

    Raises:
        UndertowError: the label or the split is unknown.
    """
    return _sample(label, n, seed, split, cipher)


def _sample(label: str, n: int, seed: int, split: str, cipher: SubstitutionCipher | None) -> PromptSet:
    if label not in LABELS:
        raise UndertowError(f"There is no kind of request {label!r}; the kinds are {', '.join(LABELS)}.")
    if split not in ("train", "test"):
        raise UndertowError(f"There is no split {split!r}; the splits are train and test.")
    language = "en" if cipher else "de"
    generator = random.Random(f"{seed}:{language}:{label}:{split}")
    found: dict[str, Prompt] = {}
    while len(found) < n:
        request = draw(label, generator, split)
        text = (
            cipher.wrap(sentence(request, generator, split)) if cipher else german_sentence(request, generator, split)
        )
        prompt = Prompt(
            text,
            harmful=request.harmful,
            category=request.category,
            wrapper=cipher.name if cipher else None,
            style="look-alike" if request.look_alike else None,
            language=language,
            id=f"{language}-{label}-{split}-{seed}-{len(found)}",
        )
        found.setdefault(text, prompt)
    return PromptSet(found.values())
