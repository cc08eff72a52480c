from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests.routed import small_context
from undertow.errors import UndertowError
from undertow.measure.statistics import Estimate
from undertow.model import load
from undertow.studies.routing import comparison
from undertow.studies.routing.comparison import (
    Side,
    chance_jaccard,
    compare_circuits,
    jaccard,
    moved_heads,
    spearman,
    top_sets,
)
from undertow.studies.routing.context import Context, Half, prepare
from undertow.studies.routing.readings import Array, Circuit, Effects, Head, Screening, mean_interval

LOST: Head = (5, 0)


def necessity(context: Context) -> Array:
    """(n, H) on the report pairs, one edit at a time."""
    half, found = context.report, []
    base = context.openings.scores(context.chat.logits(half.prompts("sensitive"))).double().numpy()
    for head in context.heads:
        with context.chat.edit(*half.swap("control", [head])):
            found.append(context.openings.scores(context.chat.logits(half.prompts("sensitive"))).double().numpy())
    return np.asarray(base[:, None] - np.stack(found, axis=1))


def side_of(context: Context, each: Array) -> Side:
    heads = context.heads[: each.shape[1]]
    zeros = np.zeros(len(heads))
    effects = Effects(heads, *mean_interval(each), zeros, zeros + 1, each, len(each), len(each))
    readout = f"{context.readout.name}, in {context.readout.unit}"
    screening = Screening(readout, "t_post", Estimate(1.0, 0.5, 1.5, 16), effects, effects, 0.0, "tree")
    return context, screening, Circuit((), (), (), (), "", None, len(heads), Estimate(0.0, 0.0, 0.0, 16), 0.0)


@cache
def first() -> Side:
    return side_of(small_context(), necessity(small_context()))


@cache
def second() -> Side:
    """The same organism with one head's output projection set to zero."""
    context = small_context()
    chat = load("organism:aligned")
    size = chat.anatomy.head_sizes[LOST[0]]
    with torch.no_grad():
        projection = chat.model.model.layers[LOST[0]].self_attn.o_proj.weight
        projection[:, LOST[1] * size : (LOST[1] + 1) * size] = 0.0
    own = prepare(
        chat,
        context.choose.pairs + context.report.pairs,
        halves=(context.choose.pairs, context.report.pairs),
        refusal_tokens=["I'm sorry"],
        answer_tokens=["Sure."],
        permutations=500,
    )
    return side_of(own, necessity(own))


