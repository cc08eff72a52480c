"""The published rule: which of two centroids a prompt's states point to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from undertow.guard.rules.base import Array, Rule, checked_tensors, register_rule
from undertow.measure.centroids import published_belief


@register_rule
class CentroidRule(Rule):
    """Mean over all states of cos(h, mu_harmful) - cos(h, mu_harmless); harmful from 0 on.

    Zhao et al., arXiv 2507.11878: s(l, h) = cos(h, mu_harmful(l)) - cos(h, mu_harmless(l)) at t_inst, with centroids
    of refused harmful and accepted harmless prompts, and the belief is the mean of s over every state. Nothing is
    standardised, weighted or trained, as in the release.

    Args:
        states: the S states read, all of the model's.
        positive, negative: (S, d) centroids.
    """

    name: ClassVar[str] = "centroid"
    reads_every_state: ClassVar[bool] = True

    def __init__(self, states: Sequence[int], positive: Array, negative: Array) -> None:
        super().__init__(states)
        self.positive = np.asarray(positive, dtype=np.float32)
        self.negative = np.asarray(negative, dtype=np.float32)

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
        **settings: Any,
    ) -> CentroidRule:
        """Two means a state. `weights`, `standardise` and `dimension` are ignored: the published rule has no such
        thing."""
        labels = np.asarray(labels, dtype=bool)
        positive = features[labels].mean(axis=0, dtype=np.float64)
        negative = features[~labels].mean(axis=0, dtype=np.float64)
        return cls(states, positive, negative)

    def score_block(self, features: Array) -> Array:
        belief = published_belief(
            torch.from_numpy(features), torch.from_numpy(self.positive), torch.from_numpy(self.negative)
        )
        return np.asarray(belief.numpy())

    def tensors(self) -> dict[str, Array]:
        return {"centroid_positive": self.positive, "centroid_negative": self.negative}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Array], states: Sequence[int], settings: Mapping[str, Any]
    ) -> CentroidRule:
        arrays = checked_tensors(cls.name, tensors, states, {"centroid_positive": 2, "centroid_negative": 2})
        return cls(states, arrays["centroid_positive"], arrays["centroid_negative"])
