from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.prompts.inversion import WORDINGS, invert
from undertow.studies.beliefs import dissociation as module
from undertow.studies.beliefs.context import Context, Panel, evenly
from undertow.studies.beliefs.directions import harmfulness_direction, refusal_direction
from undertow.studies.beliefs.dissociation import (
    COEFFICIENTS,
    FLOOR,
    Curves,
    Effects,
    coefficient_at,
    control_statistic,
    estimate_dissociation,
    match,
    measure_dissociation,
    statistic,
)
from undertow.studies.beliefs.inversion import Tokens, answer_tokens, request_span
from undertow.studies.beliefs.result import Array, Dissociation

GRID = (0.0, 1.0, 2.0, 4.0)


def line(refusal: float, judgement: float, boundary: float = 1.0) -> Curves:
    """Both effects in proportion to the coefficient."""
    return Curves(GRID, refusal * np.array(GRID), judgement * np.array(GRID), boundary)


def bent(refusal: list[float], judgement: list[float], boundary: float = 1.0) -> Curves:
    return Curves(GRID, np.array(refusal), np.array(judgement), boundary)


@pytest.mark.parametrize(
    ("curve", "level", "expected"),
    [
        ([0, 1, 2, 4], 0.0, 0.0),
        ([0, 1, 2, 4], 0.5, 0.5),
        ([0, 1, 2, 4], 2.0, 2.0),
        ([0, 1, 2, 4], 3.0, 3.0),
        ([0, 1, 2, 4], 9.0, 4.0),
        ([0, 1, 2, 4], -0.5, -0.5),
        ([0, 1, 2, 4], -9.0, -4.0),
        ([0, 2, -1, 2], 1.0, 0.5),
        ([0, -1, 1, 3], 0.5, 1.75),
        ([0, -1, -2, -4], 0.5, 4.0),
        ([0, 0, 1, 1], 1.0, 2.0),
    ],
)
def test_the_smallest_coefficient_that_reaches_a_level(curve: list[float], level: float, expected: float) -> None:
    assert coefficient_at(bent(curve, [0, 0, 0, 0]), level) == pytest.approx(expected)


def test_both_reach_even_odds() -> None:
    first, second = line(0.5, 2.0), line(2.0, 0.1)
    assert match(first, second) == pytest.approx((2.0, 0.5, 1.0))
    assert statistic(first, second) == pytest.approx(2 * 2.0 - 0.5 * 0.1)
    assert statistic(second, first) == pytest.approx(0.5 * 0.1 - 2 * 2.0)


def test_the_stronger_is_turned_down_to_the_peak_of_the_weaker() -> None:
    first, second = bent([0, 0.3, 0.6, 0.4], [0, 1, 2, 5]), line(1.0, 0.5, boundary=8.0)
    assert match(first, second) == pytest.approx((2.0, 0.6, 0.6))
    assert statistic(first, second) == pytest.approx(2.0 - 0.3)
    assert match(second, first) == pytest.approx((0.6, 2.0, 0.6))


def test_prompts_at_even_odds_already_are_compared_at_the_floor() -> None:
    found = match(line(0.5, 1.0, boundary=-3.0), line(1.0, 1.0, boundary=-3.0))
    assert found == pytest.approx((FLOOR / 0.5, FLOOR, FLOOR))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("weak", "level", "turned"),
    [
        ([0, 0.05, 0.1, 0.2], 0.2, 0.1),
        ([0, 0.0, 0.0, 0.0], 0.0, 0.0),
        ([0, 0.1, 0.2, -0.4], -0.4, -0.2),
        ([0, -1.0, -2.0, -4.0], -4.0, -2.0),
    ],
)
def test_one_that_hardly_moves_refusal_is_taken_whole(
    weak: list[float], level: float, turned: float, swapped: bool
) -> None:
    """The other one is turned to what it does: as little, nothing, or back."""
    weaker, stronger = bent(weak, [0, 1, 2, 3]), line(2.0, 0.5)
    found = match(stronger, weaker) if swapped else match(weaker, stronger)
    expected = (turned, 4.0) if swapped else (4.0, turned)
    assert found == pytest.approx((*expected, level))
    difference = 3.0 - 0.5 * turned
    value = statistic(stronger, weaker) if swapped else statistic(weaker, stronger)
    assert value == pytest.approx(-difference if swapped else difference)


