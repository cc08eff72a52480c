from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.routed import small_context
from undertow.errors import UndertowError
from undertow.measure.judge import FirstTokenJudge
from undertow.measure.statistics import Estimate, clopper_pearson
from undertow.prompts.pairs import PairSet
from undertow.studies.routing import modulation as module
from undertow.studies.routing.context import Context, Half
from undertow.studies.routing.modulation import (
    RANDOM_DIRECTIONS,
    choose_site,
    judged,
    measure_modulation,
    separations,
    span_norm,
)
from undertow.studies.routing.readings import Circuit
from undertow.studies.routing.replies import evenly
from undertow.studies.routing.result import DoseCurve, Modulation

DOSES = (0.0, 0.5, 0.65, 1.5)
MOST = 8
SIGNS = {"sensitive": -1.0, "control": 1.0}


def circuit_of(*gates: tuple[int, int]) -> Circuit:
    return Circuit(gates, (), (), (), "", None, 24, Estimate(0.5, 0.4, 0.6, 8), 0.0)


@pytest.fixture(scope="module")
def modulation() -> Modulation:
    return measure_modulation(small_context(), circuit_of((5, 1), (3, 0)), doses=DOSES, most=MOST)


def curve_of(modulation: Modulation, prompts: str, direction: str, group: str = "all") -> DoseCurve:
    found = [one for one in modulation.curves if (one.prompts, one.direction, one.group) == (prompts, direction, group)]
    assert len(found) == 1
    return found[0]


def with_states(half: Half, sensitive: np.ndarray, control: np.ndarray) -> Half:
    """The half with states at t_inst made up."""
    sides = {
        name: replace(half.side(name), states={"t_inst": values.astype(np.float32)})
        for name, values in (("sensitive", sensitive), ("control", control))
    }
    return replace(half, sensitive=sides["sensitive"], control=sides["control"])


def made_up(gaps: list[float], n: int = 16, width: int = 12) -> Half:
    """States whose sides lie so far apart, in standard deviations, along a direction of each state's own."""
    generator = np.random.default_rng(0)
    axes = generator.standard_normal((len(gaps), width))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    noise = generator.standard_normal((2, n, len(gaps), width))
    shifted = noise[0] + np.array(gaps)[:, None] * axes
    same = np.array(gaps) == 0
    shifted[:, same] = noise[1][:, same]
    return with_states(small_context().choose, shifted, noise[1])


def unit_at(context: Context, state: int) -> np.ndarray:
    apart = context.choose.sensitive.states["t_inst"][:, state].astype(float) - context.choose.control.states["t_inst"][
        :, state
    ].astype(float)
    mean = apart.mean(0)
    return mean / np.linalg.norm(mean)


def replies_by_hooks(context: Context, side: str, state: int, span: str, vector: np.ndarray, tokens: int) -> list[Any]:
    """(refused, first token) of every report prompt, by a plain hook and plain generation, one prompt at a time."""
    chat, found = context.chat, []
    for row in evenly(range(16), MOST):
        prompt = context.report.prompts(side)[row]
        rendered = chat.render(prompt)
        where = list(rendered.span(span))

        def push(block: Any, inputs: Any, where: list[int] = where, length: int = len(rendered)) -> Any:
            hidden = inputs[0].clone()
            if hidden.shape[1] == length:
                hidden[0, where] += torch.from_numpy(vector).float()
            return (hidden, *inputs[1:])

        handle = chat.model.model.layers[state].register_forward_pre_hook(push)
        with torch.no_grad():
            ids = chat.model.generate(
                torch.tensor([rendered.ids]), max_new_tokens=tokens, do_sample=False, pad_token_id=0
            )[0, len(rendered) :].tolist()
        handle.remove()
        found.append(("I'm sorry" in chat.tokenizer.decode(ids, skip_special_tokens=True), ids[0]))
    return found


def test_the_state_lies_before_the_first_gate(modulation: Modulation) -> None:
    assert modulation.state <= 3
    assert modulation.before_gate
    assert f"State {modulation.state}" in modulation.note


