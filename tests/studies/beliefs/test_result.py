from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from undertow.measure.statistics import Estimate
from undertow.studies.beliefs.result import FOUR_KINDS, Inversion, InversionGrid, Sweep, estimate_of

STATES, COEFFICIENTS = (2, 5, 7), (-1.0, 1.0, 4.0)


def numbered(offset: int) -> list[list[Estimate]]:
    """Every cell another value: hundreds by state, units by coefficient."""
    return [[Estimate(offset + 100.0 * i + j, 0.0, 1.0, 9) for j in range(3)] for i in range(3)]


@pytest.fixture
def sweep() -> Sweep:
    return Sweep(
        STATES,
        COEFFICIENTS,
        {"harmful": {"refusal": numbered(1000), "random": numbered(2000)}, "harmless": {"random": numbered(5000)}},
        {},
        {"harmful": {"refusal": (7, -1.0), "random": (5, 4.0)}, "harmless": {"random": (2, 1.0)}},
        {},
        4,
    )


def test_the_best_cell_is_found_by_state_and_coefficient(sweep: Sweep) -> None:
    assert sweep.at_best("harmful", "refusal").value == 1200
    assert sweep.at_best("harmful", "random").value == 2102
    assert sweep.at_best("harmless", "random").value == 5001


def test_random_stands_beside_at_the_others_best_cell(sweep: Sweep) -> None:
    assert sweep.random_beside("harmful", "refusal").value == 2200
    assert sweep.random_beside("harmful", "random") == sweep.at_best("harmful", "random")


def test_a_grid_is_found_by_prompts_span_and_direction() -> None:
    empty = np.zeros((1, 1))
    grids = tuple(
        InversionGrid(prompts, span, direction, empty, empty, empty, {}, {})
        for prompts in ("harmful", "harmless")
        for span in ("instruction", "prompt")
        for direction in ("harmfulness", "refusal")
    )
    inversion = Inversion(STATES, COEFFICIENTS, (), {}, grids, None, 4)
    for grid in grids:
        assert inversion.grid(grid.prompts, grid.span, grid.direction) is grid
    with pytest.raises(StopIteration):
        inversion.grid("harmful", "prompt", "random")


def test_a_share_has_an_exact_interval() -> None:
    found = estimate_of(np.array([True, False, False, True, False]))
    assert found is not None
    # Clopper and Pearson's ends are quantiles of beta distributions.
    assert found == pytest.approx((0.4, stats.beta.ppf(0.025, 2, 4), stats.beta.ppf(0.975, 3, 3), 5))
    assert estimate_of(np.array([], dtype=bool)) is None
    nothing = estimate_of(np.zeros(4, dtype=bool))
    assert nothing is not None and (nothing.value, nothing.low, nothing.n) == (0.0, 0.0, 4)


def test_the_four_kinds_are_all_combinations() -> None:
    assert {(harmful, refused) for _, harmful, refused in FOUR_KINDS} == {
        (harmful, refused) for harmful in (True, False) for refused in (True, False)
    }
    for name, harmful, refused in FOUR_KINDS:
        assert name == f"{'refused' if refused else 'accepted'} {'harmful' if harmful else 'harmless'}"
