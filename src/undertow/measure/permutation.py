"""Sign-flip permutation tests over pairs, with family-wise error control by the largest statistic.

Under the null that a paired difference is symmetric around zero, its sign carries no information. All tests of one pair
are flipped together, which keeps their dependence, and every test is held against the largest statistic of each
permutation (Westfall and Young's max-T, single step; Nichols and Holmes 2002).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from undertow.measure.statistics import StatisticsError

PERMUTATIONS = 10_000
_CHUNK = 500


@dataclass(frozen=True)
class SignFlip:
    """What a family of sign-flip tests found.

    Attributes:
        statistic: (tests,) mean over its standard error (a t statistic).
        p: (tests,) family-wise p-value; the smallest possible is 1 / (permutations + 1).
        threshold: the statistic above which a test is significant at the wanted level.
        level: that level.
        permutations: how many sign flips were drawn.
        n: pairs.
    """

    statistic: npt.NDArray[Any] = field(repr=False)
    p: npt.NDArray[Any] = field(repr=False)
    threshold: float
    level: float
    permutations: int
    n: int

    @property
    def significant(self) -> npt.NDArray[Any]:
        """(tests,) of bool."""
        return self.p <= self.level


def sign_flip(
    effects: npt.ArrayLike,
    *,
    permutations: int = PERMUTATIONS,
    level: float = 0.05,
    alternative: str = "greater",
    seed: int = 0,
) -> SignFlip:
    """Test for every column whether its mean is above zero (or differs from it), family-wise over all columns.

    Args:
        effects: (n, tests) paired differences.
        permutations: random sign flips; all 2^n are not drawn even where they are fewer.
        level: family-wise error wanted.
        alternative: ``greater`` or ``two-sided``.
        seed: of the flips.

    Raises:
        StatisticsError: fewer than 2 pairs, no test, numbers that are not finite, or an unknown alternative.
    """
    values = np.asarray(effects, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 1 or not np.isfinite(values).all():
        raise StatisticsError("A sign-flip test needs finite effects of at least 2 pairs in each of its tests.")
    if alternative not in ("greater", "two-sided"):
        raise StatisticsError(f"The alternative of a sign-flip test is 'greater' or 'two-sided', not {alternative!r}.")
    if permutations < 1 or not 0.0 < level < 1.0:
        raise StatisticsError("A sign-flip test needs at least one permutation and a level between 0 and 1.")
    count = len(values)
    squares = (values**2).sum(0)
    two_sided = alternative == "two-sided"

    def studentised(sums: npt.NDArray[Any]) -> npt.NDArray[Any]:
        means = sums / count
        # Flipping signs leaves the sum of squares, so the variance follows from the mean alone.
        variance = np.maximum(squares / count - means**2, 1e-12 * squares / count + 1e-300) / (count - 1)
        return means / np.sqrt(variance)

    observed = studentised(values.sum(0))
    if two_sided:
        observed = np.abs(observed)
    generator = np.random.default_rng(seed)
    largest = []
    for begin in range(0, permutations, _CHUNK):
        signs = generator.integers(0, 2, (min(_CHUNK, permutations - begin), count)) * 2.0 - 1.0
        found = studentised(signs @ values)
        largest.append((np.abs(found) if two_sided else found).max(1))
    null = np.sort(np.concatenate(largest))
    beaten = len(null) - np.searchsorted(null, observed - 1e-9, side="left")
    p = (1.0 + beaten) / (permutations + 1.0)
    place = min(len(null) - 1, int(np.ceil((1 - level) * (permutations + 1))) - 1)
    return SignFlip(observed, p, float(null[place]), level, permutations, count)
