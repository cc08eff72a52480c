"""Training-free prototypes: Mahalanobis distance to two class means under one shrinkage covariance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from undertow.guard.rules.affine import AffineRule, moments
from undertow.guard.rules.base import Array, normalised_weights, register_rule


@register_rule
class PrototypeRule(AffineRule):
    """Half of D(h, mu_harmless) - D(h, mu_harmful), D the squared Mahalanobis distance, averaged over its states.

    Latent Prototype Moderator (arXiv 2502.16174) with one covariance shared by both classes, of the residuals from the
    class means of standardised features, shrunk by the formula of Ledoit and Wolf (2004). With a shared covariance the
    difference is affine: (h - (mu_1 + mu_0) / 2) . Sigma^-1 (mu_1 - mu_0), the log-likelihood ratio of two Gaussians.

    Cost: no inverse is formed. With n rows in d dimensions one symmetric system of size min(n, d) is solved a state,
    for n < d through the Gram matrix of the rows (Woodbury): d = 4096 with n = 100 costs a 100 x 100 system.
    """

    name: ClassVar[str] = "prototype"

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
    ) -> PrototypeRule:
        labels = np.asarray(labels, dtype=bool)
        row_weights = normalised_weights(labels, weights)
        centers, directions = [], []
        for index in range(features.shape[1]):
            block = np.asarray(features[:, index], dtype=np.float64)
            mean, deviation = (
                moments(block, row_weights) if standardise else (np.zeros(block.shape[1]), np.ones(block.shape[1]))
            )
            center, direction = _discriminant(
                (block - mean) / deviation, labels, row_weights, dimension or block.shape[1]
            )
            centers.append(mean + deviation * center)
            directions.append(direction / deviation)
        return cls(states, np.stack(centers), np.stack(directions), np.zeros(len(centers)), settings)


def ledoit_wolf(rows: Array, dimension: int) -> tuple[float, float]:
    """Shrinkage intensity and target of the Ledoit-Wolf covariance of centred rows.

    sklearn's `ledoit_wolf_shrinkage(rows, assume_centered=True)`, but through whichever of the two Gram matrices is
    smaller, and for rows that a rotation has brought from `dimension` into fewer dimensions (trace and Frobenius norm
    do not change by it).

    Args:
        rows: (n, k), centred.
        dimension: d >= k, the dimension that the covariance is meant in.

    Returns:
        (shrinkage in [0, 1], mean variance a dimension), the covariance being (1 - shrinkage) S + shrinkage * variance
        * I.
    """
    count = len(rows)
    gram = rows @ rows.T if count < rows.shape[1] else rows.T @ rows
    squares = np.einsum("nd,nd->n", rows, rows)
    trace = squares.sum() / count
    frobenius = float(np.square(gram).sum()) / count**2
    variance = trace / dimension
    spread = max(frobenius - variance * trace, 0.0) / dimension
    noise = min((np.square(squares).sum() / count - frobenius) / (dimension * count), spread)
    shrinkage = 0.0 if noise <= 0 or spread == 0 else float(noise / spread)
    return min(shrinkage, 1.0), float(variance)


def _discriminant(rows: Array, labels: Array, weights: Array, dimension: int) -> tuple[Array, Array]:
    """Midpoint of the class means and Sigma^-1 (mu_1 - mu_0), both (d,)."""
    means = {}
    residuals = np.empty_like(rows)
    for side in (True, False):
        members = labels == side
        means[side] = (weights[members] / weights[members].sum()) @ rows[members]
        residuals[members] = rows[members] - means[side]
    residuals *= np.sqrt(weights * (len(weights) / weights.sum()))[:, None]
    shrinkage, variance = ledoit_wolf(residuals, dimension)
    count = len(rows)
    # Sigma = scale * R'R + ridge * I. A floor on the ridge keeps the system solvable where rows hardly vary.
    ridge = shrinkage * variance + 1e-6 * max(variance, 1e-12)
    scale = (1 - shrinkage) / count
    difference = means[True] - means[False]
    if count < rows.shape[1]:
        inner = residuals @ residuals.T * scale
        inner[np.diag_indices_from(inner)] += ridge
        correction = residuals.T @ cho_solve(cho_factor(inner), residuals @ difference) * scale
        solution = (difference - correction) / ridge
    else:
        covariance = residuals.T @ residuals * scale
        covariance[np.diag_indices_from(covariance)] += ridge
        solution = cho_solve(cho_factor(covariance), difference)
    return (means[True] + means[False]) / 2, solution
