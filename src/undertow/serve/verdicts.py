"""Verdicts read off a forward pass, a prompt at a time where one cannot be judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from undertow.serve.jobs import Reason

if TYPE_CHECKING:
    from torch import Tensor

    from undertow.guard import LatentGuard, Verdict
    from undertow.model.positions import Rendered

Found = tuple["Verdict | None", "Reason | None"]


def read_states(guard: LatentGuard, rendered: Sequence[Rendered]) -> dict[str, Tensor]:
    """position -> (n, states, d): the guard's states, with nothing run that lies deeper."""
    from undertow.model.capture import Gatherer, StopForward, position_columns
    from undertow.model.hooks import attached

    chat = guard.model
    gatherer = Gatherer(chat.anatomy, guard.states)
    gatherer.aim([position_columns(item, guard.positions) for item in rendered])
    ids, mask = chat.forward.pad_right([item.ids for item in rendered])
    with attached(chat.anatomy, gatherer.visits()), suppress(StopForward):
        chat.forward(ids, mask)
    values = gatherer.raw_state_values()
    return {position: values[:, :, index] for index, position in enumerate(guard.positions)}


def verdicts_of(guard: LatentGuard, states: dict[str, Any]) -> list[Found]:
    """A verdict a row, or the reason why there is none."""
    harmfulness, refusal = guard.beliefs(states)
    finite = [math.isfinite(score) for score in harmfulness.tolist()]
    if refusal is not None:
        finite = [good and math.isfinite(belief) for good, belief in zip(finite, refusal.tolist(), strict=True)]
    if all(finite):
        made = guard.verdicts(harmfulness, refusal, [None] * len(harmfulness))
        return [(verdict, None) for verdict in made]
    found: list[Found] = []
    for row, good in enumerate(finite):
        if not good:
            found.append((None, "not_finite"))
            continue
        part = slice(row, row + 1)
        beliefs = None if refusal is None else refusal[part]
        found.append((guard.verdicts(harmfulness[part], beliefs, [None])[0], None))
    return found
