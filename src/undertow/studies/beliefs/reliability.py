"""How sure a cosine of two directions is: resamples, halves, and the ceiling that noise puts on it.

A direction is a weighted sum of its prompts' states, with weights that sum to 0. So every inner product of two
directions follows from the prompts' own inner products at that state (`Products`), and hundreds of resamples cost a few
matrix products, whatever the width of the model.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from undertow.studies.beliefs.result import Array

Cells = Sequence[tuple[Array, Array]]
"""Row indices pointed to and away from; a direction is the mean over the cells of their differences of means."""

NO_LENGTH = 1e-6
"""A direction shorter than this share of the residual stream is rounding, and has cosine 0 with everything."""


@dataclass(frozen=True)
class Products:
    """Inner products of n prompts' states at one state, each position centred, which no direction notices.

    Attributes:
        first, second: (n, n) within a position.
        across: (n, n) rows of the first position, columns of the second.
        scales: mean norm of the states, uncentred, at both positions.
    """

    first: Array
    second: Array
    across: Array
    scales: tuple[float, float]

    @classmethod
    def of(cls, first: Array, second: Array) -> Products:
        """From the states (n, d) of the same prompts at two positions."""
        wide = [values.astype(np.float64) for values in (first, second)]
        scales = [float(np.linalg.norm(values, axis=1).mean()) for values in wide]
        near, far = (values - values.mean(axis=0) for values in wide)
        return cls(near @ near.T, far @ far.T, near @ far.T, (scales[0], scales[1]))

    def within(self, position: int) -> Array:
        """(n, n) of the first (0) or the second (1) position."""
        return self.second if position else self.first


def weights(cells: Cells, counts: Array) -> Array:
    """(draws, n) weights of the prompts in a direction, from how often each of them was drawn, (draws, n)."""
    found = np.zeros(counts.shape)
    for sides in cells:
        for side, sign in zip(sides, (1.0, -1.0), strict=True):
            drawn = counts[:, side]
            found[:, side] += sign * drawn / (len(cells) * drawn.sum(axis=1, keepdims=True))
    return found


def lengths(first: Array, products: Products, position: int) -> Array:
    """(draws,) norms of directions from their weights (draws, n); 0 where there is nothing but rounding."""
    squares = np.einsum("bn,bn->b", first @ products.within(position), first)
    found = np.sqrt(np.maximum(squares, 0.0))
    return np.where(found > NO_LENGTH * products.scales[position], found, 0.0)


def cosines(first: Array, second: Array, products: Products, positions: tuple[int, int]) -> Array:
    """(draws,) cosines of directions from their weights (draws, n), each at its position (0 or 1)."""
    if positions[0] == positions[1]:
        gram = products.within(positions[0])
    else:
        gram = products.across if positions == (0, 1) else products.across.T
    dots = np.einsum("bn,bn->b", first @ gram, second)
    scale = lengths(first, products, positions[0]) * lengths(second, products, positions[1])
    return np.divide(dots, scale, out=np.zeros_like(dots), where=scale > 0)


def resampled(strata: Sequence[Hashable], draws: int, generator: np.random.Generator) -> Array:
    """(draws, n) how often each prompt is drawn, with replacement within its stratum."""
    members: dict[Hashable, list[int]] = {}
    for row, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(row)
    counts = np.zeros((draws, len(strata)))
    for rows in members.values():
        counts[:, rows] = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=draws)
    return counts


def halved(cells: Cells, strata: Sequence[Hashable], draws: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Two (draws, n) of 0 and 1: random halves of every side of every cell, even within its strata as far as may be."""
    order = {stratum: code for code, stratum in enumerate(dict.fromkeys(strata))}
    codes = np.array([order[stratum] for stratum in strata])
    halves = np.zeros((2, draws, len(strata)))
    for side in (side for sides in cells for side in sides):
        dealt = np.argsort(codes[side] + generator.random((draws, len(side))), axis=1)
        turn = (np.arange(len(side)) + generator.integers(0, 2, size=(draws, 1))) % 2
        for half in (0, 1):
            held = np.zeros((draws, len(side)))
            np.put_along_axis(held, dealt, (turn == half).astype(float), axis=1)
            halves[half][:, side] = held
    return halves[0], halves[1]


def half_weights(
    cells: Cells, strata: Sequence[Hashable], draws: int, generator: np.random.Generator
) -> tuple[Array, Array]:
    """Weights (draws, n) of the direction from both halves of every split."""
    first, second = halved(cells, strata, draws, generator)
    return weights(cells, first), weights(cells, second)


def around(value: Array | float, draws: Array) -> tuple[Array, Array]:
    """Ends of a 95 % bootstrap interval, moved so that the middle resample stands at the estimate.

    A resample holds some prompts twice, so its directions are noisier than the estimate's own and their cosines lie
    lower as a whole; only their spread is used.

    Args:
        value: the estimate, a number or (m,).
        draws: (draws,) or (draws, m).
    """
    low, middle, high = np.quantile(draws, [0.025, 0.5, 0.975], axis=0)
    moved = np.asarray(value) - middle
    return np.maximum(low + moved, -1.0), np.minimum(high + moved, 1.0)


def full_reliability(halves: Array | float) -> Array:
    """Reliability of a direction from all prompts, from the mean cosine of its halves (Spearman and Brown)."""
    clipped = np.maximum(np.asarray(halves, dtype=np.float64), 0.0)
    return 2.0 * clipped / (1.0 + clipped)


def ceiling(first: Array | float, second: Array | float) -> Array:
    """The largest cosine to be expected of two directions from all prompts, were they one direction under noise.

    Args:
        first, second: mean split-half cosines of both. They are stepped up from half of the prompts to all of them
            first, since that is what the cosine under this ceiling is made of.
    """
    return np.sqrt(full_reliability(first) * full_reliability(second))
