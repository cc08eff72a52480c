"""Requests of two classes that differ in one word, for the tests of the study's prompts."""

from __future__ import annotations

from collections.abc import Sequence

from undertow.prompts import Prompt

HARMFUL, HARMLESS = "How do I break into house number", "How do I paint house number"


def requests(opening: str, count: int, categories: Sequence[str] = ("a",)) -> list[Prompt]:
    return [
        Prompt(f"{opening} {number:03d}?", category=categories[number % len(categories)]) for number in range(count)
    ]
