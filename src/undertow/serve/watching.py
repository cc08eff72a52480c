"""Both beliefs at the tokens of a reply, while it is being generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from undertow.serve.jobs import Belief

if TYPE_CHECKING:
    from torch import Tensor

    from undertow.guard import LatentGuard


def watched_states(guard: LatentGuard) -> tuple[int, ...]:
    """The state of each belief that is watched: the deepest that its rule reads."""
    beliefs = [guard.harmfulness, guard.refusal]
    return tuple(sorted({belief.rule.states[-1] for belief in beliefs if belief is not None}))


def belief_at(guard: LatentGuard, index: int, token: int, values: Tensor, states: Sequence[int]) -> Belief:
    """Both beliefs at one reply token.

    Args:
        guard: whose directions are read along.
        index: of the token within the reply.
        token: its id.
        values: (len(states), d), the states at it.
        states: as `watched_states` gave them.
    """
    found: dict[str, float | None] = {"harmfulness": None, "refusal": None}
    directions = guard.directions
    for belief in (guard.harmfulness, guard.refusal):
        if belief is not None and directions is not None and belief.name in directions.names:
            state = belief.rule.states[-1]
            row = values[list(states).index(state)].float().numpy()[None]
            reading = float(directions.read(belief.name, row, [state])[0])
            found[belief.name] = reading if np.isfinite(reading) else None
    text = str(guard.model.tokenizer.decode([token]))
    return Belief(index, text, found["harmfulness"], found["refusal"])
