"""What a guard says about one prompt: both beliefs, the decision, and the quadrant they fall into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy.typing as npt

Quadrant = Literal[
    "harmful, refused",
    "harmful, about to be answered",
    "harmless, answered",
    "harmless, about to be refused",
    "harmful",
    "harmless",
]
"""Where the two beliefs put a prompt. The last two are for guards without a refusal belief."""

QUADRANTS: tuple[Quadrant, ...] = (
    "harmful, refused",
    "harmful, about to be answered",
    "harmless, answered",
    "harmless, about to be refused",
)


@dataclass(frozen=True)
class Verdict:
    """A guard's judgement of one prompt.

    Attributes:
        harmful: calibrated probability that the request is harmful, at even odds.
        refusal: belief of refusal, read at t_post; positive where the model is about to refuse. None where the guard
            has none.
        quadrant: both beliefs in words.
        flagged: whether `harmfulness` reaches `threshold`.
        harmfulness: belief of harmfulness, read at t_inst, in the units of the guard's rule.
        threshold: the guard's decision threshold on `harmfulness`.
        id: the prompt's id, where it has one.
        warnings: what limits the verdict, such as a guard forced onto another model.
    """

    harmful: float
    refusal: float | None
    quadrant: Quadrant
    flagged: bool
    harmfulness: float
    threshold: float
    id: str | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"warnings": list(self.warnings)}


def quadrant_of(flagged: bool, refusal: float | None) -> Quadrant:
    """The quadrant of a decision and a belief of refusal (positive = about to refuse)."""
    if refusal is None:
        return "harmful" if flagged else "harmless"
    if flagged:
        return "harmful, refused" if refusal > 0 else "harmful, about to be answered"
    return "harmless, about to be refused" if refusal > 0 else "harmless, answered"


def make_verdicts(
    harmfulness: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    refusal: npt.NDArray[Any] | None,
    threshold: float,
    ids: Sequence[str | None],
    warnings: tuple[str, ...],
) -> list[Verdict]:
    """One verdict a row of the scores (n,), probabilities (n,) and beliefs of refusal (n,)."""
    found = []
    beliefs = [None] * len(harmfulness) if refusal is None else refusal.tolist()
    rows = zip(harmfulness.tolist(), probabilities.tolist(), beliefs, ids, strict=True)
    for score, probability, belief, name in rows:
        flagged = score >= threshold
        quadrant = quadrant_of(flagged, belief)
        found.append(Verdict(probability, belief, quadrant, flagged, score, threshold, name, warnings))
    return found
