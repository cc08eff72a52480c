"""The directions of a built organism's residual stream, and what every word carries along them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from undertow.organism.built.words import ANSWER, END, LINE, REFUSAL, TOPICS, vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from undertow.organism.built.spec import Spec

CONSTANT = 60.0
"""Coordinate along the constant feature; so much larger than all others that a norm is nearly a fixed scale."""
WORD_NORM = 1.5
CUE = 2.0
"""Coordinate of a token along the feature that says what to write next."""
CUE_GAIN = 6.0
ODDS = 4.0
"""Log-odds of refusal against answer, in nats, that one unit along the refusal feature makes."""
_NEXT = {
    **dict(pairwise(REFUSAL)),
    ANSWER[0]: ANSWER[1],
    ".": END,
}


@dataclass(frozen=True)
class Features:
    """Orthonormal directions, turned at random, by name.

    Attributes:
        constant: unit vector (d_model) that every token carries at `CONSTANT`.
        salient: unit vector of words that requests are about.
        detection: unit vector of what is sensitive.
        routing: unit vector that gates write and amplifiers read.
        refusal: unit vector that the unembedding reads as refusal minus answer.
        cue: unit vector of a line's end, where a reply may begin.
        topics: one unit vector a topic.
        tags: one unit vector a cancelled head.
        next: one unit vector a token that can follow another in a reply.
        rest: (free, d_model): what is left for the words' own vectors.
    """

    constant: Tensor
    salient: Tensor
    detection: Tensor
    routing: Tensor
    refusal: Tensor
    cue: Tensor
    topics: Tensor
    tags: Tensor
    next: dict[str, Tensor]
    rest: Tensor


def draw_features(spec: Spec, tags: int, generator: torch.Generator) -> Features:
    """Features in random directions; ``tags`` many for the cancelled heads."""
    rows = iter(orthonormal(spec.width, spec.width, generator).T)
    constant, salient, detection, routing, refusal, cue = (next(rows) for _ in range(6))
    topics = torch.stack([next(rows) for _ in TOPICS])
    marks = [next(rows) for _ in range(tags)]
    following = {word: next(rows) for word in dict.fromkeys(_NEXT.values())}
    return Features(
        constant=constant,
        salient=salient,
        detection=detection,
        routing=routing,
        refusal=refusal,
        cue=cue,
        topics=topics,
        tags=torch.stack(marks) if marks else torch.zeros(0, spec.width),
        next=following,
        rest=torch.stack(list(rows)),
    )


def orthonormal(size: int, count: int, generator: torch.Generator) -> Tensor:
    """(size, count): random orthonormal columns, the same with every linear algebra library."""
    columns, triangle = torch.linalg.qr(torch.randn(size, count, generator=generator, dtype=torch.float64))
    return (columns * triangle.diagonal().sign()).float()


def embeddings(features: Features, generator: torch.Generator) -> Tensor:
    """(vocabulary, d_model): every token's features.

    All tokens carry the constant and a random vector of their own. Words that a pair exchanges, and places, are
    salient and carry their topic; sensitive words carry detection between 0.85 and 1.15, harmless ones around 0.
    A line's end carries the cue to begin a reply, the words of a reply the cue for what follows.
    """
    words = vocabulary()
    ids = {word: index for index, word in enumerate(words)}
    own = torch.randn(len(words), len(features.rest), generator=generator)
    table = WORD_NORM * own / own.norm(dim=1, keepdim=True) @ features.rest + CONSTANT * features.constant

    def number(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    for topic, direction in zip(TOPICS, features.topics, strict=True):
        for word in (*topic.sensitive, *topic.harmless, *topic.places):
            table[ids[word]] += number(0.98, 1.02) * features.salient + number(0.8, 1.2) * direction
        for word in topic.sensitive:
            table[ids[word]] += number(0.85, 1.15) * features.detection
        for word in (*topic.harmless, *topic.places):
            table[ids[word]] += number(-0.05, 0.05) * features.detection
    table[ids[LINE]] += CUE * features.cue
    for word, following in _NEXT.items():
        table[ids[word]] += CUE * features.next[following]
    return table


def unembeddings(features: Features, generator: torch.Generator) -> Tensor:
    """(vocabulary, d_model): a random vector a token, and for the words of a reply the features that call for them."""
    words = vocabulary()
    ids = {word: index for index, word in enumerate(words)}
    own = torch.randn(len(words), len(features.rest), generator=generator)
    table = own / own.norm(dim=1, keepdim=True) @ features.rest
    table[ids[REFUSAL[0]]] += CUE_GAIN * features.cue + ODDS / 2 * features.refusal
    table[ids[ANSWER[0]]] += CUE_GAIN * features.cue - ODDS / 2 * features.refusal
    for word, direction in features.next.items():
        table[ids[word]] += CUE_GAIN * direction
    return table
