"""One conversation, read whole: its tokens, both beliefs at every token and state, and the guard's verdict."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from undertow.guard import LatentGuard
from undertow.guard.generation import decide
from undertow.guard.rules.base import Array
from undertow.prompts import Prompt
from undertow.serve.jobs import Judgement, Policy, Reason, TooLong

if TYPE_CHECKING:
    from torch import Tensor

    from undertow.model.hooks import Site, Visit
    from undertow.model.positions import Rendered, Renderer

MOST_TOKENS = 400
"""Most tokens of a conversation that the inspector reads."""

_MOST_CHARACTERS = 64 * MOST_TOKENS

Part = Literal["before", "instruction", "tail"]


@dataclass(frozen=True)
class Token:
    """One token of the prompt.

    Attributes:
        text: what it reads, special tokens included.
        part: whether it stands before the instruction, in it, or in the template's tail.
        special: whether it is none that a user could type.
    """

    text: str
    part: Part
    special: bool


@dataclass(frozen=True)
class Reading:
    """What the model believes at every token of one prompt.

    Attributes:
        tokens: the T tokens of the rendered prompt.
        t_inst, t_post: indices of the tokens at which the two beliefs are judged.
        states: the S states, 0 to L.
        heat: for each belief that the guard has directions of, (S, T) float64: -1 at the mean of the harmless (or
            answered) fit prompts, +1 at that of the harmful (or refused) ones; NaN where it cannot be told.
        judgement: the guard's verdict, and what the server would do with the conversation.
    """

    tokens: tuple[Token, ...]
    t_inst: int
    t_post: int
    states: tuple[int, ...]
    heat: dict[str, Array]
    judgement: Judgement

    def to_wire(self, threshold: float) -> dict[str, Any]:
        """Plain values for JSON; numbers that cannot be told are None.

        Args:
            threshold: of the guard.
        """
        return {
            "tokens": [{"text": token.text, "part": token.part, "special": token.special} for token in self.tokens],
            "t_inst": self.t_inst,
            "t_post": self.t_post,
            "states": list(self.states),
            "heat": {name: [[_plain(value) for value in row] for row in rows] for name, rows in self.heat.items()},
            "verdict": self.judgement.to_wire(threshold),
        }


def read_prompt(
    guard: LatentGuard,
    renderer: Renderer,
    prompt: Prompt,
    policy: Policy,
    most_tokens: int = MOST_TOKENS,
    controls: re.Pattern[str] | None = None,
) -> Reading:
    """Read a conversation in one forward pass; must run on the model's own thread.

    Every state is reduced to one number a token and belief inside the hook, so that no more than one state of one
    prompt is held at a time.

    Args:
        guard: the guard; its model reads.
        renderer: of the same model, used on this thread only.
        prompt: the conversation, ending with a user message.
        policy: tells which action the verdict leads to.
        most_tokens: longer conversations are refused.
        controls: what forges turns where it is typed; such a conversation is read, and not judged.

    Raises:
        TooLong: the conversation has more tokens.
        PositionError: it does not end with a user message, or that message is empty.
    """
    if sum(len(message["content"]) for message in prompt.messages) > _MOST_CHARACTERS:
        raise TooLong(None, most_tokens)
    rendered = renderer.render(prompt)
    if len(rendered) > most_tokens:
        raise TooLong(len(rendered), most_tokens)
    heat, states = _run(guard, rendered)
    if controls is not None and any(controls.search(message["content"]) for message in prompt.messages):
        judgement = _unjudged(policy, "not_rendered", len(rendered))
    else:
        judgement = _judge(guard, states, policy, len(rendered))
    return Reading(
        tokens=_tokens(guard.model.tokenizer, rendered),
        t_inst=rendered.t_inst,
        t_post=rendered.t_post,
        states=tuple(range(guard.model.layers + 1)),
        heat=heat,
        judgement=judgement,
    )


def _run(guard: LatentGuard, rendered: Rendered) -> tuple[dict[str, Array], dict[str, Array]]:
    """Heat, and the guard's own states (1, S, d) by position."""
    from undertow.model.capture import StopForward
    from undertow.model.hooks import attached

    model, directions = guard.model, guard.directions
    names = () if directions is None else directions.names
    heat: dict[str, Array] = {name: np.full((model.layers + 1, len(rendered)), np.nan) for name in names}
    columns = {position: rendered.span(position)[0] for position in guard.positions}
    kept: dict[tuple[str, int], Array] = {}
    seen: set[int] = set()

    def visit(state: int) -> Visit:
        def look(hidden: Tensor) -> None:
            if state in seen:
                return
            seen.add(state)
            values = hidden[0].detach().float().cpu().numpy()
            for name in names:
                assert directions is not None
                heat[name][state] = directions.read(name, values[:, None], [state])[:, 0]
            if state in guard.states:
                for position, column in columns.items():
                    kept[position, state] = values[column].copy()
            if state == model.layers:
                raise StopForward

        return look

    ids, mask = model.forward.pad_right([rendered.ids])
    visits: list[tuple[Site, Visit]] = [(("state", state), visit(state)) for state in range(model.layers + 1)]
    with attached(model.anatomy, visits), suppress(StopForward):
        model.forward(ids, mask)
    states = {position: np.stack([kept[position, state] for state in guard.states])[None] for position in columns}
    return heat, states


def _judge(guard: LatentGuard, states: dict[str, Array], policy: Policy, tokens: int) -> Judgement:
    harmfulness, refusal = guard.beliefs(states)
    if not np.isfinite(harmfulness).all() or not (refusal is None or np.isfinite(refusal).all()):
        return _unjudged(policy, "not_finite", tokens)
    verdict = guard.verdicts(harmfulness, refusal, [None])[0]
    return Judgement(verdict, decide(verdict, policy.on_harmful, policy.on_over_refusal), None, tokens)


def _unjudged(policy: Policy, reason: Reason, tokens: int) -> Judgement:
    return Judgement(None, "refused" if policy.on_unjudged == "refuse" else "none", reason, tokens)


def _tokens(tokenizer: Any, rendered: Rendered) -> tuple[Token, ...]:
    pieces = tokenizer.convert_ids_to_tokens(rendered.ids)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = set(tokenizer.all_special_ids) | {index for index, token in added.items() if token.special}
    found, before = [], (-1, -1)
    for index, (token, span) in enumerate(zip(rendered.ids, rendered.offsets, strict=True)):
        text = rendered.text[slice(*span)]
        # Tokens that share a character, such as the bytes of an emoji, would all show it.
        shown = text if text and span != before else str(pieces[index])
        before = span
        found.append(Token(shown, _part(rendered, index), token in special))
    return tuple(found)


def _part(rendered: Rendered, index: int) -> Part:
    if index in rendered.instruction:
        return "instruction"
    return "tail" if index in rendered.tail else "before"


def _plain(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
