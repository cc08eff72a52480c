from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from tests.builders import tiny_chat, tiny_model
from undertow.errors import GuardError
from undertow.guard import LatentGuard
from undertow.guard.rules import LinearRule, NormedRule, rule_named, rule_names
from undertow.guard.rules.base import normalised_weights
from undertow.guard.selection import choose
from undertow.model import ChatModel
from undertow.prompts import Prompt


def clusters(count: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3 == 0
    rows = generator.normal(size=(count, width)) * np.exp(generator.normal(size=width)) + 2 * generator.normal(
        size=width
    )
    rows += labels[:, None] * generator.normal(size=width)
    return rows[:, None].astype(np.float32), labels


def test_it_is_known_by_name_but_no_part_of_auto() -> None:
    assert rule_named("normed") is NormedRule and "normed" not in rule_names()
    assert {"centroid", "prototype", "linear"} <= set(rule_names())


@pytest.mark.parametrize(("norm", "epsilon"), [("root mean square", 0.0), ("root mean square", 0.5), ("layer", 1e-5)])
@pytest.mark.parametrize(("count", "width"), [(90, 12), (40, 70)])
def test_it_is_logistic_regression_through_the_origin_written_out(
    norm: str, epsilon: float, count: int, width: int
) -> None:
    features, labels = clusters(count, width)
    rule = NormedRule.fit(features, labels, (2,), regularisation=0.05, norm=norm, epsilon=epsilon)
    rows = features[:, 0].astype(float)
    if norm == "layer":
        rows = rows - rows.mean(1, keepdims=True)
    rows = rows / np.sqrt((rows**2).mean(1, keepdims=True) + epsilon)
    weights = normalised_weights(labels, None)
    mean = np.average(rows, axis=0, weights=weights)
    deviation = np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=weights))
    scaled = rows / deviation
    sign = np.where(labels, 1.0, -1.0)

    def loss(weight: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (scaled @ weight)
        slope = -sign * weights / (1 + np.exp(margin))
        value = 0.05 * (weights * np.logaddexp(0, -margin)).sum() + weight @ weight / 2
        return float(value), 0.05 * (slope @ scaled) + weight

    found = minimize(
        loss, np.zeros(width), jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-10, "ftol": 0}
    )
    np.testing.assert_allclose(rule.score(features), scaled @ found.x, atol=2e-4)


def test_arrays_and_settings_round_trip() -> None:
    features, labels = clusters(40, 9)
    rule = NormedRule.fit(features, labels, (3,), norm="layer", epsilon=1e-5)
    again = NormedRule.from_tensors(rule.tensors(), rule.states, rule.settings())
    np.testing.assert_array_equal(rule.score(features), again.score(features))
    assert again.settings() == {"regularisation": 0.03, "norm": "layer", "epsilon": 1e-5}


def test_the_length_of_a_state_does_not_matter() -> None:
    features, labels = clusters(40, 9)
    rule = NormedRule.fit(features, labels, (3,))
    np.testing.assert_allclose(rule.score(features * 7), rule.score(features), rtol=1e-5)
    linear = LinearRule.fit(features, labels, (3,))
    assert not np.allclose(linear.score(features * 7), linear.score(features), rtol=0.1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"norm": "batch", "epsilon": 0.0}, "not 'batch'"),
        ({"norm": "layer", "epsilon": -1.0}, "not -1.0"),
        ({"norm": "layer"}, "not None"),
    ],
)
def test_garbled_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(GuardError, match=words):
        NormedRule.from_tensors({"weight": np.ones((1, 4))}, (1,), settings)


def test_several_states_are_refused() -> None:
    with pytest.raises(GuardError, match="reads one state, not 2"):
        NormedRule((1, 2), np.ones((2, 4)), {"norm": "layer", "epsilon": 0.0})


