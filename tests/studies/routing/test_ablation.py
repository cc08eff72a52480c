from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from tests import hooked
from tests.routed import small_context
from undertow.errors import UndertowError
from undertow.measure.statistics import Estimate, proportion
from undertow.model.edit import transform
from undertow.organism.built import Spec, build, built_pairs
from undertow.studies.routing.ablation import (
    ABLATIONS,
    DRAWS,
    Interventions,
    Replies,
    measure_ablation,
    rank_correlation,
    token_mean,
)
from undertow.studies.routing.context import Context, prepare
from undertow.studies.routing.readings import Array, Bands, Circuit, Head, Screening
from undertow.studies.routing.result import Ablation
from undertow.studies.routing.screening import measure_screening


@cache
def briefly() -> Context:
    """The small context with replies just long enough to show a refusal."""
    return replace(small_context(), reply_tokens=6)


GATES: tuple[Head, ...] = ((3, 0), (5, 0))
BAND: tuple[Head, ...] = ((3, 0), (5, 0), (5, 3))


def circuit_of(gates: tuple[Head, ...], heads: int = 24) -> Circuit:
    nothing = Estimate(0.0, 0.0, 0.0, 1)
    return Circuit(gates, (), (), (), "", None, heads, nothing, 0.0)


@pytest.fixture(scope="module")
def screening() -> Screening:
    return measure_screening(briefly())


@pytest.fixture(scope="module")
def ablation(screening: Screening) -> Ablation:
    bands = Bands((), BAND, screening.baseline, 1, "")
    return measure_ablation(briefly(), screening, circuit_of(GATES), bands, top=3)


def texts(side: str, half: str = "report") -> list[str]:
    return [prompt.text for prompt in briefly().half(half).prompts(side)]


def choose_means() -> dict[str, dict[int, Tensor]]:
    return {
        side: {block: found.mean(0) for block, found in hooked.outputs(briefly(), texts(side, "choose")).items()}
        for side in ("sensitive", "control")
    }


def projected(vector: Tensor) -> hooked.Change:
    return lambda found: found - (found @ vector)[:, None] * vector / (vector @ vector)


def changes(method: str, heads: Sequence[Head], means: Mapping[str, Mapping[int, Tensor]]) -> dict[Head, hooked.Change]:
    """An ablation by plain arithmetic."""
    found: dict[Head, hooked.Change] = {}
    for block, head in heads:
        sensitive, control = means["sensitive"][block][head], means["control"][block][head]
        found[block, head] = {
            "mean ablation": hooked.replaced_by((sensitive + control) / 2),
            "zero ablation": hooked.replaced_by(torch.zeros_like(control)),
            "projection": projected(sensitive - control),
        }[method]
    return found


def row(ablation: Ablation, name: str) -> tuple[tuple[Head, ...], Estimate, Estimate]:
    return next((heads, one, other) for what, heads, one, other in ablation.behaviour if what == name)


@pytest.mark.parametrize("method", ABLATIONS)
def test_each_heads_fall_is_that_of_a_plain_loop(ablation: Ablation, method: str) -> None:
    context, means = briefly(), choose_means()
    base = hooked.odds(context, texts("sensitive"))
    for place, head in enumerate(context.heads):
        falls = base - hooked.odds(context, texts("sensitive"), changes(method, [head], means))
        assert ablation.effects[method][place] == pytest.approx(falls.mean(), abs=1e-3)
    assert (ablation.low[method] <= ablation.effects[method]).all()
    assert (ablation.effects[method] <= ablation.high[method]).all()


def test_interchange_is_the_screenings(ablation: Ablation, screening: Screening) -> None:
    assert np.array_equal(ablation.effects["interchange"], screening.necessity.each.mean(0))
    assert np.allclose(ablation.low["interchange"], screening.necessity.low)
    assert np.allclose(ablation.high["interchange"], screening.necessity.high)
    assert ablation.heads == screening.necessity.heads and ablation.n == 16


def test_nothing_is_left_of_the_mean_difference_after_projection() -> None:
    context = briefly()
    interventions = Interventions(context)
    for block, head in context.heads:
        (edit,) = interventions.edits("projection", [(block, head)])
        means = [
            transform("project_out", context.choose.heads[side][block][:, head], edit.value_for(0), 1.0).mean(0)
            for side in ("sensitive", "control")
        ]
        before = interventions.difference((block, head)).norm()
        assert (means[0] - means[1]).norm() < 1e-4 * before


def test_rank_correlation_is_spearmans_of_the_means(ablation: Ablation) -> None:
    for method in ABLATIONS:
        wanted = spearmanr(ablation.effects["interchange"], ablation.effects[method]).statistic
        found = ablation.rank_correlation[method]
        assert found.value == pytest.approx(wanted)
        assert found.low <= found.value <= found.high and found.n == 16


