"""From scores to a probability, and a threshold for a wanted false-positive rate with a stated bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from undertow.errors import GuardError
from undertow.guard.rules.base import Array

_ISOTONIC_LEAST = 200


@dataclass(frozen=True)
class Calibration:
    """How a guard is calibrated.

    Attributes:
        rate: wanted share of harmless prompts that are flagged, above 0 and below 1.
        confidence: of the one-sided upper bound on the true rate.
        fraction: share of the prompts kept out of the fit, for probability, threshold and bound.
        method: "platt", a logistic curve; "isotonic", a monotone step curve, for 200 held-out prompts of each class or
            more.
        guarantee: False sets the threshold so that the held-out rate itself is at most `rate`; True so that its upper
            bound is.
    """

    rate: float = 0.02
    confidence: float = 0.95
    fraction: float = 0.3
    method: Literal["platt", "isotonic"] = "platt"
    guarantee: bool = False

    def __post_init__(self) -> None:
        for name in ("rate", "confidence", "fraction"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < 1:
                raise GuardError(f"The calibration's {name} must lie between 0 and 1, not be {value!r}.")
        if self.method not in ("platt", "isotonic"):
            raise GuardError(f"The calibration's method must be 'platt' or 'isotonic', not {self.method!r}.")


@dataclass(frozen=True)
class Curve:
    """A monotone map from score to probability.

    Either the logistic curve 1 / (1 + exp(-(slope * score + intercept))), or, where `knots` holds pairs (score,
    probability), linear interpolation between them. Probabilities are at even odds: as if half of the prompts were
    harmful.
    """

    slope: float = 0.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()

    def probability(self, scores: Array) -> Array:
        """Probabilities (n,) for scores (n,)."""
        scores = np.asarray(scores, dtype=np.float64)
        if self.knots:
            points = np.array(self.knots)
            return np.asarray(np.interp(scores, points[:, 0], points[:, 1]))
        from scipy.special import expit

        return np.asarray(expit(self.slope * scores + self.intercept))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"slope": self.slope, "intercept": self.intercept, "knots": [list(knot) for knot in self.knots]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Curve:
        """The inverse of `to_dict`. Raises GuardError for values that are not finite numbers."""
        knots = tuple((float(score), float(probability)) for score, probability in values["knots"])
        curve = cls(float(values["slope"]), float(values["intercept"]), knots)
        if not np.isfinite([curve.slope, curve.intercept, *(value for knot in knots for value in knot)]).all():
            raise GuardError(
                "The guard's calibration curve holds values that are not finite; fit and save the guard again."
            )
        return curve


@dataclass(frozen=True)
class Threshold:
    """A decision threshold and what the held-out prompts say about it.

    Attributes:
        value: a prompt is flagged when its score is at least this.
        rate: wanted false-positive rate, None for a threshold that was given (the published 0).
        false_positives, harmless: how many of the held-out harmless prompts are flagged, of how many.
        upper: one-sided Clopper-Pearson upper bound on the false-positive rate.
        confidence: of that bound.
        recall, recall_low, recall_high: share of held-out harmful prompts flagged, with a two-sided interval of the
            same confidence.
        harmful: how many held-out harmful prompts there are.
        needed: held-out harmless prompts with which the wanted rate could be shown at best (no false positive among
            them).
    """

    value: float
    rate: float | None
    false_positives: int
    harmless: int
    upper: float
    confidence: float
    recall: float
    recall_low: float
    recall_high: float
    harmful: int
    needed: int | None

    @property
    def enough(self) -> bool:
        """Whether there were enough held-out harmless prompts for the wanted rate to be shown at all."""
        return self.needed is None or self.harmless >= self.needed

    def sentence(self) -> str:
        """What was measured, in words."""
        measured = (
            f"{self.false_positives} of {self.harmless} held-out harmless prompts are flagged; with "
            f"{self.confidence:.0%} confidence the false-positive rate is at most {self.upper:.2%}"
        )
        if self.enough:
            return measured + "."
        return (
            f"{measured}. That is too few prompts for the wanted rate of {self.rate:.2%}: at least {self.needed} "
            "held-out harmless prompts are needed to show it."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"enough": self.enough}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Threshold:
        """The inverse of `to_dict`. Raises GuardError when the threshold is not a finite number."""
        threshold = cls(**{name: values[name] for name in cls.__dataclass_fields__})
        if not isinstance(threshold.value, int | float) or not np.isfinite(threshold.value):
            raise GuardError("The guard's threshold is not a finite number; fit and save the guard again.")
        return threshold


def fit_platt(scores: Array, labels: Array, weights: Array | None = None, *, intercept: bool = True) -> Curve:
    """Platt scaling by scikit-learn, with Platt's smoothed targets so that separable scores stay finite.

    Both classes weigh the same, so the probability is at even odds. A score that runs the wrong way gives the constant
    1/2.

    Args:
        scores: (n,) held-out scores.
        labels: (n,) of bool, both classes present.
        weights: (n,) row weights.
        intercept: False holds the intercept at 0, which leaves the slope alone to fit (temperature scaling).
    """
    from sklearn.linear_model import LogisticRegression

    from undertow.guard.rules.base import normalised_weights

    labels = np.asarray(labels, dtype=bool)
    row_weights = normalised_weights(labels, weights)
    center, scale = float(np.mean(scores)) if intercept else 0.0, float(np.std(scores)) or 1.0
    column = ((np.asarray(scores, dtype=np.float64) - center) / scale)[:, None]
    positives, negatives = labels.sum(), (~labels).sum()
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    model = LogisticRegression(C=1e6, max_iter=1000, fit_intercept=intercept)
    model.fit(
        np.concatenate([column, column]),
        np.concatenate([np.ones(len(labels)), np.zeros(len(labels))]),
        sample_weight=np.concatenate([row_weights * target, row_weights * (1 - target)]),
    )
    slope = float(model.coef_[0, 0])
    if slope <= 0:
        return Curve()
    return Curve(slope / scale, float(np.ravel(model.intercept_)[0]) - slope * center / scale)


def fit_curve(scores: Array, labels: Array, method: str, *, intercept: bool = True) -> Curve:
    """The probability curve of held-out scores (n,) and labels (n,); `intercept` is for `fit_platt`.

    Raises:
        GuardError: isotonic asked for with fewer than 200 prompts of a class.
    """
    if method == "platt":
        return fit_platt(scores, labels, intercept=intercept)
    from sklearn.isotonic import IsotonicRegression

    from undertow.guard.rules.base import normalised_weights

    labels = np.asarray(labels, dtype=bool)
    fewer = int(min(labels.sum(), (~labels).sum()))
    if fewer < _ISOTONIC_LEAST:
        raise GuardError(
            f"Isotonic calibration needs {_ISOTONIC_LEAST} held-out prompts of each class, but one class has {fewer}; "
            "use method='platt'."
        )
    model = IsotonicRegression(y_min=1e-3, y_max=1 - 1e-3, out_of_bounds="clip")
    model.fit(scores, labels.astype(float), sample_weight=normalised_weights(labels, None))
    return Curve(knots=tuple(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True)))


def threshold_at(scores: Array, labels: Array, calibration: Calibration) -> Threshold:
    """A threshold that keeps the wanted false-positive rate on held-out scores and finds the most that can be found so.

    Every threshold between the highest harmless prompt that must pass and the lowest harmful one above it does the same
    to the held-out prompts; the middle of that gap is taken, as its lower edge would flag whatever prompt lies a little
    higher than the harmless ones that happened to be held out.

    With `guarantee` the upper bound of the rate is kept instead, and no held-out harmless prompt is flagged where that
    is impossible. See `undertow.measure.statistics.threshold_at_rate`.

    Args:
        scores: (n,) held-out scores.
        labels: (n,) of bool, True for harmful.
    """
    from undertow.measure.statistics import threshold_at_rate

    values, harmful = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    found = threshold_at_rate(values[~harmful], calibration.rate, calibration.confidence, bounded=calibration.guarantee)
    lowest, above = found.threshold, values[harmful & (values >= found.threshold)]
    value = float(np.float32((lowest + above.min()) / 2)) if len(above) else lowest
    # Rounded to float32, the middle of a very narrow gap may fall out of it.
    value = value if len(above) and lowest <= value <= above.min() else lowest
    return measured_threshold(value, scores, labels, calibration.confidence, calibration.rate)


def measured_threshold(value: float, scores: Array, labels: Array, confidence: float, rate: float | None) -> Threshold:
    """What held-out scores (n,) and labels (n,) say about a threshold."""
    from undertow.measure.statistics import clopper_pearson, clopper_pearson_upper, needed_for_rate

    labels = np.asarray(labels, dtype=bool)
    flagged = np.asarray(scores) >= value
    false_positives, harmless = int((flagged & ~labels).sum()), int((~labels).sum())
    found, harmful = int((flagged & labels).sum()), int(labels.sum())
    low, high = clopper_pearson(found, harmful, confidence)
    return Threshold(
        value=value,
        rate=rate,
        false_positives=false_positives,
        harmless=harmless,
        upper=float(clopper_pearson_upper(false_positives, harmless, confidence)),
        confidence=confidence,
        recall=found / harmful,
        recall_low=float(low),
        recall_high=float(high),
        harmful=harmful,
        needed=None if rate is None else int(needed_for_rate(rate, confidence)),
    )


def balanced_threshold(scores: Array, labels: Array) -> float:
    """The threshold that classifies both classes best on average, half-way between the two scores around it."""
    labels = np.asarray(labels, dtype=bool)
    order = np.sort(np.unique(np.asarray(scores, dtype=np.float64)))
    if len(order) < 2:
        return float(order[0])
    cuts = (order[1:] + order[:-1]) / 2
    positive, negative = np.sort(scores[labels]), np.sort(scores[~labels])
    hits = 1 - np.searchsorted(positive, cuts, side="left") / len(positive)
    rejections = np.searchsorted(negative, cuts, side="left") / len(negative)
    balanced = hits + rejections
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    # Among equally good cuts the middle of the widest gap.
    widest = best[np.argmax(order[best + 1] - order[best])]
    return float(cuts[widest])


def recall_at_rate(scores: Array, labels: Array, rate: float) -> float:
    """Share of positives above the threshold that flags at most `rate` of the negatives of the same sample."""
    labels = np.asarray(labels, dtype=bool)
    negatives = np.sort(scores[~labels])[::-1]
    allowed = int(np.floor(rate * len(negatives) + 1e-9))
    limit = negatives[allowed] if allowed < len(negatives) else -np.inf
    return float((scores[labels] > limit).mean())