def test_neither_moving_refusal_still_gives_a_number() -> None:
    nothing = line(0.0, 1.5)
    assert statistic(nothing, line(0.0, 0.5)) == pytest.approx(4 * 1.5)


def test_the_control_turns_the_second_to_what_random_does() -> None:
    second = line(2.0, 0.5)
    for slope, turned in ((0.1, 0.1), (-0.1, -0.1), (0.0, 0.0)):
        random = line(slope, 0.3)
        assert control_statistic(random, second, 2.0) == pytest.approx(2 * 0.3 - turned * 0.5)
        assert control_statistic(random, second, -2.0) == pytest.approx(-2 * 0.3 + turned * 0.5)
    assert control_statistic(second, second, 2.0) == pytest.approx(0.0)


def effects(
    generator: np.random.Generator, n: int, refusal: float, judgement: float, noise: float, boundary: float = -1.0
) -> Effects:
    """In proportion to the coefficient, every prompt with slopes of its own around those given."""
    grid = np.array(GRID)[:, None]
    slopes = [centre + noise * generator.normal(size=n) for centre in (refusal, judgement)]
    return Effects(GRID, grid * slopes[0], grid * slopes[1], np.full(n, boundary))


def test_a_known_dissociation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusal 0.5 and 2 a unit, judgement 1 and 0.4: at even odds (1 nat) D = 2 * 1 - 0.5 * 0.4."""
    monkeypatch.setattr(module, "RESAMPLES", 200)
    generator = np.random.default_rng(0)
    exact = [effects(generator, 6, *slopes, noise=0.0) for slopes in ((0.5, 1.0), (2.0, 0.4), (0.0, 0.0))]
    value, control = estimate_dissociation(exact[0], exact[1], [exact[2]], 0)
    assert tuple(value) == pytest.approx((1.8, 1.8, 1.8, 6)) and tuple(control) == pytest.approx((0, 0, 0, 6))

    covered, widths = 0, []
    for trial in range(60):
        made = [effects(generator, 40, *slopes, noise=0.2) for slopes in ((0.5, 1.0), (2.0, 0.4), (0.0, 0.0))]
        value, _ = estimate_dissociation(made[0], made[1], [made[2]], trial)
        covered += value.low <= 1.8 <= value.high
        widths.append(value.high - value.low)
        assert value.low < value.value < value.high
    # A share of 0.95 gives fewer than 51 of 60 once in 300 times.
    assert covered >= 51
    large = [effects(generator, 640, *slopes, noise=0.2) for slopes in ((0.5, 1.0), (2.0, 0.4), (0.0, 0.0))]
    value, _ = estimate_dissociation(large[0], large[1], [large[2]], 0)
    assert value.n == 640 and value.high - value.low == pytest.approx(np.mean(widths) / 4, rel=0.35)


def test_the_interval_is_the_bootstrap_of_the_whole_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against resampling prompts by hand, with the level and both coefficients found anew each time."""
    monkeypatch.setattr(module, "RESAMPLES", 400)
    generator = np.random.default_rng(1)
    n = 30
    first, second = (effects(generator, n, *slopes, noise=0.5) for slopes in ((0.5, 1.0), (2.0, 0.4)))
    value, _ = estimate_dissociation(first, second, [first], 0)
    drawn = []
    for _ in range(2000):
        rows = generator.integers(0, n, n)
        slopes = [[one.refusal[1, rows].mean(), one.judgement[1, rows].mean()] for one in (first, second)]
        level = max(min(4 * slopes[0][0], 4 * slopes[1][0], 1.0), FLOOR)
        drawn.append(level / slopes[0][0] * slopes[0][1] - level / slopes[1][0] * slopes[1][1])
    low, high = np.quantile(drawn, [0.025, 0.975])
    reach = high - low
    assert value.low == pytest.approx(low, abs=0.12 * reach) and value.high == pytest.approx(high, abs=0.12 * reach)


def test_directions_that_mean_nothing_give_an_interval_that_holds_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESAMPLES", 120)
    generator = np.random.default_rng(2)
    held = 0
    for trial in range(100):
        pair = [effects(generator, 30, *pair, noise=0.2) for pair in ((0.5, 1.0), (2.0, 0.4))]
        # Directions differ more than prompts do, so that eight of them are all there is to go by.
        slopes = generator.normal(0, 0.3, (8, 2))
        randoms = [effects(generator, 30, refusal, judgement, noise=0.05) for refusal, judgement in slopes]
        _, control = estimate_dissociation(pair[0], pair[1], randoms, trial)
        held += control.low <= 0 <= control.high
    assert 88 <= held <= 100
    biased = [effects(generator, 30, 0.0, 1.0, noise=0.4) for _ in range(8)]
    _, control = estimate_dissociation(pair[0], pair[1], biased, 0)
    assert control.low > 0


