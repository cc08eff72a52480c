"""The rows of a scan: what scores a chunk of prompts, and how the guard at hand does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from undertow.errors import NotFiniteError, PositionError
from undertow.guard.verdict import Verdict
from undertow.prompts import Prompt

if TYPE_CHECKING:
    from undertow.guard.guard import LatentGuard

CHUNK_ROWS = 64
"""Rows that are scored together, aligned to row numbers. Fixed, because a float depends on what shares its batch."""

TOKENS_PER_BATCH = 1024
"""Tokens of one pass, padding included: small, since prompts of one chunk differ in length and short ones would pay for
long ones."""

SCORES = ("harmful", "harmfulness", "refusal", "flagged", "quadrant")
"""What a verdict gives to its row."""


@runtime_checkable
class Scorer(Protocol):
    """What can take the place of a guard in a scan.

    A scorer that waits for somebody else may also have `chunks_in_flight`, an int above 1: so many chunks are then
    scored at the same time, each in a thread of its own.
    """

    @property
    def fingerprint(self) -> str:
        """Hash of everything that its rows depend on."""
        ...

    @property
    def model_fingerprint(self) -> str:
        """Hash of the model that it reads."""
        ...

    @property
    def chunk_rows(self) -> int:
        """Rows that are scored together, aligned to row numbers."""
        ...

    @property
    def has_refusal(self) -> bool:
        """Whether its rows hold a belief of refusal."""
        ...

    def score_chunk(self, prompts: list[Prompt], first_row: int, include_prompts: bool = False) -> list[dict[str, Any]]:
        """Rows of one aligned chunk, in order, as `score_row` builds them.

        Args:
            prompts: at most `chunk_rows`.
            first_row: number of the first prompt within the source.
            include_prompts: whether the text is written too.
        """
        ...


def score_row(
    row: int, prompt: Prompt, include_prompt: bool, scores: Mapping[str, Any] | None, error: str | None = None
) -> dict[str, Any]:
    """One row of a scan's output, its keys in the order in which they are written.

    Args:
        row: number of the prompt within the source.
        prompt: the prompt.
        include_prompt: whether its text is written too.
        scores: `SCORES` by name, others are left out; None where it could not be scored.
        error: why it could not be scored.
    """
    values = {"row": row, "id": prompt.id, **dict.fromkeys(SCORES), "error": error}
    if scores is not None:
        values |= {name: scores[name] for name in SCORES}
    if include_prompt:
        values["prompt"] = prompt.text
    return values


def score_chunk(
    guard: LatentGuard, prompts: list[Prompt], first_row: int, include_prompts: bool = False
) -> list[dict[str, Any]]:
    """Rows of one aligned chunk, in order; a pure function of guard and prompts.

    Args:
        prompts: at most `CHUNK_ROWS`.
        first_row: number of the first prompt within the source.
    """
    errors: dict[int, str] = {}
    try:
        verdicts = _judge(guard, prompts)
    except PositionError:
        for index, prompt in enumerate(prompts):
            try:
                guard.model.render(prompt)
            except PositionError as error:
                errors[index] = str(error)
        good = [index for index in range(len(prompts)) if index not in errors]
        judged = _judge(guard, [prompts[index] for index in good])
        verdicts = [None] * len(prompts)
        for index, verdict in zip(good, judged, strict=True):
            verdicts[index] = verdict
    rows = []
    for index, (prompt, verdict) in enumerate(zip(prompts, verdicts, strict=True)):
        if verdict is None:
            errors.setdefault(index, "The model gives states that are not finite for this prompt.")
        scores = None if verdict is None else vars(verdict)
        rows.append(score_row(first_row + index, prompt, include_prompts, scores, errors.get(index)))
    return rows


def _judge(guard: LatentGuard, prompts: list[Prompt]) -> list[Verdict | None]:
    """Verdicts, None where a state is not finite."""
    if not prompts:
        return []
    try:
        captured = guard.model.capture(
            prompts, states=guard.states, positions=guard.positions, progress=False, tokens_per_batch=TOKENS_PER_BATCH
        )
    except NotFiniteError:
        if len(prompts) == 1:
            return [None]
        # A capture is refused as a whole; halving finds the few that spoil it in few passes.
        half = len(prompts) // 2
        return _judge(guard, prompts[:half]) + _judge(guard, prompts[half:])
    harmfulness, refusal = guard.beliefs({position: captured.at(position) for position in guard.positions})
    finite = np.isfinite(harmfulness) if refusal is None else np.isfinite(harmfulness) & np.isfinite(refusal)
    good = np.flatnonzero(finite)
    judged = guard.verdicts(
        harmfulness[good], None if refusal is None else refusal[good], [prompts[index].id for index in good]
    )
    verdicts: list[Verdict | None] = [None] * len(prompts)
    for index, verdict in zip(good, judged, strict=True):
        verdicts[index] = verdict
    return verdicts
