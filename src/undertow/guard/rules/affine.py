"""Rules whose score is the average over states of an affine function of the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from undertow.guard.rules.base import Array, Rule, checked_tensors

AffineType = TypeVar("AffineType", bound="AffineRule")


class AffineRule(Rule):
    """Score = mean over states s of (h_s - center_s) . weight_s + bias_s.

    The standardisation that a rule was fitted with is folded into center and weight, so scoring is one product a
    state. The center is kept apart from the bias because states with massive activations would lose digits in a folded
    bias.

    Args:
        states: the S states read.
        center: (S, d).
        weight: (S, d).
        bias: (S,).
        chosen: the settings it was fitted with, for the record.
    """

    def __init__(
        self, states: Sequence[int], center: Array, weight: Array, bias: Array, chosen: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(states)
        self.center = np.asarray(center, dtype=np.float32)
        self.weight = np.asarray(weight, dtype=np.float32)
        self.bias = np.asarray(bias, dtype=np.float32)
        self._chosen = dict(chosen or {})
        # Prompts that are being served are scored one at a time, where converting would cost more than the product.
        self._wide = tuple(array.astype(np.float64) for array in (self.center, self.weight, self.bias))

    @property
    def width(self) -> int:
        return int(self.center.shape[1])

    def score_block(self, features: Array) -> Array:
        center, weight, bias = self._wide
        products = np.einsum("nsd,sd->ns", features - center, weight)
        if len(bias) == 1:
            return np.asarray(products[:, 0] + bias[0])
        return np.asarray((products + bias).mean(axis=1))

    def tensors(self) -> dict[str, Array]:
        return {"center": self.center, "weight": self.weight, "bias": self.bias}

    def settings(self) -> dict[str, Any]:
        return dict(self._chosen)

    @classmethod
    def from_tensors(
        cls: type[AffineType], tensors: Mapping[str, Array], states: Sequence[int], settings: Mapping[str, Any]
    ) -> AffineType:
        arrays = checked_tensors(cls.name, tensors, states, {"center": 2, "weight": 2, "bias": 1})
        return cls(states, arrays["center"], arrays["weight"], arrays["bias"], settings)


def moments(features: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted mean and standard deviation (d,) of rows (n, d); a dimension that never varies gets the deviation 1."""
    share = weights / weights.sum()
    mean = share @ features
    variance = share @ np.square(features - mean)
    deviation = np.sqrt(variance)
    deviation[deviation <= 1e-12 * max(1.0, float(np.abs(mean).max(initial=0.0)))] = 1.0
    return mean, deviation