def test_separations_find_the_state_that_tells_the_sides_apart() -> None:
    scores = separations(made_up([0.0, 1.0, 6.0, 3.0]))
    assert scores[0] == -np.inf
    assert np.argsort(scores).tolist() == [0, 1, 3, 2]
    assert 4.0 < scores[2] < 8.0


def test_separations_are_those_of_left_out_pairs() -> None:
    """Where nothing tells the sides apart, the direction of the same pairs would pretend that something does."""
    generator = np.random.default_rng(1)
    half = with_states(small_context().choose, *generator.standard_normal((2, 16, 30, 200)))
    scores = separations(half)
    apart = half.sensitive.states["t_inst"] - half.control.states["t_inst"]
    fooled = np.einsum("nld,ld->nl", apart, apart.mean(0) / np.linalg.norm(apart.mean(0), axis=1, keepdims=True))
    assert (fooled.mean(0) / fooled.std(0)).min() > 1.5
    assert abs(scores.mean()) < 0.5


def test_the_gate_limits_the_states() -> None:
    gaps = [0.0, 1.5, 3.0, 2.0, 5.0, 9.0, 12.0]
    context = replace(small_context(), choose=made_up(gaps, width=small_context().chat.width))
    assert context.chat.layers == 6
    assert choose_site(context, circuit_of((3, 1), (5, 0))).state == 2
    assert choose_site(context, circuit_of((5, 0))).state == 5
    early = choose_site(context, None)
    assert (early.state, early.before_gate) == (4, False)
    assert choose_site(context, circuit_of()).state == 4
    nothing = choose_site(context, circuit_of((0, 2)))
    assert (nothing.state, nothing.before_gate) == (4, False)
    assert "nothing differs" in nothing.reason


def test_no_signal_is_refused() -> None:
    context = replace(small_context(), choose=made_up([0.0] * 7))
    with pytest.raises(UndertowError, match="no detection signal"):
        choose_site(context, None)


def test_norm_is_that_of_the_residual_stream_over_the_span() -> None:
    context = small_context()
    for span in ("t_inst", "instruction"):
        norms = []
        for prompt in [*context.choose.prompts("sensitive"), *context.choose.prompts("control")]:
            rendered = context.chat.render(prompt)
            with torch.no_grad():
                states = context.chat.model(torch.tensor([rendered.ids]), output_hidden_states=True).hidden_states
            norms.append(states[2][0, list(rendered.span(span))].norm(dim=1).mean().item())
        assert span_norm(context, 2, span) == pytest.approx(np.mean(norms), rel=1e-4)


def test_replies_equal_those_of_plain_hooks(modulation: Modulation) -> None:
    context = small_context()
    unit = unit_at(context, modulation.state)
    assert context.openings.answer_tokens is not None
    for side, place in (("sensitive", 1), ("control", 2)):
        curve = curve_of(modulation, side, "detection")
        vector = SIGNS[side] * DOSES[place] * modulation.norm * unit
        seen = replies_by_hooks(context, side, modulation.state, modulation.span, vector, 8)
        refused = np.array([no for no, _ in seen])
        answered = np.array([first in context.openings.answer_tokens for _, first in seen]) & ~refused
        assert 0 < refused.mean() < 1
        assert curve.refusal[place] == pytest.approx(refused.mean())
        assert curve.answer[place] == pytest.approx(answered.mean())
        assert curve.evasion[place] == pytest.approx(1 - refused.mean() - answered.mean())


def test_random_is_the_mean_of_directions_of_the_same_length(modulation: Modulation) -> None:
    context = small_context()
    generator = torch.Generator().manual_seed(context.seed)
    noise = torch.randn(RANDOM_DIRECTIONS, context.chat.width, generator=generator, dtype=torch.float64).numpy()
    curve = curve_of(modulation, "sensitive", "random")
    shares = []
    for one in noise:
        vector = -1.5 * modulation.norm * one / np.linalg.norm(one)
        seen = replies_by_hooks(context, "sensitive", modulation.state, modulation.span, vector, 8)
        shares.append(np.mean([no for no, _ in seen]))
    assert curve.refusal[3] == pytest.approx(np.mean(shares))