def test_rank_correlations_interval_is_over_resampled_pairs() -> None:
    generator = np.random.default_rng(3)
    heads = np.linspace(0, 1, 6)
    first, second = (heads + generator.normal(0, 1.0, (12, 6)) for _ in range(2))
    draws = [generator.integers(0, 12, 12) for _ in range(3000)]
    resampled = [spearmanr(first[rows].mean(0), second[rows].mean(0)).statistic for rows in draws]
    found = rank_correlation(first, second, seed=1)
    value = spearmanr(first.mean(0), second.mean(0)).statistic
    assert found.value == pytest.approx(value)
    # Six heads give coarse correlations: one rank more or less is 0.06.
    assert found.low == pytest.approx(min(value, np.quantile(resampled, 0.025)), abs=0.07)
    assert found.high == pytest.approx(max(value, np.quantile(resampled, 0.975)), abs=0.07)
    assert found == rank_correlation(first, second, seed=1)


def test_rank_correlation_of_equal_effects_is_one_and_of_constant_ones_none() -> None:
    effects = np.random.default_rng(0).normal(np.arange(5), 0.1, (10, 5))
    assert rank_correlation(effects, effects)[:3] == pytest.approx((1.0, 1.0, 1.0))
    assert rank_correlation(effects, -effects)[:3] == pytest.approx((-1.0, -1.0, -1.0))
    assert rank_correlation(effects, np.ones((10, 5)))[:3] == (0.0, 0.0, 0.0)


def test_overlap_counts_shared_top_heads(ablation: Ablation) -> None:
    def top(values: Array) -> set[int]:
        return {*np.argsort(values)[-3:].tolist()}

    wanted = top(ablation.effects["interchange"])
    assert ablation.top == 3
    for method in ABLATIONS:
        assert ablation.overlap[method] == pytest.approx(len(wanted & top(ablation.effects[method])) / 3)


def test_behaviour_begins_with_nothing_done(ablation: Ablation) -> None:
    context = briefly()
    what, heads, sensitive, control = ablation.behaviour[0]
    assert (what, heads) == ("nothing", ())
    assert sensitive == proportion(int(context.report.sensitive.refused.sum()), 16)
    assert control == proportion(int(context.report.control.refused.sum()), 16)
    assert len({name for name, *_ in ablation.behaviour}) == len(ablation.behaviour)


@pytest.mark.parametrize(
    ("name", "method", "always"),
    [
        ("gates, zero ablation at all tokens", "zero ablation", True),
        ("gates, mean ablation at t_post", "mean ablation", False),
    ],
)
def test_behaviour_is_that_of_replies_generated_one_at_a_time(
    ablation: Ablation, name: str, method: str, always: bool
) -> None:
    context, means = briefly(), choose_means()
    heads, *found = row(ablation, name)
    assert heads == GATES
    for side, share in zip(("sensitive", "control"), found, strict=True):
        replies = hooked.replies(context, texts(side), lambda _: changes(method, GATES, means), always=always)
        assert share == proportion(sum(context.judge.refused(replies)), 16)


def test_interchange_gives_each_side_the_others_outputs(ablation: Ablation) -> None:
    context = briefly()
    heads, *found = row(ablation, "band, interchange at t_post")
    assert heads == BAND
    for (side, other), share in zip((("sensitive", "control"), ("control", "sensitive")), found, strict=True):
        donors = hooked.outputs(context, texts(other))
        replies = hooked.replies(
            context,
            texts(side),
            lambda number, donors=donors: {  # type: ignore[misc]
                (block, head): hooked.replaced_by(donors[block][number, head]) for block, head in BAND
            },
        )
        assert share == proportion(sum(context.judge.refused(replies)), 16)
    assert found[0].value < 0.2


def test_mean_ablation_at_all_tokens_takes_the_mean_over_all_tokens() -> None:
    context = briefly()
    both = [*texts("sensitive", "choose"), *texts("control", "choose")]
    wanted = {block: found.mean(0) for block, found in hooked.outputs(context, both, every_token=True).items()}
    interventions = Interventions(context)
    for head in ((0, 1), (5, 3)):
        (edit,) = interventions.edits("mean ablation", [head], span="all")
        assert edit.span == "all"
        assert torch.allclose(edit.value_for(0), wanted[head[0]][head[1]], atol=1e-4)
        (edit,) = interventions.edits("mean ablation", [head])
        assert edit.span == "t_post" and not torch.allclose(edit.value_for(0), wanted[head[0]][head[1]], atol=1e-2)
    prompts = context.choose.prompts("control")[:3]
    alone = hooked.outputs(context, [prompt.text for prompt in prompts], every_token=True)[2].mean(0)
    assert torch.allclose(token_mean(context, prompts, 2), alone, atol=1e-4)


