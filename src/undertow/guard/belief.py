"""One belief: a fitted rule at one position, its threshold and its probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from undertow.errors import GuardError
from undertow.guard.calibration import Curve, Threshold
from undertow.guard.rules.base import Array, Rule, rule_named

BeliefName = Literal["harmfulness", "refusal"]


@dataclass(frozen=True)
class Belief:
    """A rule, where it reads, and how its score is understood.

    Attributes:
        name: "harmfulness" or "refusal".
        position: "t_inst" or "t_post".
        rule: the fitted rule; its states are those that must be captured.
        curve: score to probability.
        threshold: score from which the belief holds, with held-out figures.
        reason: one sentence on why this rule and these states.
        table: the cross-validated figures of every candidate.
    """

    name: BeliefName
    position: str
    rule: Rule
    curve: Curve
    threshold: Threshold
    reason: str
    table: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    def score(self, values: Array, states: Sequence[int]) -> Array:
        """Scores (n,) float64 of captured states (n, S, d) whose second axis holds `states`.

        A prompt with any state that is not finite scores NaN: it must not be judged.

        Raises:
            GuardError: a state that the rule reads is not among them, or the width differs.
        """
        missing = [state for state in self.rule.states if state not in states]
        if missing:
            raise GuardError(
                f"The {self.name} belief reads state {missing[0]}, which was not captured; capture guard.states."
            )
        where = [list(states).index(state) for state in self.rule.states]
        first, last = where[0], where[-1]
        # A view where that is possible: for one prompt, copying takes longer than scoring.
        adjacent = where == list(range(first, last + 1))
        selected = values[:, first : last + 1] if adjacent else values[:, where]
        scores = self.rule.score(selected)
        # The sum, in double precision, is finite only where all values are; opposite infinities are no news here.
        with np.errstate(invalid="ignore", over="ignore"):
            total = selected.sum(dtype=np.float64)
        if not np.isfinite(total):
            scores[~np.isfinite(selected).all(axis=(1, 2))] = np.nan
        return scores

    def tensors(self) -> dict[str, Array]:
        """The rule's arrays, named after the belief."""
        return {f"{self.name}.{name}": array for name, array in self.rule.tensors().items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as plain values for JSON."""
        return {
            "rule": self.rule.name,
            "position": self.position,
            "states": list(self.rule.states),
            "settings": self.rule.settings(),
            "threshold": self.threshold.to_dict(),
            "probability": self.curve.to_dict(),
            "reason": self.reason,
            "cross_validation": [dict(line) for line in self.table],
        }

    @classmethod
    def from_dict(cls, name: BeliefName, values: Mapping[str, Any], tensors: Mapping[str, Array]) -> Belief:
        """The inverse of `to_dict` and `tensors`.

        Raises:
            GuardError: an array is missing, misshapen or not finite, or the rule is unknown.
            KeyError, TypeError, ValueError: a value is missing or of the wrong kind.
        """
        states = [int(state) for state in values["states"]]
        if not states or states != sorted(set(states)) or states[0] < 0:
            raise GuardError(
                f"The states of the guard's {name} belief are not an ascending list; fit and save the guard again."
            )
        own = {key.removeprefix(f"{name}."): array for key, array in tensors.items() if key.startswith(f"{name}.")}
        return cls(
            name=name,
            position=str(values["position"]),
            rule=rule_named(values["rule"]).from_tensors(own, states, values["settings"]),
            curve=Curve.from_dict(values["probability"]),
            threshold=Threshold.from_dict(values["threshold"]),
            reason=str(values["reason"]),
            table=tuple(values["cross_validation"]),
        )
