"""Acting on the beliefs: steering prompts both ways, and guarded generation, each beside a random direction."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.guard.steering import COEFFICIENTS
from undertow.measure.direction import Direction
from undertow.measure.judge import SubstringJudge
from undertow.prompts import Prompt
from undertow.studies.demo.behaviour import REPLY_TOKENS, Array, Cell
from undertow.studies.demo.kinds import FitPrompts

if TYPE_CHECKING:
    from undertow.guard import LatentGuard
    from undertow.guard.generation import GuardedReply
    from undertow.model import Add

MOST = 100
"""Most prompts that are steered or guarded for one figure."""

DEVELOPMENT = 24
"""Prompts of the training split on which the strength of steering is found."""

OPENING_TOKENS = 12
"""Tokens of a steered reply that are judged."""


@dataclass(frozen=True)
class SteeredReply:
    """One prompt's reply under one edit.

    Attributes:
        edit: "as it is", "steered" or "random direction".
        reply: the opening of the reply.
        refused: whether it refuses.
        harmfulness: the guard's belief of harmfulness under the edit, relative to its threshold.
        refusal: its belief of refusal under the edit.
    """

    edit: str
    reply: str
    refused: bool
    harmfulness: float
    refusal: float | None


@dataclass(frozen=True)
class Example:
    """One prompt steered one way.

    Attributes:
        toward: "refusal" or "answer".
        kind: title of the prompt's kind.
        coefficient: how many times the direction was added.
        prompt: the prompt.
        replies: as it is, steered, and along a random direction of equal norm.
    """

    toward: str
    kind: str
    coefficient: float
    prompt: Prompt
    replies: tuple[SteeredReply, ...]


@dataclass(frozen=True)
class Rate:
    """How often something happened, with and without the real direction.

    Attributes:
        key: short name.
        title: what was counted, in words.
        hits: (n,) of bool.
        control: (n,) of bool, the same under the control.
        control_title: what the control was.
    """

    key: str
    title: str
    hits: Array
    control: Array
    control_title: str


@dataclass(frozen=True)
class Acting:
    """Everything that was done with the beliefs.

    Attributes:
        examples: one prompt each way.
        steering: rates of steering many prompts.
        guarded: rates of guarded generation.
        state: where was steered; None without a steering direction.
        coefficients: toward ("refusal", "answer") -> how many times the direction was added.
    """

    examples: tuple[Example, ...] = ()
    steering: tuple[Rate, ...] = ()
    guarded: tuple[Rate, ...] = ()
    state: int | None = None
    coefficients: Mapping[str, float] = field(default_factory=dict)


def act(guard: LatentGuard, training: FitPrompts, cells: Sequence[Cell], seed: int) -> Acting:
    """Steer and guard held-out prompts.

    Jailbroken prompts are harmful ones that the model answered; over-refused ones are harmless and were refused.
    """
    answered_harmless = _pick(cells, harmful=False, refused=False, look_alike=False)
    over_refused = _pick(cells, harmful=False, refused=True)
    jailbroken = _pick(cells, harmful=True, refused=False, wrapped=True)
    refused_harmful = _pick(cells, harmful=True, refused=True)
    guarded = [*_refusing(guard, jailbroken)]
    if guard.steering is None:
        return Acting(guarded=tuple(guarded))
    astray = _with_random_direction(guard, seed)
    guarded += _steering_policies(guard, astray, jailbroken, over_refused, refused_harmful)
    steering, examples, coefficients = [], [], {}
    for toward, title, development, chosen in (
        (
            "refusal",
            "answered harmless prompts refused once steered toward refusal",
            training.harmless,
            answered_harmless,
        ),
        (
            "answer",
            "refused harmless prompts answered once steered away from refusal",
            training.look_alike,
            over_refused,
        ),
    ):
        if not chosen:
            continue
        wanted = toward == "refusal"
        strength = _strength(guard, development[:DEVELOPMENT], toward)
        coefficients[toward] = strength
        hits, control = (_steered(one, chosen, toward, strength) == wanted for one in (guard, astray))
        steering.append(Rate(f"steered_to_{toward}", title, hits, control, "a random direction of equal norm"))
        examples.append(_example(guard, astray, toward, strength, chosen[0]))
    return Acting(tuple(examples), tuple(steering), tuple(guarded), guard.steering.state, coefficients)


def _pick(
    cells: Sequence[Cell],
    *,
    harmful: bool,
    refused: bool,
    wrapped: bool | None = None,
    look_alike: bool | None = None,
) -> list[Prompt]:
    """At most `MOST` prompts of one behaviour, the same number of every kind where there are enough."""
    wanted = [
        [prompt for prompt, hit in zip(cell.observed.prompts, cell.refused, strict=True) if bool(hit) is refused]
        for cell in cells
        if cell.kind.harmful is harmful
        and (wrapped is None or cell.kind.wrapped is wrapped)
        and (look_alike is None or cell.kind.look_alike is look_alike)
    ]
    found: list[Prompt] = []
    for rank in range(max(map(len, wanted), default=0)):
        found += [prompts[rank] for prompts in wanted if rank < len(prompts)]
    return found[:MOST]


def _refused(replies: Sequence[str]) -> Array:
    return np.array(SubstringJudge().refused(replies), dtype=bool)


def _edit(guard: LatentGuard, toward: str, coefficient: float) -> Add:
    assert guard.steering is not None
    steering = guard.steering
    refuse, release = (replace(strength, coefficient=coefficient) for strength in (steering.refuse, steering.release))
    [edit] = replace(steering, refuse=refuse, release=release).edits(toward)
    return edit


def _steered(guard: LatentGuard, prompts: Sequence[Prompt], toward: str, coefficient: float) -> Array:
    """(n,) of bool: which replies refuse while the guard's direction is added so many times."""
    with guard.model.edit(_edit(guard, toward, coefficient)):
        return _refused(guard.model.generate(list(prompts), max_new_tokens=OPENING_TOKENS, progress=False))


