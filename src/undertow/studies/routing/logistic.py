"""Where a dose-response curve crosses one half: a logistic fit by maximum likelihood, with separation told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from undertow.measure.statistics import Estimate
from undertow.studies.routing.readings import Array

_STEPS = 60
_HALVINGS = 20
_FLAT = 1e-9


class Fit(NamedTuple):
    """Where R curves cross one half.

    Attributes:
        value, low, high: (R,) the dose; low and high differ only where the data are separated, and are then the two
            neighbouring doses. Not a number where the curve does not cross.
        slope: (R,) of the logistic, per unit of dose; not a number where the data are separated or do not cross.
    """

    value: Array
    low: Array
    high: Array
    slope: Array


def crossing(
    doses: Sequence[float] | Array, outcomes: Array, *, seed: int = 0, resamples: int = 1000
) -> tuple[Estimate | None, float | None]:
    """The dose at which the logistic fit of a share crosses one half, with a 95 % bootstrap interval, and its slope.

    The fit goes up to the last dose at which the share is farthest from where it starts, so that what happens when a
    strong push breaks the model does not bend it. Separated data (all prompts on one side of a dose fall on one side of
    one half, with at most one dose in between mixed) have no finite fit: the value is then the midpoint of the two
    doses between which the share crosses, these two are the bounds, and there is no slope. A resample that does not
    cross counts as crossing at the largest dose, where the interval is cut.

    Args:
        doses: D increasing doses.
        outcomes: (n, D) of 0 to 1: what each prompt did at each dose; a mean over repeats counts as such.
        seed: of the resampling of prompts.
        resamples: how many.

    Returns:
        Both None where the fit does not cross one half within the doses.
    """
    grid, values = np.asarray(doses, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    count = len(values)
    point = fit_crossing(grid, values.mean(axis=0, keepdims=True))
    if np.isnan(point.value[0]):
        return None, None
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples) / count
    drawn = fit_crossing(grid, weights @ values)
    low, high = (np.nan_to_num(side, nan=grid[-1]) for side in (drawn.low, drawn.high))
    found = Estimate(
        float(point.value[0]),
        float(min(np.quantile(low, 0.025), point.low[0])),
        float(max(np.quantile(high, 0.975), point.high[0])),
        count,
    )
    return found, None if np.isnan(point.slope[0]) else float(point.slope[0])


def fit_crossing(doses: Array, shares: Array) -> Fit:
    """Where each of R curves crosses one half, see `crossing`.

    Args:
        doses: (D,).
        shares: (R, D).
    """
    # Sums of weighted outcomes miss 0 and 1 by rounding, and separation is told by equality.
    shares = np.clip(np.round(shares, 12), 0.0, 1.0)
    falling = shares[:, :1] >= 0.5
    rising = np.where(falling, 1 - shares, shares)
    last = shares.shape[1] - 1 - np.argmax(rising[:, ::-1], axis=1)
    used = np.arange(shares.shape[1]) <= last[:, None]
    separated = _separated(rising, used)
    empty = np.full(len(shares), np.nan)
    value, low, high, slope = empty.copy(), empty.copy(), empty.copy(), empty.copy()
    for row in np.flatnonzero(separated):
        value[row], low[row], high[row] = _bracket(doses, rising[row], last[row])
    rest = np.flatnonzero(~separated)
    if len(rest):
        intercept, slopes = fit_logistic(doses, rising[rest], used[rest])
        with np.errstate(divide="ignore", invalid="ignore"):
            crossed = np.maximum(-intercept / slopes, doses[0])
        inside = (slopes > _FLAT) & (crossed <= doses[last[rest]])
        rows = rest[inside]
        value[rows] = low[rows] = high[rows] = crossed[inside]
        slope[rows] = np.where(falling[rows, 0], -slopes[inside], slopes[inside])
    return Fit(value, low, high, slope)


def fit_logistic(doses: Array, shares: Array, used: Array | None = None) -> tuple[Array, Array]:
    """Intercept and slope (R,) that maximise the likelihood of R curves under P = 1 / (1 + exp(-(a + b dose))).

    Newton's method with halved steps, without penalty. Separated data have no maximum: sort them out before.

    Args:
        doses: (D,).
        shares: (R, D) of 0 to 1.
        used: (R, D) of bool: which doses count; all when left out.
    """
    weights = np.ones_like(shares) if used is None else used.astype(np.float64)
    scale = float(np.abs(doses).max()) or 1.0
    inputs = np.stack([np.ones_like(doses), doses / scale], axis=1)
    found = np.zeros((len(shares), 2))
    reached = _likelihood(found, inputs, shares, weights)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(found @ inputs.T, -500, 500)))
        gradient = (weights * (shares - chance)) @ inputs
        if np.abs(gradient).max() < 1e-10:
            break
        curvature = np.einsum("rd,di,dj->rij", weights * chance * (1 - chance), inputs, inputs)
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient[..., None])[..., 0]
        for _ in range(_HALVINGS):
            tried = _likelihood(found + step, inputs, shares, weights)
            worse = tried < reached
            if not worse.any():
                break
            step[worse] /= 2
        step[tried < reached] = 0
        found += step
        reached = np.maximum(tried, reached)
    return found[:, 0], found[:, 1] / scale


def _likelihood(found: Array, inputs: Array, shares: Array, weights: Array) -> Array:
    logits = found @ inputs.T
    return np.asarray((weights * (shares * logits - np.logaddexp(0, logits))).sum(axis=1))


def _separated(rising: Array, used: Array) -> Array:
    """(R,) whether a step function fits: none, then at most one mixed dose, then all; or nothing happens at all."""
    none = np.where(used, rising == 0, True)
    whole = np.where(used, rising == 1, True)
    before = np.cumprod(none, axis=1).sum(axis=1)
    after = np.cumprod(whole[:, ::-1], axis=1).sum(axis=1)
    return np.asarray(before + after >= rising.shape[1] - 1)


def _bracket(doses: Array, rising: Array, last: int) -> tuple[float, float, float]:
    """Midpoint and the two doses between which a step crosses; not numbers where it does not."""
    above = np.flatnonzero(rising[: last + 1] >= 0.5)
    if not len(above) or above[0] == 0:
        return np.nan, np.nan, np.nan
    low, high = float(doses[above[0] - 1]), float(doses[above[0]])
    if rising[above[0]] == 0.5:
        return high, low, float(doses[min(above[0] + 1, len(doses) - 1)])
    return (low + high) / 2, low, high
