"""A logistic probe on standardised states; several states by the average of their logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from undertow.guard.rules.affine import AffineRule, moments
from undertow.guard.rules.base import Array, normalised_weights, register_rule

_SMALL = 256


@register_rule
class LinearRule(AffineRule):
    """Log-odds of an L2-regularised logistic regression (scikit-learn) on standardised features, one probe a state.

    With several states the logits are averaged. Both classes weigh the same in the fit, whatever their sizes.
    `regularisation` is scikit-learn's C; `auto` and `rule="linear"` choose it, and the states, by cross-validation.
    """

    name: ClassVar[str] = "linear"
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"regularisation": value} for value in (0.0003, 0.003, 0.03, 0.3)
    )

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
        **settings: Any,
    ) -> LinearRule:
        labels = np.asarray(labels, dtype=bool)
        row_weights = normalised_weights(labels, weights)
        centers, directions, biases = [], [], []
        for index in range(features.shape[1]):
            block = np.asarray(features[:, index], dtype=np.float64)
            mean, deviation = (
                moments(block, row_weights) if standardise else (np.zeros(block.shape[1]), np.ones(block.shape[1]))
            )
            weight, bias = fit_logistic((block - mean) / deviation, labels, row_weights, regularisation)
            centers.append(mean)
            directions.append(weight / deviation)
            biases.append(bias)
        chosen = {"regularisation": regularisation}
        return cls(states, np.stack(centers), np.stack(directions), np.array(biases), chosen)


def fit_logistic(
    rows: Array,
    labels: Array,
    weights: Array,
    regularisation: float,
    *,
    intercept: bool = True,
    most_spanned: float = _SMALL,
    most_dense: int = _SMALL,
) -> tuple[Array, float]:
    """Weight (d,) and intercept of a logistic regression on rows (n, d).

    Args:
        intercept: False holds it at 0.
        most_spanned: rows up to which fewer rows than dimensions are solved in the span of the rows.
        most_dense: dimensions up to which Newton's method is used.
    """
    from sklearn.linear_model import LogisticRegression

    basis = None
    if len(rows) < rows.shape[1] and len(rows) <= most_spanned:
        # The solution lies in the span of the rows, so a few rows in many dimensions are solved in that span, exactly.
        left, lengths, basis = np.linalg.svd(rows, full_matrices=False)
        rows = left * lengths
    solver = "newton-cholesky" if rows.shape[1] <= most_dense else "lbfgs"
    probe = LogisticRegression(C=regularisation, solver=solver, tol=1e-6, max_iter=1000, fit_intercept=intercept)
    probe.fit(rows, labels, sample_weight=weights)
    weight = probe.coef_[0] if basis is None else probe.coef_[0] @ basis
    return weight, float(np.ravel(probe.intercept_)[0])