def _strength(guard: LatentGuard, development: Sequence[Prompt], toward: str) -> float:
    """The smallest coefficient that flips 90 % of some prompts of the training split, else the one that flips most."""
    shares = {}
    for coefficient in COEFFICIENTS:
        refused = _steered(guard, development, toward, coefficient)
        shares[coefficient] = float((refused == (toward == "refusal")).mean())
        if shares[coefficient] >= 0.9:
            break
    return max(shares, key=lambda coefficient: shares[coefficient])


def _with_random_direction(guard: LatentGuard, seed: int) -> LatentGuard:
    """The same guard with a random steering direction of equal norm."""
    import torch

    assert guard.steering is not None
    direction = Direction(torch.from_numpy(guard.steering.direction)[None], (guard.steering.state,), position="t_post")
    other = copy.copy(guard)
    other.steering = replace(guard.steering, direction=direction.random_like(seed).values[0].numpy())
    return other


def _example(guard: LatentGuard, astray: LatentGuard, toward: str, coefficient: float, prompt: Prompt) -> Example:
    replies = []
    edits = {"as it is": (), "steered": (_edit(guard, toward, coefficient),)}
    edits["random direction"] = (_edit(astray, toward, coefficient),)
    for name, chosen in edits.items():
        with guard.model.edit(*chosen):
            [reply] = guard.model.generate([prompt], max_new_tokens=REPLY_TOKENS, progress=False)
            verdict = guard(prompt)
        margin = verdict.harmfulness - verdict.threshold
        replies.append(SteeredReply(name, reply, bool(_refused([reply])[0]), margin, verdict.refusal))
    kind = "look-alike" if prompt.style == "look-alike" else "harmful" if prompt.harmful else "harmless"
    return Example(toward, kind, coefficient, prompt, tuple(replies))


def _replies(guard: LatentGuard, prompts: Sequence[Prompt], **policy: Any) -> list[GuardedReply]:
    return guard.generate(list(prompts), max_new_tokens=OPENING_TOKENS, progress=False, **policy)


def _refusing(guard: LatentGuard, jailbroken: Sequence[Prompt]) -> list[Rate]:
    if not jailbroken:
        return []
    replies = _replies(guard, jailbroken, on_harmful="refuse")
    return [
        Rate(
            "refuse_stops",
            "jailbroken prompts stopped by on_harmful='refuse'",
            np.array([reply.action == "refused" for reply in replies]),
            np.zeros(len(jailbroken), dtype=bool),
            "no guard: the model answered all of them",
        )
    ]


def _steering_policies(
    guard: LatentGuard,
    astray: LatentGuard,
    jailbroken: Sequence[Prompt],
    over_refused: Sequence[Prompt],
    refused_harmful: Sequence[Prompt],
) -> list[Rate]:
    found = []
    random = "a random direction of equal norm"
    for key, title, prompts, policy, wanted in (
        (
            "steer_stops",
            "jailbroken prompts refused under on_harmful='steer'",
            jailbroken,
            {"on_harmful": "steer"},
            True,
        ),
        (
            "release_answers",
            "over-refused harmless prompts answered under on_over_refusal='release'",
            over_refused,
            {"on_harmful": "flag", "on_over_refusal": "release"},
            False,
        ),
        (
            "release_lets_through",
            "refused harmful prompts answered under on_over_refusal='release', the price of it",
            refused_harmful,
            {"on_harmful": "flag", "on_over_refusal": "release"},
            False,
        ),
    ):
        if not prompts or ("on_over_refusal" in policy and guard.refusal is None):
            continue
        hits, control = (
            _refused([reply.text for reply in _replies(one, prompts, **policy)]) == wanted for one in (guard, astray)
        )
        found.append(Rate(key, title, hits, control, random))
    return found
