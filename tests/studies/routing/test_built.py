"""Counting on rows made by hand, the rankings against plain passes, and a small table whatever the processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.studies.routing.plain import Pass, built_context, odds_of, texts, token_ids
from undertow.errors import UndertowError
from undertow.organism.built import Spec
from undertow.studies.routing import built as module
from undertow.studies.routing.built import draw_spec, mean_ablation, measure_built, score, search_build
from undertow.studies.routing.circuit import circuit_of_choose
from undertow.studies.routing.readings import Head


def row(gate: bool, truth: Sequence[Head], found: Sequence[Head], amplifiers: Sequence[Head] = ()) -> Mapping[str, Any]:
    """A build with one true amplifier, (5, 0)."""
    return {
        "gate": gate,
        "truth": {"gates": [list(head) for head in truth], "amplifiers": [[5, 0]] if gate else []},
        "screening": {"gates": [list(head) for head in found], "amplifiers": [list(head) for head in amplifiers]},
        "attribution": {"gates": [[0, 0]] if gate else [], "amplifiers": []},
    }


ROWS = [
    row(True, [(1, 0)], [(1, 0)], [(5, 0)]),
    row(True, [(1, 0), (1, 1)], [(1, 1)], [(5, 0), (5, 1)]),
    row(True, [(2, 3)], [(2, 3), (0, 0)]),
    row(False, [], []),
    row(False, [], [(3, 3)]),
    row(False, [], []),
]


def test_counts_are_pooled_over_heads_and_builds() -> None:
    found = score("screening", ROWS)
    assert found.gate_recall.value == pytest.approx(3 / 4) and found.gate_precision.value == pytest.approx(3 / 4)
    assert found.amplifier_recall.value == pytest.approx(2 / 3) and found.amplifier_precision.value == pytest.approx(
        2 / 3
    )
    assert found.gate_recall.n == 3 and found.gate_recall.low <= 3 / 4 <= found.gate_recall.high
    assert found.false_gate is not None and not found.knows_count
    assert (found.false_gate.value, found.false_gate.n) == (pytest.approx(1 / 3), 3)


def test_a_ranking_that_always_names_a_gate_has_no_rate_of_false_ones() -> None:
    found = score("attribution", ROWS)
    assert found.knows_count and found.false_gate is None and found.gate_recall.value == 0.0
    # Nothing named: there is no precision, and none is made up.
    assert math.isnan(found.amplifier_precision.value)


@pytest.mark.parametrize("builds", [3, 50])
def test_a_perfect_score_is_not_a_sure_one(builds: int) -> None:
    found = score("screening", [row(True, [(1, 0)], [(1, 0)], [(5, 0)])] * builds)
    wanted = stats.binomtest(builds, builds).proportion_ci(method="exact")
    for estimate in (found.gate_recall, found.gate_precision, found.amplifier_recall):
        assert estimate == pytest.approx((1.0, wanted.low, 1.0, builds))


def test_mean_ablation_equals_plain_passes() -> None:
    context = built_context()
    measured, _, _ = circuit_of_choose(context)
    found = mean_ablation(context, measured)
    sides = {side: [Pass(context.chat, text) for text in texts(context, "choose", side)]
             for side in ("sensitive", "control")}  # fmt: skip
    for block, head in ((1, 0), (2, 3), (3, 1)):
        values = [one.heads[block][-1, head] for side in sides.values() for one in side]
        mean = sum(values[1:], values[0]) / len(values)
        for number in (0, 5):
            text = texts(context, "choose", "sensitive")[number]
            end = len(token_ids(context.chat, text)) - 1
            after = odds_of(context, Pass(context.chat, text, {(block, head): ([end], mean.unsqueeze(0))}).logits[-1])
            before = odds_of(context, sides["sensitive"][number].logits[-1])
            assert found[number, context.heads.index((block, head))] == pytest.approx(before - after, abs=1e-4)


def test_the_earliest_of_the_top_heads_are_called_gates() -> None:
    heads: list[Head] = [(0, 0), (1, 0), (2, 0), (3, 0)]
    found = module._by_rank(heads, np.array([0.1, 3.0, 0.2, 5.0]), 1, 1)
    assert found == {"gates": [[1, 0]], "amplifiers": [[3, 0]]}
    assert module._by_rank(heads, np.array([1.0, 0.0, 2.0, 3.0]), 0, 0) == {"gates": [], "amplifiers": []}


def test_builds_are_drawn_by_their_number() -> None:
    drawn = [draw_spec(seed, gate=True) for seed in range(60)]
    assert drawn[7] == draw_spec(7, gate=True) and len(set(drawn)) == 60
    assert 20 <= sum(spec.gates == 1 for spec in drawn) <= 40 and {spec.gates for spec in drawn} == {1, 2, 3, 4}
    assert all(spec.policy == "gate" and 2 <= spec.amplifiers <= 4 and 4 <= spec.distractors <= 12 for spec in drawn)
    assert all(4.0 <= spec.gap <= 8.0 for spec in drawn)
    assert [draw_spec(seed, gate=False).policy for seed in range(4)] == ["direct", "none", "direct", "none"]


def small(seed: int, *, gate: bool) -> Spec:
    """As small as a build can be."""
    drawn = draw_spec(seed, gate=gate)
    return Spec(seed=seed, gates=1, amplifiers=2, distractors=3, blocks=4, heads=4, gap=drawn.gap, policy=drawn.policy)


def test_a_search_names_the_truth_and_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "draw_spec", small)
    with_gate, without = search_build(3, True, 14), search_build(3, False, 14)
    for role, count in (("gates", 1), ("amplifiers", 2)):
        assert sorted(with_gate["screening"][role]) == sorted(with_gate["truth"][role])
        assert len(with_gate["truth"][role]) == count
    assert len(with_gate["ablation"]["gates"]) == 1 and len(with_gate["attribution"]["amplifiers"]) == 2
    assert with_gate["refused"]["sensitive"] >= 0.9 and with_gate["refused"]["control"] <= 0.1
    assert without["screening"]["gates"] == [] and without["truth"]["gates"] == []
    with pytest.raises(UndertowError, match="4 are to choose on"):
        search_build(3, True, 4)


def test_a_table_does_not_depend_on_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def hurried(seed: int, gate: bool, pairs: int = 30) -> Mapping[str, Any]:
        # Later builds are done first.
        import time

        time.sleep(0.02 * (5 - seed))
        heads = [[seed, 0], [seed, 1]][: 1 + seed % 2]
        named = {"gates": heads[:1] if gate or seed == 4 else [], "amplifiers": [[pairs, seed]]}
        truth = {"gates": heads if gate else [], "amplifiers": [[pairs, 3]] if gate else []}
        return {"seed": seed, "gate": gate, "truth": truth} | dict.fromkeys(
            ("screening", "attribution", "ablation"), named
        )

    monkeypatch.setattr(module, "search_build", hurried)
    one = measure_built(4, seed=2, pairs=6, workers=1, progress=False)
    two = measure_built(4, seed=2, pairs=6, workers=2, progress=False)
    assert one.rows == two.rows and one.scores == two.scores and one.by_gates == two.by_gates
    assert [(entry["seed"], entry["gate"]) for entry in two.rows] == [
        (seed, gate) for gate in (True, False) for seed in (2, 3, 4, 5)
    ]
    assert (one.builds, one.without_gate, one.pairs) == (4, 4, 6)
    assert one.by_gates == {1: (2, 2, 2), 2: (2, 2, 4)}
    screening = one.scores[0]
    assert screening.gate_recall.value == pytest.approx(4 / 6) and screening.gate_precision.value == 1.0
    assert screening.amplifier_recall.value == pytest.approx(1 / 4)
    assert screening.false_gate is not None and screening.false_gate.value == pytest.approx(1 / 4)


def test_equal_searches_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "draw_spec", small)
    assert search_build(4, True, 8) == search_build(4, True, 8)


def test_one_build_is_refused() -> None:
    with pytest.raises(UndertowError, match="1 builds give no rate"):
        measure_built(1)