def test_a_head_that_was_taken_out_is_found() -> None:
    found = compare_circuits(first(), second(), top=3)
    assert found.heads == small_context().heads and found.n == 16
    assert found.necessity == pytest.approx(np.stack([first()[1].necessity.value, second()[1].necessity.value]))
    moved = dict(found.moved)
    place = found.heads.index(LOST)
    assert moved[LOST].value == pytest.approx(found.necessity[1, place] - found.necessity[0, place])
    assert moved[LOST].value < -1 and moved[LOST].high < 0
    sizes = [abs(estimate.value) for _, estimate in found.moved]
    assert sizes == sorted(sizes, reverse=True)
    assert found.correlation.value == pytest.approx(stats.spearmanr(*found.necessity).statistic)
    assert found.correlation.low <= found.correlation.value + 1e-9
    tops = [{found.heads[one] for one in np.argsort(-row)[:3]} for row in found.necessity]
    assert LOST in tops[0] and LOST not in tops[1]
    assert found.jaccard.value == pytest.approx(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
    assert found.baselines == (first()[1].baseline, second()[1].baseline)


def test_a_model_equals_itself() -> None:
    found = compare_circuits(first(), first(), top=3)
    assert found.correlation == Estimate(*(pytest.approx(1.0),) * 3, 16)
    assert found.jaccard == Estimate(1.0, 1.0, 1.0, 16)
    assert found.moved == ()
    assert found.stability[0] == found.stability[1]


def test_intervals_equal_a_bootstrap_by_hand() -> None:
    generator = np.random.default_rng(0)
    shared = np.linspace(1, 0, 10)
    each = [shared + generator.normal(size=(16, 10)) for _ in range(2)]
    context = small_context()
    found = compare_circuits(*(side_of(context, one) for one in each), top=4)

    def top(values: Array) -> set[int]:
        return set(np.argsort(-values)[:4].tolist())

    def overlap(one: set[int], two: set[int]) -> float:
        return len(one & two) / len(one | two)

    draws: dict[str, list[float]] = {"jaccard": [], "correlation": [], "first": [], "second": []}
    for _ in range(3000):
        rows = generator.integers(0, 16, 16)
        means = [one[rows].mean(0) for one in each]
        draws["jaccard"].append(overlap(top(means[0]), top(means[1])))
        draws["correlation"].append(stats.spearmanr(*means).statistic)
        draws["first"].append(overlap(top(means[0]), top(each[0].mean(0))))
        draws["second"].append(overlap(top(means[1]), top(each[1].mean(0))))
    assert found.top == 4 and found.chance == pytest.approx(chance_jaccard(10, 4))
    assert found.jaccard.value == overlap(top(each[0].mean(0)), top(each[1].mean(0)))
    assert found.jaccard[1:3] == pytest.approx(tuple(np.quantile(draws["jaccard"], [0.025, 0.975])), abs=0.1)
    assert found.correlation[1:3] == pytest.approx(tuple(np.quantile(draws["correlation"], [0.025, 0.975])), abs=0.05)
    for estimate, name in zip(found.stability, ("first", "second"), strict=True):
        assert estimate.value == pytest.approx(np.mean(draws[name]), abs=0.03)
        assert 0.2 < estimate.value < 1.0


def test_chance_is_the_mean_over_all_pairs_of_sets() -> None:
    for heads, size in ((5, 2), (6, 3), (4, 3), (7, 1)):
        sets = [set(one) for one in combinations(range(heads), size)]
        every = [len(one & two) / len(one | two) for one in sets for two in sets]
        assert chance_jaccard(heads, size) == pytest.approx(np.mean(every))
    assert chance_jaccard(4, 4) == 1.0


def test_top_sets_and_ranks_along_the_last_axis() -> None:
    values = np.array([[3.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    assert top_sets(values, 2).tolist() == [[True, False, True], [True, True, False]]
    assert jaccard(top_sets(values, 2), top_sets(values[::-1], 2)).tolist() == pytest.approx([1 / 3, 1 / 3])
    ties = np.array([[1.0, 1.0, 2.0, 5.0], [4.0, 1.0, 1.0, 0.0]])
    assert spearman(ties[0], ties[1]) == pytest.approx(stats.spearmanr(*ties).statistic)
    assert np.isnan(spearman(values[1], values[0]))


def test_moved_heads_are_chosen_on_other_pairs_than_they_are_estimated_on() -> None:
    one, two = first()[0], second()[0]
    differences = np.tile(np.arange(24.0), (16, 1))
    found = dict(moved_heads(one, two, one.heads, differences))
    assert LOST in found
    assert all(estimate.value == one.heads.index(head) for head, estimate in found.items())
    # Large differences on the report pairs name no head.
    assert moved_heads(one, one, one.heads, differences) == ()


def test_moved_heads_come_from_the_choose_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = small_context(), replace(small_context())
    effects = np.random.default_rng(0).normal(size=(16, 24)) * 0.1
    moved = effects.copy()
    moved[:, 4] += 1.0
    given = {id(one): effects, id(two): moved}

    def fake(context: Context, half: Half, *rest: Any) -> Any:
        return SimpleNamespace(necessity=given[id(context)] if half is context.choose else effects)

    monkeypatch.setattr(comparison, "swaps", fake)
    assert [head for head, _ in moved_heads(one, two, one.heads, effects)] == [one.heads[4]]


def test_a_top_set_never_holds_all_heads() -> None:
    each = np.random.default_rng(1).normal(size=(16, 3))
    side = side_of(small_context(), each)
    assert compare_circuits(side, side).top == 2


def test_what_cannot_be_compared_is_refused() -> None:
    context, screening, circuit = first()
    each = screening.necessity.each

    def changed(**fields: object) -> Side:
        return context, replace(screening, **fields), circuit  # type: ignore[arg-type]

    shuffled = replace(context, report=replace(context.report, pairs=context.choose.pairs))
    cases = [
        ((shuffled, screening, circuit), "different report pairs"),
        (side_of(context, each[:, :-1]), "different heads"),
        (changed(readout="loss, in nats"), "use one readout"),
        (changed(position="tail"), "at t_post"),
    ]
    for other, message in cases:
        with pytest.raises(UndertowError, match=message):
            compare_circuits(first(), other)
    with pytest.raises(UndertowError, match="at least 1"):
        compare_circuits(first(), first(), top=0)
