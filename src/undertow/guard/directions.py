"""Where the two sides of each belief lie at every state: what an inspector reads along, and what exports steer with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from undertow.errors import GuardError
from undertow.guard.rules.base import Array

if TYPE_CHECKING:
    from undertow.measure.direction import Direction

Name = Literal["harmfulness", "refusal"]
POSITIONS = {"harmfulness": "t_inst", "refusal": "t_post"}
LEAST_SEPARATION = 1.0
"""Distance of two means, in standard deviations along it, from which a state is read."""

_LEAST = 4


@dataclass(frozen=True, eq=False)
class BeliefDirections:
    """Mean states of the two sides of a belief, at every state of the model (arXiv 2507.11878, section 3).

    Unlike the guard's rules these are not chosen for accuracy; verdicts do not depend on them.

    Attributes:
        harmfulness: (2, L + 1, d) float32 at t_inst: mean of the harmless fit prompts, then of the harmful ones.
        refusal: (2, L + 1, d) float32 at t_post: mean of the answered fit prompts, then of the refused ones, harmful
            and harmless prompts weighing the same where both kinds occur on both sides; None where the model refuses
            too few or too many.
        counts: how many prompts stand behind each side.
        separations: name -> (L + 1,), the distance of the means over the pooled standard deviation along it.
    """

    harmfulness: Array = field(repr=False)
    refusal: Array | None = field(repr=False)
    counts: Mapping[str, tuple[int, int]]
    separations: Mapping[str, tuple[float, ...]]

    @property
    def names(self) -> tuple[Name, ...]:
        """The beliefs that have directions."""
        return ("harmfulness",) if self.refusal is None else ("harmfulness", "refusal")

    @property
    def states(self) -> tuple[int, ...]:
        """0 to L."""
        return tuple(range(self.harmfulness.shape[1]))

    def means(self, name: Name) -> Array:
        """(2, L + 1, d) of one belief.

        Raises:
            GuardError: the guard has no directions of this belief.
        """
        if name not in self.names:
            raise GuardError(f"This guard has no {name} directions; fit it on prompts of which the model refuses some.")
        return self.harmfulness if name == "harmfulness" or self.refusal is None else self.refusal

    def difference(self, name: Name, state: int | None = None) -> Array:
        """Mean of the one side minus mean of the other, not normalised: (d) at a state, (L + 1, d) at all."""
        low, high = self.means(name)
        return np.asarray(high - low if state is None else high[state] - low[state])

    def read(self, name: Name, values: Array, states: Sequence[int] | None = None) -> Array:
        """Where states lie along a belief's direction: -1 at the one mean, +1 at the other, at every state.

        Args:
            name: the belief.
            values: (..., S, d), any float type.
            states: the S states that `values` holds; all when left out.

        Returns:
            (..., S) float64; NaN at states that hardly tell the sides apart (`separations` below 1), such as state 0.
        """
        chosen = list(self.states if states is None else states)
        low, high = self.means(name)[:, chosen].astype(np.float64)
        difference = high - low
        square = np.square(difference).sum(-1)
        along = np.einsum("...sd,sd->...s", np.asarray(values, dtype=np.float64) - (low + high) / 2, difference)
        telling = np.array(self.separations[name])[chosen] >= LEAST_SEPARATION
        return np.asarray(2 * along / np.where(telling, square, np.nan))

    def direction(self, name: Name, fingerprint: str | None = None) -> Direction:
        """The differences of one belief as a `Direction` over all states."""
        import torch

        from undertow.measure.direction import Direction

        return Direction(
            torch.from_numpy(np.ascontiguousarray(self.difference(name), dtype=np.float32)),
            self.states,
            name,
            POSITIONS[name],
            sum(self.counts[name]),
            fingerprint,
        )

    def tensors(self) -> dict[str, Array]:
        """The arrays, named for a guard's file."""
        return {f"directions.{name}": self.means(name) for name in self.names}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as plain values for JSON."""
        return {
            "counts": {name: list(counts) for name, counts in self.counts.items()},
            "separations": {name: list(values) for name, values in self.separations.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], tensors: Mapping[str, Array]) -> BeliefDirections:
        """The inverse of `to_dict` and `tensors`.

        Raises:
            GuardError: an array is missing or misshapen.
            KeyError, TypeError, ValueError: a value is missing or of the wrong kind.
        """
        counts = {str(name): (int(pair[0]), int(pair[1])) for name, pair in values["counts"].items()}
        found = {name: np.asarray(tensors[f"directions.{name}"], dtype=np.float32) for name in counts}
        shapes = {array.shape for array in found.values()}
        separations = {name: tuple(float(value) for value in values["separations"][name]) for name in counts}
        shape = next(iter(shapes), ())
        fitting = len(shapes) == 1 and len(shape) == 3 and shape[0] == 2
        if "harmfulness" not in found or not fitting or any(len(row) != shape[1] for row in separations.values()):
            raise GuardError("The guard's directions are misshapen; fit and save the guard again.")
        return cls(found["harmfulness"], found.get("refusal"), counts, separations)


def measure_directions(
    at_instruction: Array, harmful: Array, at_end: Array, refused: Array, kinds: Array
) -> BeliefDirections:
    """Directions from the states of fit prompts.

    Args:
        at_instruction: (n, L + 1, d), states at t_inst.
        harmful: (n,) of bool.
        at_end: (m, L + 1, d), states at t_post of the prompts whose behaviour is known; m may be 0.
        refused, kinds: (m,) of bool: whether the model refuses, and whether the prompt is harmful.

    Returns:
        `BeliefDirections`.
    """
    harmful, refused, kinds = (np.asarray(values, dtype=bool) for values in (harmful, refused, kinds))
    harmfulness = np.stack([_mean(at_instruction, ~harmful), _mean(at_instruction, harmful)])
    counts = {"harmfulness": (int((~harmful).sum()), int(harmful.sum()))}
    separations = {"harmfulness": _separation(at_instruction, harmfulness, harmful)}
    refusal = None
    if min(int(refused.sum()), int((~refused).sum())) >= _LEAST:
        cells = [(~refused & kind, refused & kind) for kind in (kinds, ~kinds)]
        full = [pair for pair in cells if min(int(side.sum()) for side in pair) >= _LEAST]
        pairs = full or [(~refused, refused)]
        refusal = np.stack([np.mean([_mean(at_end, pair[side]) for pair in pairs], axis=0) for side in (0, 1)])
        refusal = refusal.astype(np.float32)
        counts["refusal"] = (int((~refused).sum()), int(refused.sum()))
        separations["refusal"] = _separation(at_end, refusal, refused)
    return BeliefDirections(harmfulness, refusal, counts, separations)


# State by state, since a copy of all of them in double precision would be the most memory that a fit takes.


def _mean(values: Array, rows: Array) -> Array:
    means = [values[rows, state].mean(axis=0, dtype=np.float64) for state in range(values.shape[1])]
    return np.stack(means).astype(np.float32)


def _separation(values: Array, means: Array, side: Array) -> tuple[float, ...]:
    difference = (means[1] - means[0]).astype(np.float64)
    along = np.empty(values.shape[:2])
    for state in range(values.shape[1]):
        only = slice(state, state + 1)
        along[:, only] = np.einsum("nsd,sd->ns", values[:, only].astype(np.float64), difference[only])
    variance = (along[side].var(axis=0) + along[~side].var(axis=0)) / 2
    square = np.square(difference).sum(-1)
    return tuple(float(value) for value in square / np.sqrt(np.maximum(variance, 1e-30)))
