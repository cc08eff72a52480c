from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tests import hooked
from tests.routed import small_context
from undertow.errors import UndertowError
from undertow.measure.statistics import Estimate, proportion
from undertow.organism.built import Built, Spec, build, built_pairs
from undertow.studies.routing.bands import find_band, joint_effects, measure_bands, random_heads
from undertow.studies.routing.context import Context, Half, prepare
from undertow.studies.routing.readings import Array, Bands, Head
from undertow.studies.routing.screening import measure_screening


@pytest.fixture(scope="module")
def bands() -> Bands:
    return measure_bands(small_context(), random_sets=6)


def texts(half: Half, side: str) -> list[str]:
    return [prompt.text for prompt in half.prompts(side)]


class Plain:
    """Joint effects by plain hooks: all heads of a set exchanged at once, one set at a time."""

    def __init__(self, half: Half) -> None:
        self.texts = {side: texts(half, side) for side in ("sensitive", "control")}
        self.donors = {side: hooked.outputs(small_context(), own) for side, own in self.texts.items()}
        self.base = {side: hooked.odds(small_context(), own) for side, own in self.texts.items()}

    def necessity(self, heads: tuple[Head, ...]) -> Array:
        return self.base["sensitive"] - self._odds("sensitive", "control", heads)

    def sufficiency(self, heads: tuple[Head, ...]) -> Array:
        return self._odds("control", "sensitive", heads) - self.base["control"]

    def _odds(self, side: str, donor: str, heads: tuple[Head, ...]) -> Array:
        changes = {(block, head): hooked.replaced_by(self.donors[donor][block][:, head]) for block, head in heads}
        return hooked.odds(small_context(), self.texts[side], changes)


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain(small_context().report)


def test_greedy_search_takes_the_heads_that_a_plain_loop_takes() -> None:
    context = small_context()
    plain = Plain(context.choose)
    found = find_band(context, most=1)
    order: tuple[Head, ...] = ()
    reached = 0.0
    for gain in found.gains:
        scores = {head: plain.necessity((*order, head)).mean() for head in context.heads if head not in order}
        best = max(scores, key=lambda head: scores[head])
        order = (*order, best)
        assert gain.value == pytest.approx(scores[best] - reached, abs=1e-3)
        reached = scores[best]
    assert found.order == order and len(order) == 3 and found.chosen == 1


def test_band_holds_exactly_the_steps_that_clear_the_rule(bands: Bands) -> None:
    context = small_context()
    found = find_band(context, most=8)
    floor = 0.05 * found.baseline.value
    clear = [gain.low > 0 and gain.value >= floor for gain in found.gains]
    assert found.chosen == clear.index(False) >= 2
    assert len(found.order) == found.chosen + 2 == len(bands.steps)
    assert bands.band == found.order[: found.chosen]
    assert [step.chosen for step in bands.steps] == [True] * found.chosen + [False] * 2
    assert {(3, 0), (5, 0), (5, 3)} <= {*bands.band}


def test_steps_state_joint_effects_on_the_report_pairs(bands: Bands, plain: Plain) -> None:
    for size, step in enumerate(bands.steps, start=1):
        heads = tuple(one.head for one in bands.steps[:size])
        assert step.necessity.value == pytest.approx(plain.necessity(heads).mean(), abs=1e-3)
        assert step.sufficiency.value == pytest.approx(plain.sufficiency(heads).mean(), abs=1e-3)
        assert step.necessity.low < step.necessity.value < step.necessity.high
        assert step.necessity.n == len(small_context().report)
    baseline = plain.base["sensitive"] - plain.base["control"]
    assert bands.baseline.value == pytest.approx(baseline.mean(), abs=1e-3)


def test_band_carries_more_than_random_sets_of_the_same_blocks(bands: Bands) -> None:
    for step in bands.steps:
        assert step.random_low <= step.random <= step.random_high < step.necessity.low


def test_random_figures_are_those_of_the_sets_drawn(monkeypatch: pytest.MonkeyPatch, plain: Plain) -> None:
    context = small_context()
    sets: dict[int, list[tuple[Head, ...]]] = {
        1: [((3, 1),), ((3, 2),)],
        2: [((3, 1), (5, 1)), ((3, 2), (4, 1))],
        3: [((3, 1), (4, 0), (5, 1)), ((3, 1), (4, 0), (5, 1))],
    }
    turn = dict.fromkeys(sets, 0)

    def drawn(heads: object, like: tuple[Head, ...], avoid: object, generator: object) -> tuple[Head, ...]:
        turn[len(like)] += 1
        return sets[len(like)][turn[len(like)] - 1]

    monkeypatch.setattr("undertow.studies.routing.bands.random_heads", drawn)
    found = measure_bands(context, most=1, random_sets=2)
    assert found.random_sets == 2 and len(found.steps) == 3
    for size, step in enumerate(found.steps, start=1):
        means = [plain.necessity(heads).mean() for heads in sets[size]]
        assert step.random == pytest.approx(np.mean(means), abs=1e-3)
        assert step.random_low == pytest.approx(np.quantile(means, 0.025), abs=1e-3)
        assert step.random_high == pytest.approx(np.quantile(means, 0.975), abs=1e-3)


