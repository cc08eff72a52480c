"""The double dissociation in one number.

Add a direction d at one state, c times, or subtract it as often. On harmless prompts that the model answers,

    R_d(c) = half the difference, between adding and subtracting, of the mean refusal log-odds of the reply's first
             token (this model's own refusals against its answers), in nats;
    J_d(c) = the same of the log-odds of "Certainly" against "No", with the inversion question behind the prompts.

Log-odds, since probabilities saturate, and half the difference of both signs, since what any disturbance of that size
does to a model, whatever its direction, then cancels. With h for harmfulness and r for refusal the statistic is

    D = J_h(c_h) - J_r(c_r)    where    R_h(c_h) = R_r(c_r) = level.

The level is the shift that brings the mean prompt to even odds of being refused, or the peak of the weaker of the two
directions where that is less: the stronger mover of refusal is turned down until both move it equally. c_d is the
smallest coefficient at which R_d gets there, linearly between those tried. Where the weaker one hardly moves refusal at
all (by less than FLOOR), it is taken at full strength, and the other at the strength that moves refusal as little; D is
thus defined in every case.

The control puts random directions of the norm of harmfulness in its place, added as often (c_h), and turns refusal
steering to what they do to refusal, whichever way that is. The state of each direction is the one at which it moves
P(refusal) most on fit prompts; the judgement has no say in it. Harmfulness is added to the tokens of the request,
refusal to all tokens of the prompt, as in the release of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from undertow.errors import UndertowError
from undertow.measure.statistics import Estimate
from undertow.model import Add
from undertow.studies.beliefs.context import BARE, Context, evenly
from undertow.studies.beliefs.directions import harmfulness_direction, refusal_direction
from undertow.studies.beliefs.inversion import RESAMPLES, Asked, Tokens, first_tokens, swept_states
from undertow.studies.beliefs.result import Array, Dissociation, Path

if TYPE_CHECKING:
    from undertow.measure.direction import Direction

COEFFICIENTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
_BY_STATE = (0.0, 0.5, 1.0, 2.0)
_AROUND = (0.75, 1.0, 1.25)
_SCREENING = (1.0, 2.0, 4.0)
FLOOR = 0.25
RANDOM_DIRECTIONS = 8
DEVELOPMENT = 24
SPANS = {"harmfulness": "instruction", "refusal": "prompt", "random": "instruction"}


@dataclass(frozen=True)
class Effects:
    """What one direction does to every prompt as it is added more and more.

    Attributes:
        coefficients: ascending from 0.
        refusal: (coefficients, n) half the difference of the refusal log-odds on the bare prompts between adding and
            subtracting, in nats; 0 for the first.
        judgement: the same of the log-odds of "Certainly" against "No" on the inverted ones.
        unsteered: (n,) refusal log-odds of the bare prompts without steering.
    """

    coefficients: tuple[float, ...]
    refusal: Array
    judgement: Array
    unsteered: Array

    def curves(self, weights: Array) -> Curves:
        """R and J, and the boundary, under weights (n,) that sum to 1."""
        return Curves(
            self.coefficients, self.refusal @ weights, self.judgement @ weights, -float(self.unsteered @ weights)
        )


class Curves(NamedTuple):
    """R and J of the module's description.

    Attributes:
        coefficients: ascending from 0.
        refusal, judgement: (coefficients,), beginning with 0.
        boundary: the change of refusal that brings the mean prompt to even odds.
    """

    coefficients: tuple[float, ...]
    refusal: Array
    judgement: Array
    boundary: float

    def refused(self, coefficient: float) -> float:
        """R at a coefficient, linearly between those tried; R(-c) = -R(c)."""
        return self._at(coefficient, self.refusal)

    def judged(self, coefficient: float) -> float:
        """J at a coefficient, likewise."""
        return self._at(coefficient, self.judgement)

    def _at(self, coefficient: float, curve: Array) -> float:
        moved = float(np.interp(abs(coefficient), self.coefficients, curve))
        return moved if coefficient >= 0 else -moved


class Match(NamedTuple):
    """The coefficients at which two directions move refusal equally, and by how much that is."""

    first: float
    second: float
    level: float


def coefficient_at(curves: Curves, level: float) -> float:
    """The smallest coefficient at which R reaches a level, linearly in between; the largest tried where it never does.

    R(-c) = -R(c), so a negative level gives a negative coefficient.
    """
    if level < 0:
        return -coefficient_at(curves, -level)
    reached = np.flatnonzero(curves.refusal >= level)
    if not len(reached):
        return float(curves.coefficients[-1])
    place = int(reached[0])
    if place == 0:
        return float(curves.coefficients[0])
    before, after = float(curves.refusal[place - 1]), float(curves.refusal[place])
    start, end = curves.coefficients[place - 1 : place + 1]
    return float(start + (level - before) / (after - before) * (end - start))


def match(first: Curves, second: Curves) -> Match:
    """Where two directions move refusal equally, by the rule of the module's description."""
    peaks = float(first.refusal.max()), float(second.refusal.max())
    level = min(*peaks, max(first.boundary, FLOOR))
    if level >= FLOOR:
        return Match(coefficient_at(first, level), coefficient_at(second, level), level)
    weaker, other = (first, second) if peaks[0] <= peaks[1] else (second, first)
    level = float(weaker.refusal[-1])
    full, turned_down = float(weaker.coefficients[-1]), coefficient_at(other, level)
    return Match(full, turned_down, level) if weaker is first else Match(turned_down, full, level)


