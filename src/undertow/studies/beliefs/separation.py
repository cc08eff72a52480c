"""Parts 2 and 3: the published score over the states, and the two beliefs of every prompt.

Source: Zhao et al. (arXiv 2507.11878): s(l, h) = cos(h, mu_refused_harmful(l)) - cos(h, mu_accepted_harmless(l)) at
both positions (figure 2), and the beliefs, means of s over all states, with the centroids of refused and accepted
prompts at t_post (figure 3).
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy import stats

from undertow.guard.verdict import QUADRANTS, quadrant_of
from undertow.measure.observed import POSITIONS
from undertow.measure.statistics import Estimate
from undertow.studies.beliefs.context import Context
from undertow.studies.beliefs.published import (
    ANCHORS,
    anchor_centroids,
    belief_centroids,
    centroids_of,
    published_beliefs,
    published_scores,
)
from undertow.studies.beliefs.result import FOUR_KINDS, Array, Band, BeliefMap, Separation, estimate_of

RESAMPLES = 1000
SHUFFLES = 20


def measure_separation(context: Context) -> Separation:
    """Bands of s(l) for the four kinds at both positions, and on which side their prompts fall.

    The control puts the accepted harmful prompts under centroids of the same anchors with shuffled membership, several
    times.

    Raises:
        UndertowError: an anchor holds fewer than two fit prompts.
    """
    generator = np.random.default_rng(context.seed)
    bands, sides, control = {}, {}, {}
    for position in POSITIONS:
        centroids = anchor_centroids(context.fit, position)
        listed, shares = [], {}
        for name, _, _ in FOUR_KINDS:
            rows = context.test.kind(name)
            if len(rows) < 2:
                continue
            found = published_scores(centroids, context.test.states(position, rows))
            listed.append(band_of(name, found, generator))
            share = estimate_of(found.mean(axis=1) >= 0)
            assert share is not None
            shares[name] = share
        rows = context.test.kind("accepted harmful")
        if len(rows) < 2:
            rows = context.test.kind("refused harmful")
        astray = _shuffled(context, position, rows, generator)
        listed.append(band_of("shuffled anchors", astray.mean(axis=0), generator, control=True))
        bands[position], sides[position] = tuple(listed), shares
        control[position] = _share_over_shuffles(astray.mean(axis=2) >= 0)
    return Separation(bands, sides, control)


def _shuffled(context: Context, position: str, rows: Array, generator: np.random.Generator) -> Array:
    """(SHUFFLES, n, L + 1) scores of test prompts under centroids of shuffled anchors."""
    fit = context.fit
    anchors = np.concatenate([fit.kind(name) for name in ANCHORS])
    first = len(fit.kind(ANCHORS[0]))
    states = context.test.states(position, rows)
    found = []
    for _ in range(SHUFFLES):
        mixed = generator.permutation(anchors)
        centroids = centroids_of(fit, position, mixed[:first], mixed[first:], kind="shuffled")
        found.append(published_scores(centroids, states))
    return np.stack(found)


def _share_over_shuffles(hits: Array) -> Estimate:
    """Mean share over the shuffles with the central 95 % of the shares: what chance gives."""
    shares = hits.mean(axis=1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return Estimate(float(shares.mean()), float(low), float(high), hits.shape[1])


def band_of(name: str, values: Array, generator: np.random.Generator, control: bool = False) -> Band:
    """The mean of (n, L + 1) values with a 95 % percentile bootstrap band over the n prompts."""
    n = len(values)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    low, high = np.quantile(weights @ values, [0.025, 0.975], axis=0)
    return Band(name, n, values.mean(axis=0), low, high, control)


def measure_belief_map(context: Context) -> BeliefMap:
    """Both published beliefs of every test prompt, their quadrants and their rank correlation.

    Raises:
        UndertowError: a cluster of the fit prompts holds fewer than two prompts.
    """
    test = context.test
    beliefs = published_beliefs(belief_centroids(context.fit), test.observed.states)
    harmfulness, refusal = beliefs["harmfulness"], beliefs["refusal"]
    quadrants: dict[str, dict[str, int]] = {}
    for title in dict.fromkeys(test.groups):
        rows = [row for row, group in enumerate(test.groups) if group == title]
        counts = Counter(str(quadrant_of(bool(harmfulness[row] >= 0), float(refusal[row]))) for row in rows)
        quadrants[title] = {str(name): counts.get(name, 0) for name in QUADRANTS}
    scopes = {"all": test.rows(), "harmful": test.rows(harmful=True), "harmless": test.rows(harmful=False)}
    permuted = np.random.default_rng(context.seed).permutation(refusal)
    return BeliefMap(
        harmfulness,
        refusal,
        test.groups,
        tuple(test.prompts),
        quadrants,
        {name: rank_correlation(harmfulness[rows], refusal[rows]) for name, rows in scopes.items()},
        rank_correlation(harmfulness, permuted),
    )


def rank_correlation(first: Array, second: Array) -> Estimate:
    """Spearman's rank correlation with its interval by Fisher's z, standard error by Bonett and Wright (2000)."""
    n = len(first)
    value = float(stats.spearmanr(first, second).statistic)
    if n < 4 or not np.isfinite(value):
        return Estimate(value if np.isfinite(value) else 0.0, -1.0, 1.0, n)
    reach = float(stats.norm.ppf(0.975)) * np.sqrt((1 + value**2 / 2) / (n - 3))
    center = np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12))
    return Estimate(value, float(np.tanh(center - reach)), float(np.tanh(center + reach)), n)
