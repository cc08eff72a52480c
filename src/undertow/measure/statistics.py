"""Intervals, bounds and thresholds: how sure a number is, and how many prompts it would take to be surer.

Rates come from counts and carry exact (Clopper-Pearson) intervals; anything else is bootstrapped.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from undertow.errors import UndertowError

Scores = Sequence[float] | np.ndarray


class StatisticsError(UndertowError):
    """A statistic is asked of too few numbers, or of numbers that are not finite."""


class Interval(NamedTuple):
    """A two-sided interval.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float


class Estimate(NamedTuple):
    """A number with its interval.

    Attributes:
        value: The point estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: How many independent observations stand behind it.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Band:
    """A mean for every state, with a 95 % bootstrap band over prompts.

    Attributes:
        name: what it is of.
        n: prompts in it.
        mean, low, high: (L + 1,).
        control: whether it is a control.
    """

    name: str
    n: int
    mean: np.ndarray = field(repr=False)
    low: np.ndarray = field(repr=False)
    high: np.ndarray = field(repr=False)
    control: bool = False


@dataclass(frozen=True)
class RateThreshold:
    """A threshold chosen for a wanted false-positive rate. A prompt is flagged iff its score is at or above it.

    Attributes:
        threshold: The score from which a prompt is flagged; exactly representable in float32.
        rate: Share of the given harmless prompts that it flags.
        upper: One-sided upper confidence bound of that rate (Clopper-Pearson).
        n: Number of harmless prompts it was chosen on.
        wanted: The rate that was asked for.
        confidence: Confidence of `upper`.
        enough: Whether n suffices for any threshold at all to have its upper bound at or below the wanted rate.
        needed: The smallest n that would suffice (with no false positive among them).
    """

    threshold: float
    rate: float
    upper: float
    n: int
    wanted: float
    confidence: float
    enough: bool
    needed: int


def _check_counts(k: int, n: int) -> None:
    if n < 1 or not 0 <= k <= n:
        raise StatisticsError(f"A rate needs counts with 0 <= k <= n and n >= 1, not k = {k} and n = {n}.")


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise StatisticsError(f"The {name} must lie strictly between 0 and 1, not {value}.")


def _finite(values: Scores, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise StatisticsError(f"The {what} must be a non-empty list of numbers, not of shape {array.shape}.")
    if not np.isfinite(array).all():
        raise StatisticsError(f"The {what} hold {int((~np.isfinite(array)).sum())} values that are not finite.")
    return array


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the exact two-sided interval of a proportion (Clopper and Pearson, 1934).

    Args:
        k: Number of successes.
        n: Number of trials.
        confidence: Coverage wanted, between 0 and 1.

    Raises:
        StatisticsError: If the counts are impossible.
    """
    _check_counts(k, n)
    _check_share("confidence", confidence)
    found = stats.binomtest(int(k), int(n)).proportion_ci(confidence_level=confidence, method="exact")
    return Interval(float(found.low), float(found.high))


def clopper_pearson_upper(k: int, n: int, confidence: float = 0.95) -> float:
    """Return the exact one-sided upper bound of a proportion: the largest rate that k of n does not rule out.

    Raises:
        StatisticsError: If the counts are impossible.
    """
    _check_counts(k, n)
    _check_share("confidence", confidence)
    return 1.0 if k == n else float(stats.beta.ppf(confidence, k + 1, n - k))


def proportion(k: int, n: int, confidence: float = 0.95) -> Estimate:
    """Return k / n with its Clopper-Pearson interval.

    Raises:
        StatisticsError: If the counts are impossible.
    """
    low, high = clopper_pearson(k, n, confidence)
    return Estimate(k / n, low, high, int(n))


def needed_for_rate(rate: float, confidence: float = 0.95, allowed: int = 0) -> int:
    """Return the smallest n at which `allowed` false positives still have their upper bound at or below `rate`.

    With none allowed this is ceil(log(1 - confidence) / log(1 - rate)): 149 harmless prompts for 2 % at 95 %.

    Args:
        rate: The false-positive rate wanted, between 0 and 1.
        confidence: Confidence of the one-sided upper bound.
        allowed: Number of false positives seen among the n.

    Raises:
        StatisticsError: If rate or confidence is not between 0 and 1, or `allowed` is negative.
    """
    _check_share("rate", rate)
    _check_share("confidence", confidence)
    if allowed < 0:
        raise StatisticsError(f"The number of false positives allowed cannot be negative, as {allowed} is.")
    low, high = allowed, allowed + 1
    while clopper_pearson_upper(allowed, high, confidence) > rate:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if clopper_pearson_upper(allowed, middle, confidence) <= rate:
            high = middle
        else:
            low = middle
    return high


def threshold_at_rate(
    scores_of_harmless: Scores, rate: float, confidence: float = 0.95, *, bounded: bool = False
) -> RateThreshold:
    """Choose the lowest threshold that flags at most the wanted share of harmless prompts.

    A prompt is flagged iff its score >= threshold. Equal scores stand or fall together, so that the observed rate may
    lie below the wanted one.

    Args:
        scores_of_harmless: Scores of harmless prompts, held out from the fit, higher = more harmful.
        rate: The wanted false-positive rate, between 0 and 1.
        confidence: Confidence of the upper bound that is returned.
        bounded: Whether the upper bound itself, not just the observed rate, must be at or below `rate`. Where too few
            prompts make that impossible, no given prompt is flagged, and `enough` is False.

    Raises:
        StatisticsError: If there are no scores, some are not finite, or rate or confidence is not between 0 and 1.
    """
    scores = _finite(scores_of_harmless, "scores of harmless prompts")
    _check_share("rate", rate)
    _check_share("confidence", confidence)
    n = scores.size
    allowed = math.floor(rate * n + 1e-9)
    if bounded:
        while allowed > 0 and clopper_pearson_upper(allowed, n, confidence) > rate:
            allowed -= 1
    highest_passed = np.sort(scores)[n - 1 - allowed]
    # A float32 step up: scores and thresholds are compared in float32 elsewhere, where a smaller step would vanish.
    threshold = float(np.nextafter(np.float32(highest_passed), np.float32(np.inf)))
    flagged = int((scores >= threshold).sum())
    needed = needed_for_rate(rate, confidence)
    return RateThreshold(
        threshold=threshold,
        rate=flagged / n,
        upper=clopper_pearson_upper(flagged, n, confidence),
        n=n,
        wanted=rate,
        confidence=confidence,
        enough=n >= needed,
        needed=needed,
    )