@pytest.mark.parametrize(
    ("kind", "overrides", "norm", "epsilon"),
    [
        ("llama", {"rms_norm_eps": 1e-5}, "root mean square", 1e-5),
        ("qwen3", {"rms_norm_eps": 0.02}, "root mean square", 0.02),
        ("gemma2", {"rms_norm_eps": 1e-6}, "root mean square", 1e-6),
        ("gpt2", {"layer_norm_epsilon": 3e-4}, "layer", 3e-4),
        ("gpt_neox", {"layer_norm_eps": 1e-12}, "layer", 1e-12),
    ],
)
def test_kind_and_epsilon_are_read_off_the_model(
    kind: str, overrides: dict[str, float], norm: str, epsilon: float
) -> None:
    found = NormedRule.settings_for(tiny_chat(kind, **overrides))
    assert found["norm"] == norm
    assert found["epsilon"] == pytest.approx(epsilon, rel=1e-3, abs=1e-11)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_the_view_is_what_the_final_norm_gives_without_its_gains(kind: str) -> None:
    chat = tiny_chat(kind)
    states = torch.randn(5, 1, 64) * torch.tensor([1e-3, 0.1, 1.0, 10.0, 1e3])[:, None, None]
    norm = chat.anatomy.final_norm
    assert norm is not None
    with torch.no_grad():
        for name, parameter in norm.named_parameters():
            parameter.fill_(0.0 if kind == "gemma2" or name == "bias" else 1.0)
        expected = norm(states)
    found = NormedRule.view(states.numpy(), **NormedRule.settings_for(chat))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_guard_of_it_reads_one_state_and_tells_held_out_prompts_apart(
    chat: ChatModel, fit_prompts: tuple[list[Prompt], list[Prompt]]
) -> None:
    guard = LatentGuard.fit(chat, *fit_prompts, rule="normed", refusal_rule=None, steering=False, progress=False)
    rule = guard.harmfulness.rule
    assert rule.name == "normed" and len(rule.states) == 1
    assert rule.settings()["epsilon"] == pytest.approx(chat.model.config.rms_norm_eps, rel=1e-3)
    assert guard.harmfulness.curve.intercept == 0 and guard.harmfulness.curve.slope > 0
    assert guard.metrics["area"] > 0.95
    assert {line["rule"] for line in guard.harmfulness.table} == {"normed"}
    assert all(len(line["states"]) == 1 for line in guard.harmfulness.table)


def test_a_refusal_belief_of_it_has_a_curve_through_even_odds(
    chat: ChatModel, fit_prompts: tuple[list[Prompt], list[Prompt]]
) -> None:
    guard = LatentGuard.fit(chat, *fit_prompts, rule="linear", refusal_rule="normed", steering=False, progress=False)
    assert guard.refusal is not None and guard.refusal.rule.name == "normed"
    assert guard.refusal.curve.intercept == 0 and guard.refusal.curve.slope > 0
    assert guard.refusal.curve.probability(np.zeros(1)).tolist() == [0.5]
    assert guard.harmfulness.curve.intercept != 0


def test_state_0_is_never_chosen() -> None:
    features, labels = clusters(120, 10)
    states = np.concatenate([features, np.random.default_rng(0).normal(size=(120, 2, 10))], axis=1)
    assert choose(states, labels, (0, 1, 2), rule="linear").chosen.states == (0,)
    choice = choose(states, labels, (0, 1, 2), rule="normed", given={"norm": "layer", "epsilon": 0.1})
    assert choice.chosen.states[0] > 0 and all(line.states[0] > 0 for line in choice.table)
    assert choice.chosen.settings["epsilon"] == 0.1 and choice.chosen.settings["norm"] == "layer"


def test_a_model_without_a_final_norm_is_refused() -> None:
    chat = ChatModel(tiny_model("llama"), tiny_chat().tokenizer, name="bare")
    chat.anatomy.final_norm = None
    with pytest.raises(GuardError, match="needs a model with a final norm"):
        NormedRule.settings_for(chat)