@pytest.mark.parametrize("count", [8, 20])
def test_few_random_directions_get_the_width_of_students_t(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """No prompt differs from another, so the interval is that of the mean over directions."""
    monkeypatch.setattr(module, "RESAMPLES", 3000)
    generator = np.random.default_rng(3)
    slopes = generator.normal(0, 0.3, count)
    first, second = (effects(generator, 4, *pair, noise=0.0) for pair in ((0.5, 1.0), (2.0, 0.0)))
    randoms = [effects(generator, 4, 0.0, slope, noise=0.0) for slope in slopes]
    _, control = estimate_dissociation(first, second, randoms, 0)
    expected = stats.t.interval(0.95, count - 1, 2 * slopes.mean(), 2 * slopes.std(ddof=1) / np.sqrt(count))
    width = expected[1] - expected[0]
    assert control.value == pytest.approx(2 * slopes.mean())
    assert control.high - control.low == pytest.approx(width, rel=0.08)


@pytest.fixture(scope="module")
def context() -> Context:
    return replace(small_context(), most=4)


@pytest.fixture(scope="module")
def tokens(context: Context) -> Tokens:
    found = answer_tokens(context)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def measured(context: Context, tokens: Tokens) -> Dissociation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RANDOM_DIRECTIONS", 2)
        patch.setattr(module, "DEVELOPMENT", 4)
        patch.setattr(module, "RESAMPLES", 50)
        found = measure_dissociation(context, tokens)
    assert found is not None
    return found


def logits_by_hand(context: Context, prompt: Any, state: int, added: Any, span: list[int]) -> Array:
    """Log-probabilities of the first reply token, from transformers, a vector added to the input of a block."""
    chat = context.chat
    rendered = chat.render(prompt)
    block: Any = chat.anatomy.blocks[state]

    def add(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        hidden = (arguments[0] if arguments else keywords["hidden_states"]).clone()
        hidden[:, span] += added
        return ((hidden, *arguments[1:]), keywords) if arguments else (arguments, keywords | {"hidden_states": hidden})

    handle = block.register_forward_pre_hook(add, with_kwargs=True)
    try:
        with torch.no_grad():
            logits = chat.model(torch.tensor([rendered.ids])).logits[0, -1]
    finally:
        handle.remove()
    return np.asarray(torch.log_softmax(logits.double(), -1).numpy())


@pytest.mark.parametrize(("name", "place"), [("harmfulness", 4), ("refusal", 7)])
def test_a_point_of_each_path_against_plain_transformers(
    context: Context, tokens: Tokens, measured: Dissociation, name: str, place: int
) -> None:
    make = {"harmfulness": harmfulness_direction, "refusal": refusal_direction}[name]
    path = next(one for one in measured.paths if one.direction == name)
    assert path.coefficients == COEFFICIENTS and path.span == {"harmfulness": "instruction", "refusal": "prompt"}[name]
    vector = make(context.fit)[path.state] * COEFFICIENTS[place]
    openings = context.openings
    assert openings is not None and openings.answer_tokens is not None

    def odds(found: Array, first: tuple[int, ...], second: tuple[int, ...]) -> float:
        return float(np.log(np.exp(found[list(first)]).sum() / np.exp(found[list(second)]).sum()))

    rows = evenly(context.test.rows(harmful=False, refused=False, family=""), 4)
    refusal, judgement = [], []
    for number, row in enumerate(rows):
        prompt = context.test.prompts[row]
        wording = WORDINGS[number % len(WORDINGS)]
        asked = invert(prompt, wording)
        bare, whole = context.chat.render(prompt), context.chat.render(asked)
        if name == "refusal":
            spans = [list(range(len(bare))), list(range(len(whole)))]
        else:
            spans = [list(bare.instruction), list(request_span(context.chat, asked, wording))]
        sides: list[Array] = [np.array([0.0, 0.0])] * 2
        for side, sign in enumerate((1, -1)):
            plain = logits_by_hand(context, prompt, path.state, sign * vector, spans[0])
            question = logits_by_hand(context, asked, path.state, sign * vector, spans[1])
            sides[side] = np.array(
                [odds(plain, openings.refusal_tokens, openings.answer_tokens), odds(question, tokens.yes, tokens.no)]
            )
        moved = (sides[0] - sides[1]) / 2
        refusal.append(moved[0])
        judgement.append(moved[1])
    assert path.refusal[place] == pytest.approx(np.mean(refusal), abs=2e-3)
    assert path.judgement[place] == pytest.approx(np.mean(judgement), abs=2e-3)


def test_the_paths_carry_the_statistic(context: Context, measured: Dissociation) -> None:
    """The value is the gap between the paths where they are ringed, and both stand at the level there."""
    first, second, random = measured.paths
    assert [path.direction for path in measured.paths] == ["harmfulness", "refusal", "random"]
    rings = {
        path.direction: [np.interp(path.matched, path.coefficients, one) for one in (path.refusal, path.judgement)]
        for path in (first, second)
    }
    assert measured.value.value == pytest.approx(rings["harmfulness"][1] - rings["refusal"][1])
    assert rings["harmfulness"][0] == pytest.approx(measured.level, abs=1e-6)
    assert rings["refusal"][0] == pytest.approx(measured.level, abs=1e-6)
    assert random.state == first.state and random.matched == first.matched
    assert random.coefficients == pytest.approx([0.0, *(share * first.matched for share in (0.75, 1.0, 1.25))])
    for path in measured.paths:
        assert path.refusal[0] == path.judgement[0] == 0.0
    assert measured.value.n == 4 and len(measured.by_state) == context.chat.layers
    assert np.isfinite(measured.by_state).all()


def test_the_organism_dissociates(measured: Dissociation) -> None:
    assert measured.value.low > 0 and abs(measured.control.value) < measured.value.value / 2


def test_the_state_is_the_one_that_moves_refusal_most(context: Context, tokens: Tokens, measured: Dissociation) -> None:
    """By hand, on the same fit prompts; the judgement has no say."""
    rows = evenly(context.fit.rows(harmful=False, refused=False, family=""), 4)
    vectors = refusal_direction(context.fit)
    means = []
    for state in range(context.chat.layers):
        found = []
        for coefficient in (1.0, 2.0, 4.0):
            for row in rows:
                prompt = context.fit.prompts[row]
                span = list(range(len(context.chat.render(prompt))))
                logits = logits_by_hand(context, prompt, state, vectors[state] * coefficient, span)
                found.append(np.exp(logits[list(tokens.refusal)]).sum())
        means.append(np.mean(found))
    assert measured.paths[1].state == int(np.argmax(means))


def test_what_it_needs(context: Context, tokens: Tokens) -> None:
    assert measure_dissociation(replace(context, openings=None), tokens) is None
    rows = context.test.rows(harmful=True)
    few = Panel(context.test.observed.part(rows), np.full(len(rows), -1))
    with pytest.raises(UndertowError, match="harmless prompts that the model answers"):
        measure_dissociation(replace(context, test=few), tokens)


def test_a_direction_that_lowers_refusal_is_matched_backwards(
    context: Context, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reverse of refusal steering never reaches a level, so harmfulness is compared while subtracted."""
    monkeypatch.setattr(module, "RANDOM_DIRECTIONS", 1)
    monkeypatch.setattr(module, "DEVELOPMENT", 2)
    monkeypatch.setattr(module, "RESAMPLES", 20)
    monkeypatch.setattr(module, "COEFFICIENTS", (0.0, 1.0, 2.0))
    monkeypatch.setattr(module, "swept_states", lambda layers: (2,))
    monkeypatch.setattr(module, "refusal_direction", lambda panel: -refusal_direction(panel))
    found = measure_dissociation(context, tokens)
    assert found is not None
    first, second, random = found.paths
    assert found.level < 0 and first.matched < 0 and second.matched == 2.0
    assert list(random.coefficients) == sorted(random.coefficients)
    assert second.refusal[-1] == pytest.approx(found.level)
    expected = -np.interp(-first.matched, first.coefficients, first.judgement) - second.judgement[-1]
    assert found.value.value == pytest.approx(expected)
    assert np.isfinite(found.control[:3]).all() and found.control.value != 0.0