def statistic(first: Curves, second: Curves) -> float:
    """D of the module's description."""
    found = match(first, second)
    return first.judged(found.first) - second.judged(found.second)


def control_statistic(random: Curves, second: Curves, coefficient: float) -> float:
    """D with a random direction, added so many times, and the second direction turned to its effect on refusal."""
    turned = coefficient_at(second, random.refused(coefficient))
    return random.judged(coefficient) - second.judged(turned)


def drawn_of(count: int) -> int:
    """How many of so many random directions a resample draws, with replacement.

    Fewer than all: drawing all of a few gives too narrow an interval for their mean. So many make it as wide as
    Student's t does.
    """
    from scipy import stats

    if count < 3:
        return 1
    shrink = stats.norm.ppf(0.975) / stats.t.ppf(0.975, count - 1)
    return max(round((count - 1) * shrink**2), 1)


def estimate_dissociation(
    harmfulness: Effects, refusal: Effects, randoms: Sequence[Effects], seed: int
) -> tuple[Estimate, Estimate]:
    """D and its control with 95 % percentile bootstrap intervals over prompts, matching anew in every resample.

    Args:
        harmfulness, refusal: the two directions, on the same prompts.
        randoms: random directions on these prompts; they are resampled too (`drawn_of`), the control being their mean.
        seed: of the resampling.
    """
    n = refusal.refusal.shape[1]
    generator = np.random.default_rng(seed)

    def values(weights: Array, chosen: Sequence[int]) -> tuple[float, float]:
        first, second = harmfulness.curves(weights), refusal.curves(weights)
        coefficient = match(first, second).first
        astray = [control_statistic(randoms[i].curves(weights), second, coefficient) for i in chosen]
        return statistic(first, second), float(np.mean(astray))

    whole = values(np.full(n, 1 / n), range(len(randoms)))
    count = drawn_of(len(randoms))
    draws = np.array(
        [
            values(
                generator.multinomial(n, np.full(n, 1 / n)) / n,
                generator.integers(0, len(randoms), count).tolist(),
            )
            for _ in range(RESAMPLES)
        ]
    )
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    found = [Estimate(whole[place], float(low[place]), float(high[place]), n) for place in range(2)]
    return found[0], found[1]


