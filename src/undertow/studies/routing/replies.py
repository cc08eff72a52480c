"""Judged replies under edits: how long they must be, and on how many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from undertow.studies.routing.readings import Array

if TYPE_CHECKING:
    from undertow.studies.routing.context import Context

LEAST_TOKENS = 8
_SAME = 0.99


def judged_tokens(context: Context) -> int:
    """Tokens of a reply that show whether it refuses: as few as give 99 % of the choose replies the verdict they have.

    At least 8, unless the study's replies are shorter; never more than the study's replies have.
    """
    tokenizer, half = context.chat.tokenizer, context.choose
    encoded = [
        tokenizer.encode(reply, add_special_tokens=False)
        for side in (half.sensitive, half.control)
        for reply in side.replies
    ]
    verdicts = np.concatenate([half.sensitive.refused, half.control.refused])
    for tokens in range(LEAST_TOKENS, context.reply_tokens, 4):
        openings = [tokenizer.decode(ids[:tokens], skip_special_tokens=True) for ids in encoded]
        if np.mean(np.array(context.judge.refused(openings)) == verdicts) >= _SAME:
            return tokens
    return context.reply_tokens


def evenly(rows: Sequence[int] | Array, most: int) -> Array:
    """At most so many of the rows, evenly spread over them, in order."""
    chosen = np.asarray(rows, dtype=int)
    if len(chosen) <= most:
        return chosen
    return np.asarray(chosen[np.linspace(0, len(chosen) - 1, most).round().astype(int)])
