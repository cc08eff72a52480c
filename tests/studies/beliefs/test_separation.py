"""Parts 2 and 3 against numpy and scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.guard.verdict import QUADRANTS, quadrant_of
from undertow.measure.observed import POSITIONS
from undertow.studies.beliefs.context import Context, Panel
from undertow.studies.beliefs.result import FOUR_KINDS, Array
from undertow.studies.beliefs.separation import (
    band_of,
    measure_belief_map,
    measure_separation,
    rank_correlation,
)


def cosines(states: Array, centre: Array) -> Array:
    return (states * centre).sum(-1) / np.linalg.norm(states, axis=-1) / np.linalg.norm(centre, axis=-1)


def scores_by_hand(context: Context, position: str, positive: Array, negative: Array) -> Array:
    """(n, L + 1) scores of all test prompts; positive and negative mark fit prompts."""
    fit = context.fit.observed.states[position].astype(np.float64)
    test = context.test.observed.states[position].astype(np.float64)
    return cosines(test, fit[positive].mean(0)) - cosines(test, fit[negative].mean(0))


def anchored(context: Context, position: str) -> Array:
    fit = context.fit
    return scores_by_hand(context, position, fit.harmful & fit.refused, ~fit.harmful & ~fit.refused)


def members(panel: Panel, name: str) -> list[int]:
    return [
        row
        for row, prompt in enumerate(panel.prompts)
        if name == f"{'refused' if panel.refused[row] else 'accepted'} {'harmful' if prompt.harmful else 'harmless'}"
    ]


def test_bands_and_sides_are_those_of_the_scores() -> None:
    context = small_context()
    found = measure_separation(context)
    assert tuple(found.bands) == tuple(found.sides) == tuple(found.control) == POSITIONS
    for position in POSITIONS:
        scores = anchored(context, position)
        *bands, control = found.bands[position]
        assert [band.name for band in bands] == [name for name, _, _ in FOUR_KINDS]
        assert control.control and not any(band.control for band in bands)
        for band in bands:
            rows = members(context.test, band.name)
            assert band.n == len(rows)
            np.testing.assert_allclose(band.mean, scores[rows].mean(0), atol=1e-6)
            # The bootstrap's band is about as wide as the normal one.
            spread = 1.96 * scores[rows].std(0) / np.sqrt(len(rows))
            np.testing.assert_allclose(band.high - band.low, 2 * spread, rtol=0.25, atol=1e-6)
            assert (band.low <= band.mean + 1e-9).all() and (band.mean <= band.high + 1e-9).all()
            side = found.sides[position][band.name]
            hits = int((scores[rows].mean(1) >= 0).sum())
            wanted = stats.binomtest(hits, len(rows)).proportion_ci(0.95, method="exact")
            assert side == pytest.approx((hits / len(rows), wanted.low, wanted.high, len(rows)))


def test_shuffled_anchors_are_chance() -> None:
    """Both the band and the share lie where many more shuffles, drawn here, put them."""
    context = small_context()
    fit, rows = context.fit, members(context.test, "accepted harmful")
    found = measure_separation(context)
    generator = np.random.default_rng(12)
    anchors = np.array([*members(fit, "refused harmful"), *members(fit, "accepted harmless")])
    first = len(members(fit, "refused harmful"))
    for position in POSITIONS:
        shares, means = [], []
        for _ in range(100):
            mixed = generator.permutation(anchors)
            scores = scores_by_hand(context, position, mixed[:first], mixed[first:])[rows]
            shares.append((scores.mean(1) >= 0).mean())
            means.append(scores.mean(0))
        control = found.control[position]
        assert control.n == len(rows) and 0 <= control.low <= control.value <= control.high <= 1
        error = np.std(shares) / np.sqrt(20)
        assert abs(control.value - 0.5) < 4 * error and abs(control.value - np.mean(shares)) < 4 * error
        assert control.low < 0.4 and control.high > 0.6
        band = found.bands[position][-1]
        assert band.name == "shuffled anchors" and band.n == len(rows)
        bound = 4 * np.std(means, axis=0) / np.sqrt(20) + 1e-9
        assert (np.abs(band.mean - np.mean(means, axis=0)) < bound).all()
        # What the anchors tell apart, shuffled anchors do not.
        anchor = found.bands[position][0]
        assert np.abs(band.mean).max() < 0.1 * np.abs(anchor.mean).max()


def without(context: Context, name: str, left: int = 0) -> Context:
    """The test prompts without all but a few of one kind."""
    gone = members(context.test, name)[left:]
    rows = [row for row in range(len(context.test)) if row not in set(gone)]
    return replace(context, test=Panel(context.test.observed.part(rows), np.full(len(rows), -1)))


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_kind_of_fewer_than_two_prompts_has_no_band(left: int) -> None:
    found = measure_separation(without(small_context(), "refused harmless", left))
    for position in POSITIONS:
        names = {band.name for band in found.bands[position]} | set(found.sides[position])
        assert ("refused harmless" in names) == (left == 2)


def test_without_accepted_harmful_prompts_the_control_takes_refused_ones() -> None:
    context = without(small_context(), "accepted harmful")
    found = measure_separation(context)
    for position in POSITIONS:
        assert found.control[position].n == len(members(context.test, "refused harmful"))


def test_the_seed_settles_the_bands() -> None:
    context = small_context()
    first, second, other = (measure_separation(replace(context, seed=seed)) for seed in (4, 4, 5))
    for one, two, three in zip(first.bands["t_inst"], second.bands["t_inst"], other.bands["t_inst"], strict=True):
        np.testing.assert_array_equal(one.low, two.low)
        assert not np.array_equal(one.low, three.low)
    assert first.control == second.control != other.control


def test_a_band_is_the_percentile_bootstrap() -> None:
    values = np.random.default_rng(1).gamma(1.0, size=(40, 3))
    band = band_of("skewed", values, np.random.default_rng(0))
    wanted = stats.bootstrap(
        (values,), np.mean, axis=0, n_resamples=4000, method="percentile", random_state=np.random.default_rng(2)
    ).confidence_interval
    width = wanted.high - wanted.low
    np.testing.assert_allclose(band.mean, values.mean(0))
    assert (np.abs(band.low - wanted.low) < 0.08 * width).all()
    assert (np.abs(band.high - wanted.high) < 0.08 * width).all()
    assert (band.name, band.n, band.control) == ("skewed", 40, False)


def test_beliefs_quadrants_and_correlations() -> None:
    context = small_context()
    fit, test = context.fit, context.test
    found = measure_belief_map(context)
    harmfulness = anchored(context, "t_inst").mean(1)
    refusal = scores_by_hand(context, "t_post", fit.refused, ~fit.refused).mean(1)
    np.testing.assert_allclose(found.harmfulness, harmfulness, atol=1e-6)
    np.testing.assert_allclose(found.refusal, refusal, atol=1e-6)
    assert found.prompts == tuple(test.prompts) and found.groups == test.groups
    counts = {title: dict.fromkeys(QUADRANTS, 0) for title in test.groups}
    for title, first, second in zip(test.groups, harmfulness, refusal, strict=True):
        counts[title][quadrant_of(first >= 0, second)] += 1
    assert found.quadrants == counts
    truth = np.array([prompt.harmful for prompt in test.prompts])
    for name, rows in (("all", truth | True), ("harmful", truth), ("harmless", ~truth)):
        # Pearson's correlation of the ranks.
        ranks = [stats.rankdata(values[rows]) for values in (found.harmfulness, found.refusal)]
        assert found.correlation[name].value == pytest.approx(np.corrcoef(*ranks)[0, 1])
        assert found.correlation[name].n == rows.sum()
    assert found.control.low < 0 < found.control.high and found.control.n == len(test)


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_belief_of_exactly_zero_counts_as_harmful_and_not_as_refusal() -> None:
    """States at right angles to both centroids."""
    context = small_context()
    zero = {name: np.zeros_like(values) for name, values in context.test.observed.states.items()}
    blank = Panel(replace(context.test.observed, states=zero), context.test.bare)
    found = measure_belief_map(replace(context, test=blank))
    for counts in found.quadrants.values():
        assert [name for name, count in counts.items() if count] == ["harmful, about to be answered"]
    assert found.correlation["all"] == (0.0, -1.0, 1.0, len(blank))
    sides = measure_separation(replace(context, test=blank)).sides
    assert all(share.value == 1.0 for shares in sides.values() for share in shares.values())


def test_the_interval_of_a_rank_correlation_covers() -> None:
    """95 % of the intervals hold the true Spearman correlation of a bivariate normal: 6 / pi asin(r / 2)."""
    generator = np.random.default_rng(3)
    for correlation in (0.0, 0.8):
        truth = 6 / np.pi * np.arcsin(correlation / 2)
        covered = 0
        for _ in range(400):
            first = generator.normal(size=60)
            second = correlation * first + np.sqrt(1 - correlation**2) * generator.normal(size=60)
            found = rank_correlation(first, second)
            covered += found.low <= truth <= found.high
        assert 0.92 <= covered / 400 <= 0.98


def test_a_rank_correlation_by_hand() -> None:
    first, second = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2.0, 1.0, 4.0, 3.0, 5.0])
    found = rank_correlation(first, second)
    value = 1 - 6 * 4 / (5 * 24)
    reach = 1.959964 * np.sqrt((1 + value**2 / 2) / 2)
    ends = np.tanh([np.arctanh(value) - reach, np.arctanh(value) + reach])
    assert found == pytest.approx((0.8, ends[0], ends[1], 5), abs=1e-6)
    assert rank_correlation(first, np.exp(first)).value == pytest.approx(1.0)
    assert rank_correlation(first[:3], second[:3]) == (0.5, -1.0, 1.0, 3)


def test_a_missing_anchor_is_named() -> None:
    context = small_context()
    answered = replace(context.fit.observed, refused=np.zeros(len(context.fit), dtype=bool))
    one_sided = replace(context, fit=Panel(answered, context.fit.bare))
    for measure in (measure_separation, measure_belief_map):
        with pytest.raises(UndertowError, match="0 refused harmful prompts"):
            measure(one_sided)