def test_share_refused_is_that_of_replies_generated_one_at_a_time(bands: Bands, plain: Plain) -> None:
    context = small_context()
    half = context.report
    donors = plain.donors["control"]
    for size in (1, 2):
        heads = [step.head for step in bands.steps[:size]]
        replies = hooked.replies(
            context,
            texts(half, "sensitive"),
            lambda row, heads=heads: {  # type: ignore[misc]
                (block, head): hooked.replaced_by(donors[block][row, head]) for block, head in heads
            },
        )
        assert bands.steps[size - 1].refused == proportion(sum(context.judge.refused(replies)), len(half))
    assert bands.steps[-1].refused.value < bands.steps[0].refused.value


def test_no_band_where_the_sides_do_not_differ_as_a_refusal_would() -> None:
    context = small_context()
    turned = [
        replace(
            half,
            sensitive=half.control,
            control=half.sensitive,
            heads={"sensitive": half.heads["control"], "control": half.heads["sensitive"]},
        )
        for half in (context.choose, context.report)
    ]
    found = measure_bands(replace(context, choose=turned[0], report=turned[1], memory={}), random_sets=2)
    assert found.band == () and found.baseline.high < 0
    assert [step.chosen for step in found.steps] == [False, False]
    assert "no band" in found.rule


def test_equal_seeds_give_equal_bands_and_a_given_screenings_baseline_is_stated(bands: Bands) -> None:
    context = small_context()
    screening = replace(measure_screening(context), baseline=Estimate(1.0, 0.5, 1.5, 16))
    again = measure_bands(context, screening, random_sets=6)
    assert again.baseline == screening.baseline != bands.baseline
    assert replace(again, baseline=bands.baseline) == bands


@pytest.mark.parametrize(("most", "random_sets"), [(0, 5), (3, 0)])
def test_bad_numbers_are_refused(most: int, random_sets: int) -> None:
    with pytest.raises(UndertowError, match="at least one head and one random set"):
        measure_bands(small_context(), most=most, random_sets=random_sets)


def test_joint_effect_of_no_head_is_nothing(plain: Plain) -> None:
    context = small_context()
    base, effect = joint_effects(context, context.report, "sensitive", [()])
    assert base == pytest.approx(plain.base["sensitive"], abs=1e-3)
    assert np.abs(effect).max() < 1e-4


GRID = tuple(product(range(4), range(4)))


def test_random_heads_lie_in_the_same_blocks_and_none_is_avoided() -> None:
    like = ((1, 0), (1, 1), (3, 2))
    drawn = [random_heads(GRID, like, like, np.random.default_rng(seed)) for seed in range(30)]
    assert all([block for block, _ in heads] == [1, 1, 3] for heads in drawn)
    assert not {head for heads in drawn for head in heads} & {*like}
    assert len({*drawn}) > 1
    assert random_heads(GRID, like, like, np.random.default_rng(4)) == drawn[4]


def test_random_heads_come_from_the_nearest_blocks_where_one_has_too_few() -> None:
    like = ((1, 0), (1, 1), (1, 2))
    for seed in range(10):
        heads = random_heads(GRID, like, like, np.random.default_rng(seed))
        assert len({*heads}) == 3 and (1, 3) in heads
        assert all(block in (0, 2) for block, _ in heads if block != 1)


def test_random_heads_are_avoided_ones_only_when_no_other_is_left() -> None:
    avoid = GRID[:-1]
    heads = random_heads(GRID, ((0, 0), (0, 1)), avoid, np.random.default_rng(0))
    assert len(heads) == 2 and GRID[-1] in heads and (heads[0][0] == 0)


def built(seed: int, gates: int = 1, amplifiers: int = 3) -> tuple[Built, Context]:
    spec = Spec(seed=seed, gates=gates, amplifiers=amplifiers)
    made = build(spec)
    return made, prepare(made.chat(), built_pairs(spec, 24, seed=1), permutations=100)


@pytest.mark.parametrize("seed", [0, 1])
def test_built_gate_comes_first_and_is_the_band(seed: int) -> None:
    made, context = built(seed=seed)
    found = measure_bands(context, random_sets=2, most=2)
    assert found.band == made.circuit.gates
    assert found.steps[0].refused.high < 0.5 and found.steps[0].random < 0.5


@pytest.mark.parametrize("gates", [2, 4])
def test_built_band_of_gates_is_found_where_it_has_fewer_heads_than_the_next_stage(gates: int) -> None:
    made, context = built(seed=2, gates=gates, amplifiers=2 * gates)
    found = find_band(context, most=8)
    assert {*found.order[: found.chosen]} == {*made.circuit.gates}


def test_built_band_is_the_amplifiers_where_they_have_fewer_heads() -> None:
    made, context = built(seed=2, gates=4, amplifiers=2)
    found = find_band(context, most=8)
    assert {*found.order[: found.chosen]} == {*made.circuit.amplifiers}
