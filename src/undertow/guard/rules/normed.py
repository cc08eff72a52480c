"""The linear probe on the normed state: what a stock sequence classifier computes, so a guard of it can be exported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from undertow.errors import GuardError
from undertow.guard.rules.affine import moments
from undertow.guard.rules.base import Array, Rule, checked_tensors, normalised_weights, register_rule
from undertow.guard.rules.linear import LinearRule, fit_logistic

if TYPE_CHECKING:
    from undertow.model import ChatModel

ROOT_MEAN_SQUARE, LAYER = "root mean square", "layer"
_ASKED = 1e-3
_DENSE = 1024


@register_rule
class NormedRule(Rule):
    """Log-odds of a logistic regression through the origin on one state after the model's final normalisation.

    Score = weight . n(h), where n(h) = h / sqrt(mean(h^2) + epsilon), or, for models with layer norms, (h - mean(h)) /
    sqrt(variance(h) + epsilon); the norm's own gains are left out. It is the `linear` rule (one state, the same
    scaling to unit deviation, regularisation and grid) but for one thing: heads of stock sequence classifiers have no
    intercept, so this has none. The normed state has a fixed length and a mean far from zero, which takes its
    place. State 0 is never chosen, as a classifier has at least one block. Not part of `auto`.

    Args:
        states: the one state read.
        weight: (1, d).
        settings: "norm" ("root mean square" or "layer"), "epsilon", and "regularisation" for the record.
    """

    name: ClassVar[str] = "normed"
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = LinearRule.grid
    in_auto: ClassVar[bool] = False
    single_state: ClassVar[bool] = True
    least_state: ClassVar[int] = 1
    has_intercept: ClassVar[bool] = False

    def __init__(self, states: Sequence[int], weight: Array, settings: Mapping[str, Any]) -> None:
        super().__init__(states)
        self.weight = np.asarray(weight, dtype=np.float32)
        self._settings = dict(settings)
        if len(self.states) != 1 or self.weight.shape[0] != 1:
            raise GuardError(f"The rule '{self.name}' reads one state, not {len(self.states)}.")
        _checked(self._settings.get("norm"), self._settings.get("epsilon"))

    @classmethod
    def settings_for(cls, model: ChatModel) -> dict[str, Any]:
        """Kind and epsilon of the model's final norm, read off its answers.

        Raises:
            GuardError: the model has no final norm.
            CoverageError: its norm is neither a layer norm nor a root-mean-square norm.
        """
        import torch

        from undertow.measure.attribution.norm import FrozenNorm

        if model.anatomy.final_norm is None:
            raise GuardError(f"The rule '{cls.name}' needs a model with a final norm, and none was found in this one.")
        norm = FrozenNorm(model.anatomy.final_norm, model.width)
        asked = torch.full((1, model.width), _ASKED)
        asked[:, 1::2] *= -1
        if model.width % 2:
            asked[:, -1] = 0
        epsilon = float(norm.scale(asked)) ** -2 - float(asked.double().square().mean())
        return {"norm": LAYER if norm.centres else ROOT_MEAN_SQUARE, "epsilon": float(f"{max(0.0, epsilon):.4g}")}

    @classmethod
    def view(cls, features: Array, *, norm: str = ROOT_MEAN_SQUARE, epsilon: float = 0.0, **settings: Any) -> Array:
        """Normed states (n, S, d) float32."""
        _checked(norm, epsilon)
        normed = np.empty(features.shape, dtype=np.float32)
        for index in range(features.shape[1]):
            normed[:, index] = _normed(np.asarray(features[:, index], dtype=np.float64), norm, epsilon)
        return normed

    @classmethod
    def fit(
        cls,
        features: Array,
        labels: Array,
        states: Sequence[int],
        *,
        weights: Array | None = None,
        standardise: bool = True,
        dimension: int | None = None,
        regularisation: float = 0.03,
        norm: str = ROOT_MEAN_SQUARE,
        epsilon: float = 0.0,
        **settings: Any,
    ) -> Rule:
        """Fit on raw states.

        With `standardise` off the rows have been normed, centred and rotated by the caller (cross-validation); the
        linear rule then stands in, whose intercept makes up for the centring.
        """
        if not standardise:
            return LinearRule.fit(
                features, labels, states, weights=weights, standardise=False, regularisation=regularisation
            )
        _checked(norm, epsilon)
        labels = np.asarray(labels, dtype=bool)
        row_weights = normalised_weights(labels, weights)
        block = _normed(np.asarray(features[:, 0], dtype=np.float64), norm, epsilon)
        _, deviation = moments(block, row_weights)
        weight, _ = fit_logistic(
            block / deviation,
            labels,
            row_weights,
            regularisation,
            intercept=False,
            most_spanned=math.inf,
            most_dense=_DENSE,
        )
        chosen = {"regularisation": regularisation, "norm": norm, "epsilon": epsilon}
        return cls(states, (weight / deviation)[None], chosen)

    def score_block(self, features: Array) -> Array:
        normed = _normed(features[:, 0], self._settings["norm"], self._settings["epsilon"])
        return np.asarray(normed @ self.weight[0].astype(np.float64))

    def tensors(self) -> dict[str, Array]:
        return {"weight": self.weight}

    def settings(self) -> dict[str, Any]:
        return dict(self._settings)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Array], states: Sequence[int], settings: Mapping[str, Any]
    ) -> NormedRule:
        return cls(states, checked_tensors(cls.name, tensors, states, {"weight": 2})["weight"], settings)


def _checked(norm: Any, epsilon: Any) -> None:
    if norm not in (ROOT_MEAN_SQUARE, LAYER):
        raise GuardError(f"The norm of the rule 'normed' is '{ROOT_MEAN_SQUARE}' or '{LAYER}', not {norm!r}.")
    if not isinstance(epsilon, int | float) or not 0 <= epsilon < float("inf"):
        raise GuardError(f"The epsilon of the rule 'normed' must be a number from 0 on, not {epsilon!r}.")


def _normed(rows: Array, norm: str, epsilon: float) -> Array:
    """Rows (n, d) float64 after the norm."""
    if norm == LAYER:
        rows = rows - rows.mean(axis=-1, keepdims=True)
    square = np.square(rows).mean(axis=-1, keepdims=True) + epsilon
    return np.asarray(rows / np.sqrt(np.maximum(square, np.finfo(np.float64).tiny)))
