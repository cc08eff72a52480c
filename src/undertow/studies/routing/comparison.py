"""Part 10: the circuits of two models on the same pairs: which heads, how alike, how stable.

Heads are compared by their mean necessity at t_post. Pairs are resampled for both models together.
"""

from __future__ import annotations

from math import comb

import numpy as np
from scipy import stats

from undertow.errors import UndertowError
from undertow.measure.permutation import sign_flip
from undertow.measure.statistics import Estimate
from undertow.studies.routing.context import Context
from undertow.studies.routing.readings import Array, Circuit, Head, Screening, mean_estimate
from undertow.studies.routing.result import CircuitComparison
from undertow.studies.routing.screening import swaps

LEVEL = 0.05
RESAMPLES = 2000

Side = tuple[Context, Screening, Circuit]


def compare_circuits(first: Side, second: Side, *, top: int = 5) -> CircuitComparison:
    """Compare the necessity of every head in two models.

    Heads that moved are found on the choose pairs and their difference is estimated on the report pairs.

    Args:
        first, second: context, screening at t_post by the context's own readout, and circuit.
        top: heads in a top set; at most all heads but one are taken.

    Returns:
        Of each interval the ends are percentiles over resampled pairs. Resampling can only lose agreement where two
        top sets are equal, so the interval of a Jaccard may lie below it.

    Raises:
        UndertowError: pairs, heads or readouts differ, a screening is not at t_post, or `top` is below 1.
    """
    if top < 1:
        raise UndertowError(f"A top set of {top} heads compares nothing: give at least 1.")
    check_comparable(first, second)
    (one, screening, circuit), (two, other, other_circuit) = first, second
    heads = screening.necessity.heads
    size = max(1, min(top, len(heads) - 1))
    each = np.stack([screening.necessity.each, other.necessity.each]).astype(np.float64)
    count = each.shape[1]
    means = each.mean(1)
    weights = np.random.default_rng(one.seed).multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    drawn = np.einsum("rn,mnh->mrh", weights, each)
    own = top_sets(means, size)
    resampled = top_sets(drawn, size)
    stable = [_spread(jaccard(resampled[place], own[place]), count) for place in range(2)]
    return CircuitComparison(
        (one.chat.name, two.chat.name),
        (screening.baseline, other.baseline),
        means,
        heads,
        _percentiles(float(spearman(means[0], means[1])), spearman(drawn[0], drawn[1]), count),
        size,
        _percentiles(float(jaccard(own[0], own[1])), jaccard(resampled[0], resampled[1]), count),
        (stable[0], stable[1]),
        chance_jaccard(len(heads), size),
        (circuit, other_circuit),
        moved_heads(one, two, heads, each[1] - each[0]),
        count,
    )


def check_comparable(first: Side, second: Side) -> None:
    """Refuse what cannot be compared; see `compare_circuits`."""
    (one, screening, _), (two, other, _) = first, second
    for half in ("choose", "report"):
        texts = [
            [(pair.sensitive.text, pair.control.text) for pair in context.half(half).pairs] for context in (one, two)
        ]
        if texts[0] != texts[1]:
            raise UndertowError(
                f"The two models were read on different {half} pairs: prepare the second with the halves of the first."
            )
    if screening.necessity.heads != other.necessity.heads:
        raise UndertowError("The two models have different heads, so head by head there is nothing to compare.")
    if screening.readout != other.readout:
        raise UndertowError(
            f"One model was read by {screening.readout}, the other by {other.readout}: use one readout."
        )
    for context, found in ((one, screening), (two, other)):
        if found.position != "t_post" or found.readout != f"{context.readout.name}, in {context.readout.unit}":
            raise UndertowError(
                "Circuits are compared by screenings at t_post with the context's own readout: give those."
            )


def moved_heads(
    one: Context, two: Context, heads: tuple[Head, ...], differences: Array
) -> tuple[tuple[Head, Estimate], ...]:
    """Heads whose necessity differs family-wise on the choose pairs, by falling size of the difference on the others.

    Args:
        one, two: the contexts.
        heads: the H heads.
        differences: (n, H) second minus first on the report pairs.
    """
    choose = [swaps(context, context.choose, "t_post", heads, context.readout).necessity for context in (one, two)]
    tested = choose[1] - choose[0]
    if not tested.any():
        return ()
    flips = sign_flip(tested, permutations=one.permutations, level=LEVEL, alternative="two-sided", seed=one.seed)
    found = [
        (heads[place], mean_estimate(differences[:, place], one.seed)) for place in np.flatnonzero(flips.significant)
    ]
    return tuple(sorted(found, key=lambda row: -abs(row[1].value)))


def top_sets(values: Array, size: int) -> Array:
    """(..., H) of bool: the largest heads along the last axis; of equal ones the earlier."""
    order = np.argsort(-values, axis=-1, kind="stable")[..., :size]
    found = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(found, order, True, axis=-1)
    return found


def jaccard(one: Array, two: Array) -> Array:
    """Overlap of sets given as (..., H) of bool: shared over all members."""
    return np.asarray((one & two).sum(-1) / (one | two).sum(-1))


def chance_jaccard(heads: int, size: int) -> float:
    """Expected Jaccard of two independent random sets of `size` of the heads: their overlap is hypergeometric."""
    return sum(
        shared / (2 * size - shared) * comb(size, shared) * comb(heads - size, size - shared) / comb(heads, size)
        for shared in range(max(0, 2 * size - heads), size + 1)
    )


def spearman(one: Array, two: Array) -> Array:
    """Rank correlation along the last axis; not a number where all of either are equal."""
    ranks = [stats.rankdata(values, axis=-1) for values in (one, two)]
    centred = [rank - rank.mean(-1, keepdims=True) for rank in ranks]
    below = np.sqrt((centred[0] ** 2).sum(-1) * (centred[1] ** 2).sum(-1))
    above = (centred[0] * centred[1]).sum(-1)
    return np.asarray(np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0))


def _percentiles(value: float, drawn: Array, count: int) -> Estimate:
    if not np.isfinite(drawn).any():
        return Estimate(value, float("nan"), float("nan"), count)
    return Estimate(value, float(np.nanquantile(drawn, 0.025)), float(np.nanquantile(drawn, 0.975)), count)


def _spread(drawn: Array, count: int) -> Estimate:
    return _percentiles(float(drawn.mean()), drawn, count)