def test_the_signal_moves_replies_both_ways_and_random_directions_less(modulation: Modulation) -> None:
    falling, rising = (curve_of(modulation, side, "detection") for side in SIGNS)
    assert falling.refusal[0] > 0.9 and falling.refusal[-1] < 0.2
    assert rising.refusal[0] < 0.1 and rising.refusal[-1] > 0.8
    for curve in (falling, rising):
        assert curve.threshold is not None
        assert curve.threshold.low <= curve.threshold.value <= curve.threshold.high
        assert 0 < curve.threshold.value < 1.5
    for side in SIGNS:
        random, detection = curve_of(modulation, side, "random"), curve_of(modulation, side, "detection")
        assert abs(random.refusal[-1] - random.refusal[0]) < abs(detection.refusal[-1] - detection.refusal[0]) / 2


def test_shares_sum_to_one_and_carry_exact_intervals(modulation: Modulation) -> None:
    for curve in modulation.curves:
        assert curve.n == MOST
        assert curve.doses == DOSES
        np.testing.assert_allclose(curve.refusal + curve.evasion + curve.answer, 1)
        for place, share in enumerate(curve.refusal):
            hits = share * curve.n
            if abs(hits - round(hits)) < 1e-9:
                wanted = clopper_pearson(round(hits), curve.n)
                assert (curve.low[place], curve.high[place]) == pytest.approx(tuple(wanted), abs=1e-6)
            assert curve.low[place] <= share <= curve.high[place]


def test_without_a_dose_replies_are_the_model_s_own(modulation: Modulation) -> None:
    for side in SIGNS:
        for direction in ("detection", "random"):
            curve = curve_of(modulation, side, direction)
            assert curve.refusal[0] == small_context().report.side(side).refused[evenly(range(16), MOST)].mean()


def test_detection_is_read_on_report_pairs(modulation: Modulation) -> None:
    report = small_context().report
    apart = report.sensitive.states["t_inst"] - report.control.states["t_inst"]
    values = apart[:, modulation.state].astype(float) @ unit_at(small_context(), modulation.state) / modulation.norm
    assert modulation.detection.value == pytest.approx(values.mean(), rel=1e-5)
    assert modulation.detection.low < values.mean() < modulation.detection.high
    assert modulation.detection.n == 16


def test_the_span_with_the_larger_effect_is_taken(modulation: Modulation) -> None:
    """One prompt at a time, by plain hooks, the gain of the direction itself is larger at the span that was taken."""
    context = small_context()
    unit = torch.from_numpy(unit_at(context, modulation.state)).float()
    gains = {}
    for span in ("t_inst", "instruction"):
        length = DOSES[2] * span_norm(context, modulation.state, span)
        moved = []
        for side, sign in SIGNS.items():
            for prompt in context.choose.prompts(side):
                rendered, scores = context.chat.render(prompt), []
                where = list(rendered.span(span))
                for amount in (0.0, sign * length):

                    def push(block: Any, inputs: Any, where: list[int] = where, amount: float = amount) -> Any:
                        hidden = inputs[0].clone()
                        hidden[0, where] += amount * unit
                        return (hidden, *inputs[1:])

                    handle = context.chat.model.model.layers[modulation.state].register_forward_pre_hook(push)
                    with torch.no_grad():
                        logits = context.chat.model(torch.tensor([rendered.ids])).logits[:, -1]
                    handle.remove()
                    scores.append(context.openings.scores(logits).item())
                moved.append(sign * (scores[1] - scores[0]))
        gains[span] = np.mean(moved)
    assert max(gains, key=lambda one: gains[one]) == modulation.span