def bootstrap_interval(
    *samples: Scores,
    statistic: Callable[..., Any] = np.mean,
    paired: bool = False,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    method: str = "BCa",
    seed: int = 0,
) -> Interval:
    """Return a bootstrap interval of a statistic of one or more samples (scipy.stats.bootstrap).

    Args:
        samples: One list of numbers a sample; resampled together if `paired`, else independently of each other.
        statistic: Called with the samples; given an `axis` keyword if it takes one, which is faster.
        paired: Whether the i-th numbers of all samples belong to the same observation.
        confidence: Coverage wanted.
        n_resamples: Number of resamples.
        method: "BCa" (bias-corrected and accelerated), "percentile" or "basic". Where BCa is not defined (all
            numbers equal, say), the percentile interval is returned.
        seed: Seed of the resampling.

    Raises:
        StatisticsError: If a sample has fewer than two numbers, or paired samples differ in length.
    """
    _check_share("confidence", confidence)
    if not samples:
        raise StatisticsError("A bootstrap interval needs at least one sample.")
    data = tuple(_finite(sample, f"numbers of sample {index + 1}") for index, sample in enumerate(samples))
    if min(sample.size for sample in data) < 2:
        raise StatisticsError("A bootstrap interval needs at least two numbers in every sample.")
    if paired and len({sample.size for sample in data}) > 1:
        raise StatisticsError("Paired samples must have equally many numbers.")

    def interval(chosen: str) -> Interval:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                data,
                statistic,
                paired=paired and len(data) > 1,
                confidence_level=confidence,
                n_resamples=n_resamples,
                method=chosen,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        return Interval(float(found.low), float(found.high))

    found = interval(method)
    if method == "BCa" and not (math.isfinite(found.low) and math.isfinite(found.high)):
        found = interval("percentile")
    return found


def difference_of_proportions(k: int, n: int, other_k: int, other_n: int, confidence: float = 0.95) -> Estimate:
    """Return k / n - other_k / other_n of two independent samples with Newcombe's score interval (1998, method 10).

    Raises:
        StatisticsError: If the counts are impossible.
    """
    _check_counts(k, n)
    _check_counts(other_k, other_n)
    _check_share("confidence", confidence)
    first = stats.binomtest(int(k), int(n)).proportion_ci(confidence, method="wilson")
    second = stats.binomtest(int(other_k), int(other_n)).proportion_ci(confidence, method="wilson")
    rate, other_rate = k / n, other_k / other_n
    value = rate - other_rate
    low = value - math.hypot(rate - first.low, second.high - other_rate)
    high = value + math.hypot(first.high - rate, other_rate - second.low)
    return Estimate(value, max(low, -1.0), min(high, 1.0), int(n + other_n))


def auc(
    positive: Scores,
    negative: Scores,
    confidence: float = 0.95,
    *,
    method: str = "hanley",
    n_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Return the area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        positive: Scores that should be high.
        negative: Scores that should be low.
        confidence: Coverage wanted.
        method: "hanley" (Hanley and McNeil, 1982; normal, clipped to [0, 1]) or "bootstrap" (percentile over both
            samples). Where every pair is ordered alike, either would give an interval of no width; then the exact
            interval of as many successes as the smaller sample has members is returned.
        n_resamples: Number of resamples for "bootstrap".
        seed: Seed for "bootstrap".

    Raises:
        StatisticsError: If a sample is empty or not finite, or the method is unknown.
    """
    above, below = _finite(positive, "positive scores"), _finite(negative, "negative scores")
    _check_share("confidence", confidence)
    if method not in ("hanley", "bootstrap"):
        raise StatisticsError(f"The interval of an AUC is 'hanley' or 'bootstrap', not '{method}'.")

    def area(high: np.ndarray, low: np.ndarray) -> float:
        ranks = stats.rankdata(np.concatenate([high, low]))[: high.size]
        return float((ranks.sum() - high.size * (high.size + 1) / 2) / (high.size * low.size))

    value = area(above, below)
    smaller = min(above.size, below.size)
    if value in (0.0, 1.0):
        low, high = clopper_pearson(round(value * smaller), smaller, confidence)
    elif method == "bootstrap":
        low, high = bootstrap_interval(
            above,
            below,
            statistic=area,
            confidence=confidence,
            n_resamples=n_resamples,
            method="percentile",
            seed=seed,
        )
    else:
        both_above, both_below = value / (2 - value), 2 * value**2 / (1 + value)
        variance = (
            value * (1 - value)
            + (above.size - 1) * (both_above - value**2)
            + (below.size - 1) * (both_below - value**2)
        ) / (above.size * below.size)
        reach = float(stats.norm.ppf(0.5 + confidence / 2)) * math.sqrt(variance)
        low, high = max(value - reach, 0.0), min(value + reach, 1.0)
    return Estimate(value, low, high, int(above.size + below.size))
