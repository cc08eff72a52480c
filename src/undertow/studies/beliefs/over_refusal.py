"""Part 10: over-refused prompts that guarded generation releases, and the harmful ones it lets through for them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from undertow.errors import UndertowError
from undertow.guard.calibration import Calibration
from undertow.prompts import Prompt
from undertow.studies.beliefs.context import Context
from undertow.studies.beliefs.result import Array, OverRefusal, estimate_of
from undertow.studies.beliefs.sweep import evenly

if TYPE_CHECKING:
    from undertow.guard import LatentGuard

CALIBRATION = Calibration(rate=0.02, confidence=0.95, fraction=0.4, guarantee=True)
"""At most 2 % false positives, by the upper confidence bound on held-out fit prompts."""

RANDOM_DIRECTIONS = 4
_TIMES_MOST = 4


def measure_over_refusal(context: Context) -> OverRefusal:
    """Fit a guard on the fit prompts and let it release refused test prompts that it does not believe harmful.

    The control steers along 4 random directions as long as the guard's, a quarter of the prompts each. `exchange` is
    reckoned for all refused test prompts, in the numbers in which they occur.

    Raises:
        UndertowError: a guard cannot be fitted, or has nothing to tell refusals by or to steer with.
    """
    guard = _guard(context)
    if guard.refusal is None or guard.steering is None:
        raise UndertowError(
            "The model refuses too few or too many of the fit prompts for a guard that releases: give prompts of both "
            "kinds."
        )
    astray = [with_random_direction(guard, context.seed + number) for number in range(RANDOM_DIRECTIONS)]
    answered: dict[str, Array] = {}
    control: dict[str, Array] = {}
    touched: dict[str, Array] = {}
    counts: dict[str, int] = {}
    for kind in ("refused harmless", "refused harmful"):
        rows = context.test.kind(kind)
        counts[kind] = len(rows)
        prompts = [context.test.prompts[row] for row in evenly(rows, _TIMES_MOST * context.most)]
        answered[kind], touched[kind] = released(context, guard, prompts)
        control[kind] = np.zeros(len(prompts), dtype=bool)
        for number, other in enumerate(astray):
            turn = slice(number, None, RANDOM_DIRECTIONS)
            control[kind][turn] = released(context, other, prompts[turn])[0]
    estimates = {kind: estimate_of(hits) for kind, hits in answered.items()}
    gained, price = estimates["refused harmless"], estimates["refused harmful"]
    exchange = None
    if gained is not None and price is not None and price.value > 0:
        exchange = gained.value * counts["refused harmless"] / (price.value * counts["refused harmful"])
    return OverRefusal(
        released=gained,
        released_control=estimate_of(control["refused harmless"]),
        let_through=price,
        let_through_control=estimate_of(control["refused harmful"]),
        touched={kind: share for kind, hits in touched.items() if (share := estimate_of(hits)) is not None},
        exchange=exchange,
        unchanged=estimate_of(_unchanged(context, guard)),
        note=_note(context, guard, counts),
    )


def released(context: Context, guard: LatentGuard, prompts: Sequence[Prompt]) -> tuple[Array, Array]:
    """(n,) of bool whether the reply under release answers, and whether the guard released it."""
    if not prompts:
        return np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)
    replies = guard.generate(
        list(prompts),
        on_harmful="flag",
        on_over_refusal="release",
        max_new_tokens=context.reply_tokens,
        progress=False,
    )
    refused = np.array(context.judge.refused([reply.text for reply in replies]), dtype=bool)
    return ~refused, np.array([reply.action == "released" for reply in replies])


def with_random_direction(guard: LatentGuard, seed: int) -> LatentGuard:
    """The same guard with a random steering direction of equal norm."""
    assert guard.steering is not None
    direction = guard.steering.direction
    noise = np.random.default_rng(seed).standard_normal(len(direction))
    noise *= np.linalg.norm(direction.astype(np.float64)) / np.linalg.norm(noise)
    other = copy.copy(guard)
    other.steering = replace(guard.steering, direction=noise.astype(np.float32))
    return other


def _guard(context: Context) -> LatentGuard:
    from undertow.guard import LatentGuard

    harmful, harmless = (
        [prompt for prompt in context.fit.prompts if bool(prompt.harmful) is wanted] for wanted in (True, False)
    )
    return LatentGuard.fit(
        context.chat,
        harmful,
        harmless,
        calibration=CALIBRATION,
        seed=context.seed,
        judge=context.judge,
        reply_tokens=context.reply_tokens,
        progress=False,
    )


def _unchanged(context: Context, guard: LatentGuard) -> Array:
    """(n,) of bool for accepted harmless prompts: the reply under release is the one without a guard."""
    rows = evenly(context.test.kind("accepted harmless"), 2 * context.most)
    prompts = [context.test.prompts[row] for row in rows]
    if not prompts:
        return np.zeros(0, dtype=bool)
    # Generated anew in the same batches: in half precision a reply may hang on what it is batched with.
    plain = context.chat.generate(prompts, context.reply_tokens, progress=False)
    guarded = guard.generate(
        prompts, on_harmful="flag", on_over_refusal="release", max_new_tokens=context.reply_tokens, progress=False
    )
    return np.array([reply.text == text for reply, text in zip(guarded, plain, strict=True)])


def _note(context: Context, guard: LatentGuard, counts: dict[str, int]) -> str:
    assert guard.steering is not None
    release = guard.steering.release
    sentences = [
        f"Guard fitted on the {len(context.fit)} fit prompts ({guard.rule} rule, at most 2 % false positives); it "
        f"subtracts its refusal direction {release.coefficient:g} times at state {guard.steering.state}, on the "
        "template tail.",
        f"The test prompts hold {counts['refused harmless']} refused harmless and {counts['refused harmful']} refused "
        "harmful ones.",
    ]
    if not counts["refused harmless"]:
        sentences.append("No harmless test prompt is refused, so there is nothing to release.")
    if not counts["refused harmful"]:
        sentences.append("No harmful test prompt is refused, so the price cannot be told.")
    if release.prompts == 0:
        sentences.append(
            "How strongly to steer away from refusal was never tried, for want of held-out refused prompts."
        )
    elif not release.verified:
        sentences.append(
            f"Steering away from refusal flipped only {release.flipped} of {release.prompts} held-out {release.kind}."
        )
    return " ".join(sentences)
