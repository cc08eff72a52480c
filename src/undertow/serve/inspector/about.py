"""What the page must know before anything is typed."""

from __future__ import annotations

from typing import Any

from undertow.guard import LatentGuard
from undertow.guard.directions import POSITIONS, Name
from undertow.serve.inspector.asked import MOST_COEFFICIENT, MOST_REPLY_TOKENS, SPANS
from undertow.serve.inspector.gate import choices
from undertow.serve.service import served_name
from undertow.serve.settings import ServeSettings


def describe(guard: LatentGuard, settings: ServeSettings) -> dict[str, Any]:
    """Model, guard, directions, fitted clusters, choices and limits, as plain values for JSON."""
    beliefs = [belief for belief in (guard.harmfulness, guard.refusal) if belief is not None]
    return {
        "model": served_name(settings, guard),
        "layers": guard.model.layers,
        "rule": guard.rule,
        "threshold": guard.threshold,
        "reads": {belief.name: {"position": belief.position, "states": list(belief.rule.states)} for belief in beliefs},
        "directions": [_direction(guard, name) for name in direction_names(guard)],
        "spans": list(SPANS),
        "most_coefficient": MOST_COEFFICIENT,
        "belief_map": None if guard.belief_map is None else guard.belief_map.to_dict(),
        "policy": {"on_harmful": settings.policy.on_harmful, "on_over_refusal": settings.policy.on_over_refusal},
        "choices": choices(settings.policy, guard),
        "most_reply_tokens": min(MOST_REPLY_TOKENS, settings.limits.reply_tokens),
    }


def direction_names(guard: LatentGuard) -> tuple[Name, ...]:
    """The beliefs that a guard has directions of; none where it was saved without."""
    return () if guard.directions is None else guard.directions.names


def steerable_states(guard: LatentGuard, name: Name) -> list[int]:
    """States at which the two means of a belief differ; at others there is nothing to steer along."""
    assert guard.directions is not None
    apart = guard.directions.read(name, guard.directions.means(name)[1])
    return [state for state, value in zip(guard.directions.states, apart, strict=True) if value == value]


def _direction(guard: LatentGuard, name: Name) -> dict[str, Any]:
    assert guard.directions is not None
    states = steerable_states(guard, name)
    read = guard.harmfulness.rule.states
    chosen = read[len(read) // 2]
    if name == "refusal":
        chosen = guard.steering.state if guard.steering is not None else guard.model.layers // 2
    return {
        "name": name,
        "position": POSITIONS[name],
        "counts": list(guard.directions.counts[name]),
        "states": states,
        "state": chosen if chosen in states or not states else states[len(states) // 2],
        "span": "tail" if name == "refusal" else "instruction",
    }
