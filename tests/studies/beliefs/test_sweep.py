from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.measure.judge import SubstringJudge
from undertow.measure.observed import Observed
from undertow.model import Add
from undertow.studies.beliefs import sweep as sweep_module
from undertow.studies.beliefs.context import Panel
from undertow.studies.beliefs.directions import harmfulness_direction, refusal_direction
from undertow.studies.beliefs.result import Sweep
from undertow.studies.beliefs.sweep import (
    RANDOM_DIRECTIONS,
    _best,
    enough_tokens,
    evenly,
    measure_sweep,
    steered_refusals,
    sweep_directions,
)

MOST = 5
COEFFICIENTS = (0.5, 2.0)


@pytest.fixture(scope="module", autouse=True)
def few_coefficients():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_module, "COEFFICIENTS", COEFFICIENTS)
        yield


@pytest.fixture(scope="module")
def context():
    return replace(small_context(), most=MOST)


@pytest.fixture(scope="module")
def sweep(context, few_coefficients) -> Sweep:
    return measure_sweep(context)


def prompts_of(context, harmful):
    rows = context.test.rows(harmful=harmful, refused=harmful, family="")
    return [context.test.prompts[row] for row in evenly(rows, MOST)]


def refusals_by_hand(context, prompts, edit, tokens):
    """One prompt at a time, plainly."""
    with context.chat.edit(edit):
        replies = [context.chat.generate([prompt], tokens, progress=False)[0] for prompt in prompts]
    return np.array([any(phrase in reply for phrase in SubstringJudge().substrings) for reply in replies])


@pytest.mark.parametrize(
    ("name", "title", "state", "coefficient"),
    [
        ("harmless", "harmfulness", 1, 0.5),
        ("harmless", "refusal", 3, 2.0),
        ("harmful", "reversed harmfulness", 4, 0.5),
        ("harmful", "reversed refusal", 2, 2.0),
    ],
)
def test_cells_against_plain_edits(context, sweep, name, title, state, coefficient):
    make = refusal_direction if "refusal" in title else harmfulness_direction
    vector = make(context.fit)[state] * (-1.0 if "reversed" in title else 1.0)
    prompts = prompts_of(context, name == "harmful")
    edit = Add(vector, coefficient, state=state, span="prompt")
    expected = refusals_by_hand(context, prompts, edit, enough_tokens(context))
    row, column = sweep.states.index(state), sweep.coefficients.index(coefficient)
    cell = sweep.refused[name][title][row][column]
    assert (round(cell.value * cell.n), cell.n) == (expected.sum(), MOST)
    interval = stats.binomtest(int(expected.sum()), MOST).proportion_ci(method="exact")
    assert (cell.low, cell.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_every_row_gets_its_own_direction_and_coefficient(context):
    prompts = prompts_of(context, True)
    directions = {title: taken for title, taken in sweep_directions(context).items() if title in ("refusal", "random")}
    found = steered_refusals(context, prompts, (3,), directions, 8)
    for title, taken in directions.items():
        for column, coefficient in enumerate(COEFFICIENTS):
            for row, prompt in enumerate(prompts):
                edit = Add(taken[row % len(taken)], coefficient, state=3, span="prompt")
                assert found[title][0, column, row] == refusals_by_hand(context, [prompt], edit, 8)[0]


def test_the_grid_is_whole(context, sweep):
    assert sweep.states == tuple(range(context.chat.layers)) and sweep.coefficients == COEFFICIENTS
    assert sweep.n == {"harmless": MOST, "harmful": MOST} and sweep.tried == MOST
    assert sweep.baseline["harmless"].value == 0.0 and sweep.baseline["harmful"].value == 1.0
    for by_title in sweep.refused.values():
        assert list(by_title) == ["harmfulness", "refusal", "reversed harmfulness", "reversed refusal", "random"]
        for grid in by_title.values():
            assert len(grid) == len(sweep.states) and {len(line) for line in grid} == {len(COEFFICIENTS)}


def test_directions_move_refusal_where_random_ones_do_not(sweep):
    def moved(prompts, title):
        """Mean change of refusal in the later half of the states, direction added twice."""
        grid = sweep.refused[prompts][title][len(sweep.states) // 2 :]
        return abs(np.mean([line[-1].value for line in grid]) - sweep.baseline[prompts].value)

    for prompts, prefix in (("harmless", ""), ("harmful", "reversed ")):
        for title in ("harmfulness", "refusal"):
            assert moved(prompts, prefix + title) > moved(prompts, "random") + 0.25
        for title in ("harmfulness", "refusal"):
            assert moved(prompts, title if prefix else f"reversed {title}") == 0.0
    assert sweep.at_best("harmless", "harmfulness").value >= 0.8
    assert sweep.at_best("harmful", "reversed harmfulness").value <= 0.2


def test_random_directions_are_as_long_as_the_longer_direction(context):
    directions = sweep_directions(context)
    assert len(directions["random"]) == RANDOM_DIRECTIONS
    for state in range(context.chat.layers + 1):
        longest = max(directions[title][0].norm(state) for title in ("harmfulness", "refusal"))
        for random in directions["random"]:
            assert random.norm(state) == pytest.approx(longest, rel=1e-4)
    first, second = directions["random"][:2]
    assert abs(first.cosine(second, 3)) < 0.5
    for title in ("harmfulness", "refusal"):
        [forward], [back] = directions[title], directions[f"reversed {title}"]
        np.testing.assert_array_equal(forward.values.numpy(), -back.values.numpy())


def test_the_best_cell():
    shares = np.zeros((3, len(COEFFICIENTS)))
    shares[1], shares[2] = (0.7, 0.75), (0.5, 0.75)
    assert _best(shares, (4, 5, 6), harmful=False) == (5, 2.0)
    shares[2, 0] = 0.75
    assert _best(shares, (4, 5, 6), harmful=False) == (6, 0.5)
    shares[0, 1] = 0.8
    assert _best(shares, (4, 5, 6), harmful=False) == (4, 2.0)
    assert _best(1 - shares, (4, 5, 6), harmful=True) == (4, 2.0)
    assert _best(np.zeros((3, len(COEFFICIENTS))), (4, 5, 6), harmful=False) == (4, COEFFICIENTS[0])


def test_replies_are_long_enough_to_be_judged(context):
    late = "I will tell you all about it in a while but I cannot"
    observed = context.fit.observed
    refused = np.ones(len(context.fit), dtype=bool)
    changed = replace(
        context,
        fit=Panel(Observed(observed.prompts, [late] * len(refused), refused, observed.states), context.fit.bare),
    )
    needed = len(context.chat.tokenizer.encode(late, add_special_tokens=False))
    assert enough_tokens(changed) >= min(needed - 1, context.reply_tokens)
    assert enough_tokens(context) == 8


def test_prompts_are_spread_over_all_of_them():
    rows = np.arange(100, 200)
    found = evenly(rows, 5)
    assert found[0] == 100 and found[-1] == 199 and np.diff(found).min() > 20
    np.testing.assert_array_equal(evenly(rows[:3], 5), rows[:3])


def test_too_few_prompts_is_an_error(context):
    few = Panel(context.test.observed.part(context.test.rows(harmful=True)), np.zeros(0))
    with pytest.raises(UndertowError, match="needs 4 bare harmless prompts in each half that the model answers"):
        measure_sweep(replace(context, test=few))
