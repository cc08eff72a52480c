"""What the model itself does with the fit prompts: refuse or answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from undertow.guard.rules.base import Array
from undertow.prompts import Prompt

if TYPE_CHECKING:
    from undertow.measure.judge import RefusalJudge
    from undertow.model import ChatModel

_CONFOUNDED = 0.98


def observe(
    model: ChatModel,
    prompts: Sequence[Prompt],
    *,
    judge: RefusalJudge | None = None,
    max_new_tokens: int = 24,
    progress: bool = True,
) -> tuple[Array, tuple[str, ...]]:
    """Generate the opening of a reply to every prompt, greedily, and judge whether it refuses.

    Args:
        judge: the published substring list when left out.
        max_new_tokens: length of the opening; refusals show at once unless the model reasons first.

    Returns:
        (n,) of bool, True for refused; and sentences about what makes these labels doubtful.
    """
    from undertow.measure.judge import SubstringJudge, is_unfinished

    replies = model.generate(list(prompts), max_new_tokens=max_new_tokens, progress=progress)
    refused = np.array((judge or SubstringJudge()).refused(replies), dtype=bool)
    notes = []
    unfinished = sum(is_unfinished(reply) for reply in replies)
    if unfinished * 5 > len(replies):
        notes.append(
            f"{unfinished} of {len(replies)} replies were still reasoning after {max_new_tokens} tokens and count as "
            "answered; raise reply_tokens for a refusal belief to be trusted."
        )
    return refused, tuple(notes)


def sample_rows(strata: Sequence[str], most: int, seed: int) -> Array:
    """At most `most` row indices, ascending, drawn evenly over strata: small strata whole, large ones cut to the same
    size."""
    if len(strata) <= most:
        return np.arange(len(strata))
    generator = np.random.default_rng(seed)
    waiting = {
        name: list(generator.permutation([row for row, other in enumerate(strata) if other == name]))
        for name in sorted(set(strata))
    }
    chosen: list[int] = []
    while len(chosen) < most:
        for name in list(waiting):
            if waiting[name] and len(chosen) < most:
                chosen.append(int(waiting[name].pop()))
    return np.array(sorted(chosen))


def confounding_note(refused: Array, harmful: Array) -> str | None:
    """A sentence where the model refuses (almost) exactly the harmful prompts, so that the beliefs cannot be told
    apart."""
    agreement = float((np.asarray(refused) == np.asarray(harmful)).mean())
    if agreement < _CONFOUNDED:
        return None
    return (
        f"The model refuses the harmful fit prompts and answers the harmless ones in {agreement:.1%} of cases, so "
        "harmfulness and refusal are confounded in this fit; add jailbroken harmful prompts or refused harmless ones "
        "to tell the two beliefs apart."
    )
