"""Replies for the page, plain and steered, as events that become JSON."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

from undertow.guard import LatentGuard
from undertow.model import Add
from undertow.serve.engine import Engine
from undertow.serve.failures import Failure
from undertow.serve.inspector.about import direction_names, steerable_states
from undertow.serve.inspector.asked import Steering
from undertow.serve.inspector.gate import hint, objection
from undertow.serve.inspector.words import in_words
from undertow.serve.jobs import Belief, ChatJob, Ended, Event, Judged, Judgement, Piece, Policy

Wire = dict[str, Any]


@dataclass(frozen=True)
class Replies:
    """Generates replies of one served guard.

    Attributes:
        engine: generates.
        guard: the engine's.
        permitted: from `gate.choices`.
    """

    engine: Engine
    guard: LatentGuard
    permitted: dict[str, list[str]]

    async def plain(
        self, job: ChatJob, note: Callable[[Judgement], None], deadline: float | None = None
    ) -> AsyncGenerator[Wire, None]:
        """Events of a reply under the job's policy.

        Args:
            job: what to generate.
            note: called with the verdict.
            deadline: as for `Engine.chat`.

        Raises:
            Full, Draining, TooLong, PositionError: at the first event, as `Engine.chat` does.
        """
        async with aclosing(cast(AsyncGenerator[Event, None], self.engine.chat(job, deadline))) as events:
            async for event in events:
                wire = self.wire(event)
                if isinstance(event, Judged):
                    note(event.judgement)
                    verdict = event.judgement.verdict
                    if event.judgement.action == "refused" and verdict is not None:
                        wire["words"][-1] += hint("flag", self.permitted["on_harmful"])
                yield wire

    async def steered(
        self, job: ChatJob, steering: Steering, note: Callable[[Judgement], None], deadline: float | None = None
    ) -> AsyncGenerator[Wire, None]:
        """Events of a reply under a steering, if the policy lets the conversation without it be answered.

        Args:
            job: what to generate.
            steering: what is added to the states.
            note: called with the verdict on the conversation as it is, and whether it was answered.
            deadline: as for `Engine.chat`.

        Raises:
            Failure: the guard has no such direction, or none at that state, or the span cannot be told.
            Full, Draining, TooLong, PositionError: at the first event, as `Engine.chat` does.
        """
        edit = steering_edit(self.guard, steering)
        judgement = (await self.engine.judge([job.prompt], job.policy.on_unjudged, deadline))[0]
        against = objection(judgement, job.policy, self.permitted, steering.coefficient)
        if against is not None:
            judgement = replace(judgement, action="refused")
            note(judgement)
            yield self.wire(Judged(judgement)) | {"words": [against]}
            yield self.wire(Ended("content_filter", 0, against))
            return
        if judgement.reason == "not_rendered" and steering.span in ("instruction", "tail"):
            raise Failure(
                400,
                "The words of this conversation cannot be told from the template around them; steer on another span.",
                param="steering.span",
            )
        # The policy was applied to the verdict without the steering; what the guard reads under it is only shown.
        under = replace(job, edits=(edit,), policy=Policy("flag", "keep", job.policy.on_unjudged))
        async with aclosing(cast(AsyncGenerator[Event, None], self.engine.chat(under, deadline))) as events:
            async for event in events:
                if isinstance(event, Judged):
                    refused = event.judgement.action == "refused"
                    note(replace(judgement, action="refused") if refused else judgement)
                yield self.wire(event)

    def wire(self, event: Event) -> Wire:
        """An event as plain values for JSON."""
        if isinstance(event, Judged):
            verdict = event.judgement.to_wire(self.guard.threshold)
            return {"type": "judged", "verdict": verdict, "words": in_words(event.judgement, self.guard)}
        if isinstance(event, Piece):
            return {"type": "piece", "text": event.text}
        if isinstance(event, Belief):
            beliefs = {"harmfulness": _finite(event.harmfulness), "refusal": _finite(event.refusal)}
            return {"type": "belief", "index": event.index, "token": event.token} | beliefs
        return {"type": "ended", "reason": event.reason, "tokens": event.tokens, "message": event.message}


def steering_edit(guard: LatentGuard, steering: Steering) -> Add:
    """The edit that a steering stands for: `coefficient` differences of means added at a state.

    Raises:
        Failure: the guard has no such direction, or none at that state.
    """
    import torch

    if guard.directions is None or steering.direction not in direction_names(guard):
        raise Failure(
            400, f"This guard has no {steering.direction} direction; fit it again to steer along one.", param="steering"
        )
    if steering.state not in steerable_states(guard, steering.direction):
        raise Failure(
            400, f"There is no {steering.direction} direction at state {steering.state}; choose another.", param="state"
        )
    vector = torch.from_numpy(guard.directions.difference(steering.direction, steering.state))
    return Add(vector, steering.coefficient, state=steering.state, span=steering.span)


def _finite(value: float | None) -> float | None:
    return None if value is None or value != value or abs(value) == float("inf") else value
