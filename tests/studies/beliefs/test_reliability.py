from __future__ import annotations

import numpy as np
import pytest

from undertow.studies.beliefs.reliability import (
    Products,
    around,
    ceiling,
    cosines,
    full_reliability,
    half_weights,
    halved,
    lengths,
    resampled,
    weights,
)

WIDTH = 40


def cosine(first, second):
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


@pytest.fixture
def states():
    generator = np.random.default_rng(0)
    return [generator.normal(5.0, 1.0, size=(24, WIDTH)).astype(np.float32) for _ in range(2)]


CELLS = [(np.arange(0, 6), np.arange(6, 14)), (np.arange(14, 18), np.arange(18, 24))]


def by_hand(values, cells):
    return np.mean([values[up].mean(0) - values[down].mean(0) for up, down in cells], axis=0)


def test_weights_make_the_mean_difference_over_the_cells(states):
    [found] = weights(CELLS, np.ones((1, 24)))
    np.testing.assert_allclose(found @ states[0], by_hand(states[0].astype(float), CELLS), atol=1e-6)


def test_weights_of_a_resample_count_prompts_as_often_as_they_were_drawn(states):
    generator = np.random.default_rng(1)
    drawn = [generator.choice(side, len(side)) for cell in CELLS for side in cell]
    counts = np.bincount(np.concatenate(drawn), minlength=24)[None].astype(float)
    expected = by_hand(states[0].astype(float), [(drawn[0], drawn[1]), (drawn[2], drawn[3])])
    np.testing.assert_allclose(weights(CELLS, counts)[0] @ states[0], expected, atol=1e-6)


@pytest.mark.parametrize("positions", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_cosines_from_products_are_cosines_of_vectors(states, positions):
    other = [(np.arange(0, 9), np.arange(9, 24))]
    first, second = weights(CELLS, np.ones((1, 24))), weights(other, np.ones((1, 24)))
    [found] = cosines(first, second, Products.of(*states), positions)
    vectors = [
        by_hand(states[position].astype(float), cells)
        for position, cells in zip(positions, (CELLS, other), strict=True)
    ]
    assert found == pytest.approx(cosine(*vectors), abs=1e-9)
    [length] = lengths(first, Products.of(*states), positions[0])
    assert length == pytest.approx(np.linalg.norm(vectors[0]), rel=1e-9)


def test_states_that_differ_by_rounding_have_no_direction():
    same = 0.1 + 1e-9 * np.random.default_rng(1).normal(size=(24, WIDTH))
    products = Products.of(same, np.random.default_rng(0).normal(size=(24, WIDTH)))
    chosen = weights(CELLS, np.ones((1, 24)))
    assert lengths(chosen, products, 0)[0] == 0.0
    assert cosines(chosen, chosen, products, (0, 1))[0] == 0.0
    assert cosines(chosen, chosen, products, (1, 1))[0] == pytest.approx(1.0)


def test_resamples_stay_within_their_strata():
    strata = ["a"] * 5 + ["b"] * 3 + ["c"]
    counts = resampled(strata, 2000, np.random.default_rng(0))
    assert (counts[:, :5].sum(1) == 5).all() and (counts[:, 5:8].sum(1) == 3).all() and (counts[:, 8] == 1).all()
    np.testing.assert_allclose(counts.mean(0), 1.0, atol=0.08)
    assert counts[:, :5].var() == pytest.approx(5 * 0.2 * 0.8, rel=0.1)


def test_halves_part_every_side_and_are_even_within_strata():
    cells = [(np.arange(0, 9), np.arange(9, 20))]
    strata = ["x"] * 4 + ["y"] * 5 + ["z"] * 11
    first, second = halved(cells, strata, 300, np.random.default_rng(0))
    np.testing.assert_array_equal(first + second, np.ones((300, 20)))
    for rows, size in ((slice(0, 9), 9), (slice(9, 20), 11), (slice(0, 4), 4)):
        held = first[:, rows].sum(1)
        assert set(held) <= {size // 2, size - size // 2}
    np.testing.assert_allclose(first.mean(0), 0.5, atol=0.12)
    assert len({tuple(line) for line in first}) > 250


def test_half_weights_come_from_disjoint_prompts(states):
    first, second = half_weights(CELLS, ["s"] * 24, 50, np.random.default_rng(0))
    assert not np.any((first != 0) & (second != 0))
    np.testing.assert_allclose(first.sum(1), 0.0, atol=1e-12)


def test_interval_around_stands_at_the_estimate_and_keeps_the_spread():
    draws = np.random.default_rng(0).normal(0.2, 0.05, size=(4000, 2))
    low, high = around(np.array([0.5, 0.99]), draws)
    assert low[0] == pytest.approx(0.5 - 1.96 * 0.05, abs=0.01) and high[0] == pytest.approx(
        0.5 + 1.96 * 0.05, abs=0.01
    )
    assert high[1] == 1.0


def test_ceiling_formula():
    assert full_reliability(0.5) == pytest.approx(2 / 3)
    assert full_reliability(-0.2) == 0.0
    assert ceiling(0.5, 0.8) == pytest.approx(np.sqrt(2 / 3 * 1.6 / 1.8))


def noisy(true, n, noise, generator):
    """States of n prompts on each side of a true direction."""
    side = np.repeat([0.5, -0.5], n)[:, None]
    return side * true + noise * generator.normal(size=(2 * n, len(true)))


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_noise_lowers_the_cosine_to_what_the_ceiling_says(angle):
    generator = np.random.default_rng(0)
    width, n = 300, 30
    first = np.zeros(width)
    first[0] = 2.0
    second = np.zeros(width)
    second[:2] = 3.0 * np.cos(np.radians(angle)), 3.0 * np.sin(np.radians(angle))
    cells = [(np.arange(n), np.arange(n, 2 * n))]
    seen, ceilings = [], []
    for _ in range(30):
        products = Products.of(noisy(first, n, 0.9, generator), noisy(second, n, 0.9, generator))
        whole = weights(cells, np.ones((1, 2 * n)))
        halves = half_weights(cells, ["all"] * 2 * n, 40, generator)
        seen.append(cosines(whole, whole, products, (0, 1))[0])
        ceilings.append(ceiling(*(cosines(*halves, products, (place, place)).mean() for place in (0, 1))))
    assert np.mean(ceilings) < 0.8
    assert np.mean(seen) == pytest.approx(np.cos(np.radians(angle)) * np.mean(ceilings), abs=0.03)
