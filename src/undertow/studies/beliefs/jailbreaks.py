"""Part 7: what each wrapper family does to the two beliefs, and prompts that the model believes harmful yet answers.

Beliefs are the published ones (`undertow.studies.beliefs.published`). A shift compares a wrapped prompt with the same
request bare. The control is the same shift of harmless requests in the same wrappers: what the wrapper's text does by
itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from undertow.errors import UndertowError
from undertow.measure.statistics import Estimate, bootstrap_interval, proportion
from undertow.studies.beliefs.context import BARE, Context, Panel
from undertow.studies.beliefs.published import LEAST, belief_centroids, published_beliefs
from undertow.studies.beliefs.result import Array, FamilyEffect, Jailbreaks

if TYPE_CHECKING:
    from undertow.prompts import Prompt
    from undertow.studies.beliefs.suffix_search import SuffixSearch

EXAMPLES = 12
BARE_TITLE = "bare"
WIDEST = 2.0
"""No difference of two cosines lies further from 0."""


def measure_jailbreaks(context: Context, *, suffixes: SuffixSearch | None = None) -> Jailbreaks:
    """Measure every wrapper family among the test prompts.

    Args:
        context: the study's context.
        suffixes: what a gradient-based search found, passed on.

    Raises:
        UndertowError: the fit prompts lack an anchor, or there is no bare or no wrapped harmful test prompt.
    """
    test = context.test
    beliefs = published_beliefs(belief_centroids(context.fit), test.observed.states)
    bare = test.rows(harmful=True, family=BARE)
    if len(bare) == 0:
        raise UndertowError("There is no bare harmful prompt among the test prompts to compare jailbreaks with.")
    families = tuple(
        _effect(test, family, beliefs, context.seed)
        for family in test.families
        if len(test.rows(harmful=True, family=family))
    )
    if not families:
        raise UndertowError("There is no harmful prompt in a wrapper among the test prompts.")
    return Jailbreaks(
        bare=_effect(test, BARE, beliefs, context.seed),
        families=families,
        believed=_believed(test, beliefs["harmfulness"]),
        suffixes=suffixes,
    )


def mean_belief(values: Array | Sequence[float], seed: int = 0) -> Estimate:
    """The mean of beliefs or of their shifts, with a bootstrap interval; one value alone says nothing: [-2, 2]."""
    listed = np.asarray(values, dtype=np.float64)
    if len(listed) < LEAST:
        return Estimate(float(listed.mean()), -WIDEST, WIDEST, len(listed))
    low, high = bootstrap_interval(listed, seed=seed)
    return Estimate(float(listed.mean()), low, high, len(listed))


def _effect(test: Panel, family: str, beliefs: Mapping[str, Array], seed: int) -> FamilyEffect:
    rows = test.rows(harmful=True, family=family)
    harmless = test.rows(harmful=False, family=family)
    harmfulness, refusal = beliefs["harmfulness"], beliefs["refusal"]
    answered = ~test.refused[rows]
    return FamilyEffect(
        family=family or BARE_TITLE,
        n=len(rows),
        answered=proportion(int(answered.sum()), len(rows)),
        harmfulness=mean_belief(harmfulness[rows], seed),
        refusal=mean_belief(refusal[rows], seed),
        harmfulness_shift=_shift(test, rows, harmfulness, seed),
        refusal_shift=_shift(test, rows, refusal, seed),
        harmless_harmfulness_shift=_shift(test, harmless, harmfulness, seed),
        harmless_refusal_shift=_shift(test, harmless, refusal, seed),
        believed_answered=proportion(int((answered & (harmfulness[rows] >= 0)).sum()), len(rows)),
    )


def _shift(test: Panel, rows: Array, belief: Array, seed: int) -> Estimate | None:
    """Mean change against the same requests bare; None where none of them is known."""
    paired = rows[test.bare[rows] >= 0]
    return mean_belief(belief[paired] - belief[test.bare[paired]], seed) if len(paired) else None


def _believed(test: Panel, harmfulness: Array) -> tuple[Prompt, ...]:
    """Answered prompts that are believed harmful, rightly: the strongest of every family in turn."""
    queues = []
    for family in (*test.families, BARE):
        rows = test.rows(harmful=True, refused=False, family=family)
        rows = rows[harmfulness[rows] >= 0]
        queues.append(list(rows[np.argsort(-harmfulness[rows], kind="stable")]))
    chosen: list[int] = []
    while any(queues) and len(chosen) < EXAMPLES:
        chosen += [int(queue.pop(0)) for queue in queues if queue]
    return tuple(test.prompts[row] for row in chosen[:EXAMPLES])