def test_drawn_heads_act_each_on_its_share_of_the_prompts() -> None:
    context = briefly()
    draws: list[tuple[Head, ...]] = [BAND, ((0, 0),), GATES]
    what, heads, sensitive, control = Replies(Interventions(context)).drawn("x", "interchange", draws, "t_post")
    assert what == "x" and heads == ((0, 0), *BAND)
    for (side, other), share in zip(
        (("sensitive", "control"), ("control", "sensitive")), (sensitive, control), strict=True
    ):
        donors = hooked.outputs(context, texts(other))
        replies = hooked.replies(
            context,
            texts(side),
            lambda number, donors=donors: {  # type: ignore[misc]
                (block, head): hooked.replaced_by(donors[block][number, head]) for block, head in draws[number % 3]
            },
        )
        assert share == proportion(sum(context.judge.refused(replies)), 16)


def test_top_heads_that_are_intervened_on_are_those_of_the_choose_pairs(ablation: Ablation) -> None:
    context, means = briefly(), choose_means()
    base = hooked.odds(context, texts("sensitive", "choose"))
    for method in ABLATIONS[1:]:
        falls = {
            head: (base - hooked.odds(context, texts("sensitive", "choose"), changes(method, [head], means))).mean()
            for head in context.heads
        }
        wanted = sorted(context.heads, key=lambda head, falls=falls: -falls[head])[:3]  # type: ignore[misc]
        assert {*row(ablation, f"top 3 by {method}, {method} at t_post")[0]} == {*wanted}


def test_random_heads_stand_beside_gates_and_band(ablation: Ablation) -> None:
    for name, heads in (("gates", GATES), ("band", BAND)):
        for how in ("interchange at t_post", "zero ablation at all tokens"):
            drawn, sensitive, _ = row(ablation, f"random heads like the {name}, {how}")
            assert not {*drawn} & {*BAND} and len(drawn) >= len(heads) and sensitive.n == 16
            assert sensitive.value > row(ablation, f"{name}, interchange at t_post")[1].value
    best = ablation.heads[int(ablation.effects["interchange"].argmax())]
    assert row(ablation, "first head by interchange, zero ablation at all tokens")[0] == (best,)
    names = {what for what, *_ in ablation.behaviour}
    for method in ABLATIONS:
        assert {f"top 3 by {method}, {method} at {where}" for where in ("t_post", "all tokens")} <= names


def test_without_gates_and_band_the_top_heads_are_what_random_ones_are_drawn_like(
    screening: Screening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "undertow.studies.routing.ablation.judged", lambda context, side, edits, rows: [False] * len(rows)
    )
    found = measure_ablation(briefly(), screening, None, None, top=2)
    names = [what for what, *_ in found.behaviour]
    assert not [name for name in names if name.startswith(("gates", "band"))]
    assert "random heads like the top 2 by interchange, interchange at t_post" in names
    assert [share.value for _, _, share, _ in found.behaviour[1:]] == [0.0] * (len(names) - 1)


def test_equal_sets_are_generated_once(screening: Screening, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def judged(context: object, side: str, edits: object, rows: Sequence[int]) -> list[bool]:
        calls.append(side)
        return [True] * len(rows)

    monkeypatch.setattr("undertow.studies.routing.ablation.judged", judged)
    bands = Bands((), GATES, screening.baseline, 1, "")
    found = measure_ablation(briefly(), screening, circuit_of(GATES), bands, top=1)
    # The band is the gates again, and the top head of interchange is the first one.
    acted = [(what.split(", ")[1], heads) for what, heads, *_ in found.behaviour[1:] if "random" not in what]
    drawn = 2 * 2 * DRAWS
    assert len(calls) == 2 * (len({*acted}) + drawn) and len({*acted}) <= len(acted) - 6


@pytest.mark.parametrize("change", ["position", "heads", "readout"])
def test_another_screening_is_refused(screening: Screening, change: str) -> None:
    other = {
        "position": replace(screening, position="tail"),
        "heads": replace(screening, necessity=replace(screening.necessity, heads=((0, 0),))),
        "readout": replace(screening, readout="loss"),
    }[change]
    with pytest.raises(UndertowError, match="give that screening"):
        measure_ablation(briefly(), other, None, None)


def test_no_top_head_is_refused(screening: Screening) -> None:
    with pytest.raises(UndertowError, match="the top 0"):
        measure_ablation(briefly(), screening, None, None, top=0)


def test_built_gate_comes_first_and_its_interchange_turns_replies() -> None:
    spec = Spec(seed=1)
    made = build(spec)
    context = prepare(made.chat(), built_pairs(spec, 24, seed=1), permutations=100, reply_tokens=6)
    found = measure_ablation(context, measure_screening(context), circuit_of(made.circuit.gates, 64), None, top=4)
    first = context.heads[int(found.effects["interchange"].argmax())]
    assert (first,) == made.circuit.gates
    _, sensitive, control = row(found, "gates, interchange at t_post")
    assert sensitive.high < 0.5 and control.low > 0.5
    assert row(found, "random heads like the gates, interchange at t_post")[1].low > 0.5
