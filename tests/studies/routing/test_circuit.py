"""The rule on circuits whose heads are known, and the knockout cascade against plain passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.routed import small_context
from tests.studies.routing.plain import Pass, built_context, built_organism, texts, tiny_context, token_ids
from tests.studies.routing.test_attribution import by_hand, weights_of
from undertow.studies.routing.attribution import Attributor
from undertow.studies.routing.circuit import (
    FLOOR,
    HALVES,
    RULE,
    Falls,
    Measured,
    cascade_of,
    circuit_of_choose,
    knock_out,
    measure_circuit,
    measure_heads,
    name_amplifiers,
    name_gates,
    ratio_of_means,
)
from undertow.studies.routing.context import Context
from undertow.studies.routing.readings import Head
from undertow.studies.routing.screening import Swaps


@pytest.mark.parametrize(("seed", "gates"), [(0, 1), (3, 2)])
def test_known_gates_and_amplifiers_are_found(seed: int, gates: int) -> None:
    truth = built_organism(seed, gates=gates).circuit
    context = built_context(seed, gates=gates)
    found = measure_circuit(context)
    assert set(found.gates) == set(truth.gates) and set(found.amplifiers) == set(truth.amplifiers)
    assert found.residue < 1e-4 and found.heads == 16 and found.rule == RULE
    rows = {row.head: row for row in found.rows}
    for head in truth.gates:
        row = rows[head]
        assert row.role == "gate" and max(row.necessity_p, row.sufficiency_p) <= 0.05
        assert row.share > FLOOR and abs(row.attribution.value) < 0.5 * row.necessity.value
        assert row.fall is None and row.fall_p is None
        assert row.indirect.value == pytest.approx(row.necessity.value - row.attribution.value)
    assert found.cascade is not None and found.cascade.knocked == found.gates
    for head in truth.amplifiers:
        row, place = rows[head], found.cascade.heads.index(head)
        assert row.role == "amplifier" and row.fall is not None and row.fall_p is not None and row.fall_p <= 0.05
        assert row.fall.value > found.cascade.null.max(0)[place]
        assert row.fall[:3] == (found.cascade.fall[place], found.cascade.low[place], found.cascade.high[place])
    assert circuit_of_choose(context)[1:] == (found.gates, found.amplifiers)


def test_heads_that_read_and_refuse_themselves_are_direct_and_no_gates() -> None:
    truth, found = built_organism(1, "direct").circuit, measure_circuit(built_context(1, "direct"))
    assert set(found.direct) == set(truth.direct) and found.gates == found.amplifiers == ()
    assert found.cascade is None
    assert {row.head for row in found.rows if row.role == "direct"} == set(truth.direct)


@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_is_found_where_nothing_decides(seed: int) -> None:
    found = measure_circuit(built_context(seed, "none"))
    assert found.gates == found.amplifiers == found.direct == () and found.cascade is None


def test_random_models_have_no_gate() -> None:
    found = measure_circuit(tiny_context())
    assert found.gates == () and found.amplifiers == () and found.cascade is None


def test_the_cascade_equals_an_own_computation() -> None:
    context = tiny_context()
    attributor = Attributor(context)
    measured = measure_heads(context, attributor, HALVES)
    gates: list[Head] = [(0, 1), (1, 2)]
    falls = knock_out(context, attributor, measured, gates)
    assert falls.heads == tuple((block, head) for block in (1, 2) for head in range(4) if (block, head) != (1, 2))
    assert falls.null_heads == ((0, 0), (0, 2), (0, 3), (1, 0), (1, 1), (1, 3))
    later = [context.heads.index(head) for head in falls.heads]
    for row, (text, donor) in enumerate(
        zip(texts(context, "report", "sensitive"), texts(context, "report", "control"), strict=True)
    ):
        given, weights = Pass(context.chat, donor).heads, weights_of(context, text)
        before = np.array(by_hand(context, text, weights, {})[0])

        def fall(heads: list[Head]) -> np.ndarray:
            changes = {(block, head): given[block][-1, head] for block, head in heads}  # noqa: B023
            return (before - np.array(by_hand(context, text, weights, changes)[0]))[later]  # noqa: B023

        np.testing.assert_allclose(falls.gate["report"][row], fall(gates), atol=1e-5)
        for place, head in enumerate(falls.null_heads):
            wanted = np.where([block > head[0] for block, _ in falls.heads], fall([head]), 0.0)
            np.testing.assert_allclose(falls.null["report"][place, row], wanted, atol=1e-5)
    cascade = cascade_of(context, falls)
    np.testing.assert_allclose(cascade.fall, falls.gate["report"].mean(0))
    np.testing.assert_allclose(cascade.null, falls.null["report"].mean(1))
    assert cascade.n == len(context.report)


HEADS: tuple[Head, ...] = ((0, 0), (0, 1), (1, 0), (2, 0))


def measured_of(context: Context, necessity: list[float], attribution: list[float], baseline: float = 4.0) -> Measured:
    """Twelve pairs with so much of everything, on both halves, and a little noise; sufficiency is as necessity."""
    generator = np.random.default_rng(0)

    def pairs(values: list[float]) -> np.ndarray:
        return np.array(values) + 0.02 * generator.normal(size=(12, len(values)))

    both = pairs(necessity)
    nothing = 0.01 * generator.normal(size=both.shape)
    swap = Swaps(np.full(12, baseline), both, both.copy(), nothing, nothing, np.arange(12))
    attributed = pairs(attribution)
    return Measured(
        HEADS, {"choose": swap}, {"choose": attributed}, {"choose": attributed}, {"choose": both[:, 0]}, 0.0
    )


def test_the_rule_for_gates_needs_each_of_its_conditions() -> None:
    context = tiny_context()
    assert context.chat.layers == 3
    effects, small = [1.0, 0.1, 2.0, 1.5], [0.1, 0.0, 1.8, 0.0]
    # (0, 1) is under the floor of 0.2, (1, 0) acts through its own attribution, (2, 0) is in the last block.
    assert name_gates(context, measured_of(context, effects, small)) == (((0, 0),), ((1, 0), (2, 0)))
    assert name_gates(context, measured_of(context, effects, small, baseline=1.5))[0] == ((0, 0), (0, 1))
    assert name_gates(context, measured_of(context, effects, small, baseline=0.9)) == ((), ())
    measured = measured_of(context, effects, small)
    for name in ("necessity_control", "sufficiency_control"):
        kind = name.removesuffix("_control")
        swap = measured.swaps["choose"]
        same = replace(swap, **{name: getattr(swap, kind) + np.random.default_rng(1).normal(size=(12, 4))})
        assert name_gates(context, replace(measured, swaps={"choose": same})) == ((), ())


def test_gates_and_amplifiers_are_chosen_on_the_choose_pairs_alone() -> None:
    context = built_context()
    measured, gates, amplifiers = circuit_of_choose(context)
    assert set(measured.swaps) == {"choose"} and gates and amplifiers
    # Report pairs that say the opposite change no name, and report figures alone.
    nonsense = replace(context, report=replace(context.report, sensitive=context.report.control,
                       control=context.report.sensitive), memory={})  # fmt: skip
    found = measure_circuit(nonsense)
    assert (found.gates, found.amplifiers) == (gates, amplifiers)
    row = next(row for row in found.rows if row.head == gates[0])
    assert row.necessity.n == len(context.report) and row.necessity_p <= 0.05


def falls_of(gate: list[float], null: list[list[float]]) -> Falls:
    """Falls of three later heads on twelve pairs, with a little noise."""
    generator = np.random.default_rng(0)
    knocked = np.array(gate) + 0.02 * generator.normal(size=(12, 3))
    others = np.array(null)[:, None] + 0.02 * generator.normal(size=(len(null), 12, 3))
    return Falls(
        ((0, 0),), ((1, 0), (1, 1), (2, 0)), {"choose": knocked}, {"choose": others}, ((0, 1), (0, 2))[: len(null)]
    )


def test_the_rule_for_amplifiers_needs_each_of_its_conditions() -> None:
    context = tiny_context()
    nothing = [[0.0] * 3] * 2
    assert name_amplifiers(context, falls_of([1.0, 0.5, -2.0], nothing)) == ((1, 0), (1, 1))
    # Less than 5 % of all falls; more under another head's knockout; a fall that the mean of the null explains.
    assert name_amplifiers(context, falls_of([1.0, 0.04, 0.9], nothing)) == ((1, 0), (2, 0))
    assert name_amplifiers(context, falls_of([1.0, 0.5, 0.9], [[0.0, 0.6, 0.0], [0.0] * 3])) == ((1, 0), (2, 0))
    assert name_amplifiers(context, falls_of([0.5] * 3, [[0.5] * 3] * 2)) == ()


def test_a_ratio_of_means_has_an_interval_over_pairs() -> None:
    generator = np.random.default_rng(0)
    bottom = generator.uniform(1, 3, 40)
    top = 0.5 * bottom + generator.normal(0, 0.2, 40)
    found = ratio_of_means(top, bottom, 3)
    assert found.value == pytest.approx(top.sum() / bottom.sum()) and found.n == 40
    rows = generator.integers(0, 40, (4000, 40))
    wanted = np.quantile(top[rows].sum(1) / bottom[rows].sum(1), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=0.01)
    assert np.isnan(ratio_of_means(np.zeros(5), np.zeros(5), 0)[:3]).all()


def test_the_share_of_heads_is_of_heads_and_mlps() -> None:
    context = built_context()
    found = measure_circuit(context)
    heads, mlps = np.zeros(len(context.report)), np.zeros(len(context.report))
    for side, sign in (("sensitive", 1.0), ("control", -1.0)):
        for row, text in enumerate(texts(context, "report", side)):
            assert len(token_ids(context.chat, text)) > 5
            one, other = by_hand(context, text, weights_of(context, text), {})
            heads[row] += sign * sum(one)
            mlps[row] += sign * other
    assert found.attention_share.value == pytest.approx(heads.sum() / (heads.sum() + mlps.sum()), abs=1e-4)


def test_where_all_heads_of_a_block_are_gates_its_neighbours_give_the_null() -> None:
    context = small_context()
    attributor = Attributor(context)
    measured = measure_heads(context, attributor, ("choose",))
    block = [head for head in context.heads if head[0] == 2]
    falls = knock_out(context, attributor, measured, block)
    assert set(falls.null_heads) == {head for head in context.heads if head[0] in (1, 3)}
    assert falls.null["choose"].shape == (len(falls.null_heads), len(context.choose), len(falls.heads))
    alone = knock_out(context, attributor, measured, block[:1])
    assert set(alone.null_heads) == set(block[1:])
