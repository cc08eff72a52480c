from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tests.studied import small_context
from undertow.measure.observed import Observed
from undertow.prompts import Prompt
from undertow.studies.beliefs.context import Panel, evenly
from undertow.studies.beliefs.result import FOUR_KINDS

OPTIONS = (None, True, False)
PROMPTS = [
    Prompt("a", harmful=True),
    Prompt("b", harmful=False, style="look-alike"),
    Prompt("c", harmful=False),
    Prompt("d", harmful=True, wrapper="role_play"),
    Prompt("e", harmful=False, wrapper="role_play", style="look-alike"),
    Prompt("f", harmful=True, wrapper="homework"),
    Prompt("g", harmful=True, style="blunt"),
    Prompt("h", harmful=False, wrapper="homework"),
]
REFUSED = [True, True, False, False, False, True, False, True]


@pytest.fixture
def panel() -> Panel:
    states = {
        name: np.random.default_rng(seed).normal(size=(8, 3, 5)).astype(np.float32)
        for seed, name in enumerate(("t_inst", "t_post"))
    }
    return Panel(Observed(PROMPTS, [""] * 8, np.array(REFUSED), states), np.full(8, -1))


def test_rows_are_those_that_a_plain_loop_picks(panel: Panel) -> None:
    for harmful, refused, wrapped, alike in product(OPTIONS, repeat=4):
        for family in (None, "", "role_play", "homework", "nothing"):
            wanted = [
                row
                for row, prompt in enumerate(PROMPTS)
                if harmful in (None, prompt.harmful)
                and refused in (None, REFUSED[row])
                and wrapped in (None, prompt.wrapper is not None)
                and alike in (None, prompt.style == "look-alike")
                and family in (None, prompt.wrapper or "")
            ]
            found = panel.rows(harmful=harmful, refused=refused, wrapped=wrapped, look_alike=alike, family=family)
            assert found.tolist() == wanted


def test_every_prompt_is_of_one_kind(panel: Panel) -> None:
    members = {name: panel.kind(name).tolist() for name, _, _ in FOUR_KINDS}
    assert members == {
        "refused harmful": [0, 5],
        "accepted harmful": [3, 6],
        "accepted harmless": [2, 4],
        "refused harmless": [1, 7],
    }


def test_groups_are_titled_for_readers(panel: Panel) -> None:
    assert panel.groups == (
        "harmful",
        "look-alike",
        "harmless",
        "role play, harmful",
        "role play, look-alike",
        "homework, harmful",
        "harmful",
        "homework, harmless",
    )
    assert panel.families == ("role_play", "homework")
    assert len(panel) == 8


def test_states_of_all_or_of_some_rows(panel: Panel) -> None:
    for name in ("t_inst", "t_post"):
        np.testing.assert_array_equal(panel.states(name), panel.observed.states[name])
        np.testing.assert_array_equal(panel.states(name, [5, 2])[1], panel.observed.states[name][2])
        assert panel.states(name, panel.rows(family="nothing")).shape == (0, 3, 5)
    assert not np.array_equal(panel.states("t_inst"), panel.states("t_post"))


def test_an_unlabelled_prompt_counts_as_harmless(panel: Panel) -> None:
    unknown = [replace(prompt, harmful=None) for prompt in PROMPTS]
    assert not Panel(replace(panel.observed, prompts=unknown), panel.bare).harmful.any()


@pytest.mark.parametrize(("count", "most"), [(5, 9), (9, 9), (100, 7), (10, 9), (3, 1)])
def test_rows_are_picked_evenly(count: int, most: int) -> None:
    rows = np.arange(count) * 3 + 1
    found = evenly(rows, most)
    assert len(found) == min(count, most) == len(set(found.tolist()))
    assert set(found.tolist()) <= set(rows.tolist()) and sorted(found.tolist()) == found.tolist()
    if 1 < most < count:
        assert (found[0], found[-1]) == (rows[0], rows[-1])
        steps = np.diff(np.searchsorted(rows, found))
        assert steps.max() - steps.min() <= 1


def test_the_context_knows_the_models_states() -> None:
    context = small_context()
    assert context.states == tuple(range(context.test.states("t_inst").shape[1]))