def measure_dissociation(context: Context, tokens: Tokens) -> Dissociation | None:
    """Measure D on harmless test prompts that the model answers; None where refusals have no first token of their own.

    Raises:
        UndertowError: too few harmless prompts are answered.
        PositionError: the chat template rewrites the question.
    """
    if context.openings is None:
        return None
    chat = context.chat
    listed = {
        name: [panel.prompts[row] for row in evenly(panel.rows(harmful=False, refused=False, family=BARE), most)]
        for name, panel, most in (
            ("fit", context.fit, min(DEVELOPMENT, context.most)),
            ("test", context.test, context.most),
        )
    }
    if min(map(len, listed.values())) < 2:
        raise UndertowError("The double dissociation needs harmless prompts that the model answers in both halves.")
    development, test = Asked.of(chat, listed["fit"]), Asked.of(chat, listed["test"])
    directions = {"harmfulness": harmfulness_direction(context.fit), "refusal": refusal_direction(context.fit)}
    states = swept_states(chat.layers)
    chosen = {
        name: _strongest(context, development, tokens, direction, SPANS[name], states)
        for name, direction in directions.items()
    }
    effects = {
        name: _effects(context, test, tokens, direction, SPANS[name], chosen[name], COEFFICIENTS)
        for name, direction in directions.items()
    }
    n = len(test.bare)
    even = np.full(n, 1 / n)
    curves = {name: found.curves(even) for name, found in effects.items()}
    found = match(curves["harmfulness"], curves["refusal"])
    around = (0.0, *(share * abs(found.first) for share in _AROUND))
    astray = [
        _effects(
            context,
            test,
            tokens,
            directions["harmfulness"].random_like(context.seed + 1 + number),
            SPANS["random"],
            chosen["harmfulness"],
            around,
        )
        for number in range(RANDOM_DIRECTIONS)
    ]
    value, control = estimate_dissociation(effects["harmfulness"], effects["refusal"], astray, context.seed)
    curves["random"] = Curves(
        around,
        np.mean([one.refusal @ even for one in astray], axis=0),
        np.mean([one.judgement @ even for one in astray], axis=0),
        curves["harmfulness"].boundary,
    )
    chosen["random"] = chosen["harmfulness"]
    matched = {"harmfulness": found.first, "refusal": found.second, "random": found.first}
    paths = tuple(
        Path(name, SPANS[name], chosen[name], one.coefficients, one.refusal, one.judgement, matched[name])
        for name, one in curves.items()
    )
    return Dissociation(value, control, found.level, paths, _by_state(context, test, tokens, directions, states))


def _strongest(
    context: Context, questions: Asked, tokens: Tokens, direction: Direction, span: str, states: Sequence[int]
) -> int:
    """The state at which a direction moves P(refusal) most on these prompts, averaged over the coefficients."""
    reached = [
        np.mean(
            [
                first_tokens(
                    context.chat, questions.bare, tokens, [Add(direction, coefficient, state=state, span=span)]
                )[2].mean()
                for coefficient in _SCREENING
            ]
        )
        for state in states
    ]
    return states[int(np.argmax(reached))]


def _effects(
    context: Context,
    questions: Asked,
    tokens: Tokens,
    direction: Direction,
    span: str,
    state: int,
    coefficients: Sequence[float],
) -> Effects:
    """The direction added to and subtracted from bare and inverted prompts, so many times each."""
    openings = context.openings
    assert openings is not None

    def odds(coefficient: float) -> tuple[Array, Array]:
        bare, inverted = (
            [Add(direction, coefficient, state=state, span=where)] if coefficient else []
            for where in (span, questions.spans[span])
        )
        with context.chat.edit(*bare):
            refusal = openings.scores(context.chat.logits(questions.bare)).double().numpy()
        with context.chat.edit(*inverted):
            found = context.chat.logits(questions.inverted).double()
        judgement = found[:, list(tokens.yes)].logsumexp(1) - found[:, list(tokens.no)].logsumexp(1)
        return refusal, judgement.numpy()

    unsteered = odds(0.0)
    moved = [np.zeros((2, len(questions.bare)))]
    for coefficient in coefficients[1:]:
        added, subtracted = odds(coefficient), odds(-coefficient)
        moved.append(np.array([(more - less) / 2 for more, less in zip(added, subtracted, strict=True)]))
    refusal, judgement = np.stack(moved, axis=1)
    return Effects(tuple(coefficients), refusal, judgement, unsteered[0])


def _by_state(
    context: Context, questions: Asked, tokens: Tokens, directions: Mapping[str, Direction], states: Sequence[int]
) -> Array:
    """(states,) D with both directions at the same state, on fewer prompts and coefficients."""
    n = max(context.most // 2, 2)
    spans = {"instruction": questions.spans["instruction"][:n], "prompt": "prompt"}
    few = Asked(questions.bare[:n], questions.inverted[:n], spans)
    weights = np.full(len(few.bare), 1 / len(few.bare))
    found = []
    for state in states:
        first, second = (
            _effects(context, few, tokens, directions[name], SPANS[name], state, _BY_STATE).curves(weights)
            for name in ("harmfulness", "refusal")
        )
        found.append(statistic(first, second))
    return np.array(found)