def test_topics_and_languages_have_curves_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    context = small_context()
    pairs = PairSet(
        replace(pair, topic="first" if row < 5 else f"other {row % 4}", language="de" if row % 3 == 0 else "en")
        for row, pair in enumerate(context.report.pairs)
    )

    def told(context: Context, prompts: Any, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Row r is refused below the dose r / 10 + .05, and evaded above."""
        dose = context.chat.edits[0].value[0].norm().item() / norm if context.chat.edits else 0.0
        refused = np.array([dose <= (place % 16) / 10 + 0.05 for place in range(len(prompts))])
        return refused, np.zeros(len(prompts), dtype=bool)

    norm = span_norm(context, 3, "instruction")
    monkeypatch.setattr(module, "judged", told)
    changed = replace(context, report=replace(context.report, pairs=pairs))
    found = measure_modulation(changed, circuit_of((3, 0)), doses=(0.0, 0.3, 0.75, 1.5))
    assert found.span == "instruction" and found.state == 3
    names = [one.group for one in found.curves if (one.prompts, one.direction) == ("sensitive", "detection")]
    assert names == ["all", "first", "de", "en"]
    first, german = curve_of(found, "sensitive", "detection", "first"), curve_of(found, "control", "random", "de")
    assert first.n == 5 and german.n == 6
    np.testing.assert_allclose(first.refusal, [1.0, 2 / 5, 0.0, 0.0])
    np.testing.assert_allclose(first.evasion, [0.0, 3 / 5, 1.0, 1.0])
    np.testing.assert_allclose(german.refusal, [1.0, 5 / 6, 3 / 6, 1 / 6])


def test_an_answer_must_open_like_one() -> None:
    context = small_context()
    prompts = context.report.prompts("control")[:4]
    refused, answered = judged(context, prompts, 8)
    assert not refused.any() and answered.all()
    other = FirstTokenJudge(context.openings.refusal_tokens, (7,))
    assert not judged(replace(context, openings=other), prompts, 8)[1].any()
    anything = FirstTokenJudge(context.openings.refusal_tokens, None)
    assert judged(replace(context, openings=anything), prompts, 8)[1].all()
    refused, answered = judged(context, context.report.prompts("sensitive")[:4], 8)
    assert refused.all() and not answered.any()


def test_fewer_prompts_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def told(context: Context, prompts: Any, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Under the direction itself and the first random one, all refuse; under the other random ones, none."""
        asked.append(len(prompts))
        return np.arange(len(prompts)) < 24, np.zeros(len(prompts), dtype=bool)

    monkeypatch.setattr(module, "judged", told)
    found = measure_modulation(small_context(), None, doses=(0, 0.5, 1), most=6)
    assert {one.n for one in found.curves} == {6}
    assert asked == [12, 12 * (1 + RANDOM_DIRECTIONS), 12 * (1 + RANDOM_DIRECTIONS)]
    assert not found.before_gate
    for one in found.curves:
        share = 1 if one.direction == "detection" else 1 / RANDOM_DIRECTIONS
        np.testing.assert_allclose(one.refusal, [1, share, share])
        assert (one.threshold is None) == (one.direction == "detection")
        assert (one.low[1], one.high[1]) == pytest.approx(tuple(clopper_pearson(round(6 * share), 6)), abs=1e-6)


@pytest.mark.parametrize("doses", [(0.1, 0.2, 0.3), (0.0, 0.2, 0.2), (0.0, 1.0)])
def test_doses_must_rise_from_zero(doses: tuple[float, ...]) -> None:
    with pytest.raises(UndertowError, match="start at 0 and rise"):
        measure_modulation(small_context(), None, doses=doses)


def test_without_a_gate_the_signal_is_scaled_before_the_head_that_decides() -> None:
    context = small_context()
    for block in (1, 3):
        circuit = SimpleNamespace(gates=(), rows=(SimpleNamespace(head=(block, 0)),))
        site = choose_site(context, circuit)  # type: ignore[arg-type]
        assert site.state <= block and not site.before_gate
        assert f"state {block} is the input of the block of the head of largest necessity" in site.reason
