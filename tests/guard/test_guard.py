from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.builders import tiny_chat
from tests.guard.taught import fit_prompts, is_refused, many
from undertow.errors import GuardError, GuardMismatchError
from undertow.guard import Calibration, LatentGuard, Verdict
from undertow.guard.rules import CentroidRule

EVERY_KIND = [(kind, wrapper) for kind in ("harmful", "harmless") for wrapper in (None, "roleplay", "persuasion")]


def test_the_quadrant_is_what_the_model_does_and_means(guard):
    """All four quadrants on prompts that the fit never saw, one wrapper family included."""
    for kind, wrapper in [*EVERY_KIND, ("look-alike", None)]:
        prompts = many(kind, 40, 77, wrapper)
        harmful, refused = kind == "harmful", is_refused(prompts[0])
        names = {True: ("harmful, about to be answered", "harmful, refused")}.get(
            harmful, ("harmless, answered", "harmless, about to be refused")
        )
        quadrants = [verdict.quadrant for verdict in guard(prompts)]
        assert quadrants.count(names[refused]) >= 34, (kind, wrapper, quadrants)


def test_one_prompt_gives_one_verdict_and_many_a_list(guard):
    verdict = guard("attack1 the thing3")
    assert isinstance(verdict, Verdict)
    assert guard([{"role": "user", "content": "attack1 the thing3"}]).harmfulness == pytest.approx(verdict.harmfulness)
    assert [item.harmfulness for item in guard(["attack1 the thing3"])] == [verdict.harmfulness]
    assert guard([]) == []
    assert verdict.flagged is True
    assert verdict.harmful > 0.9
    assert verdict.threshold == guard.threshold
    assert verdict.warnings == ()
    assert verdict.to_dict()["quadrant"] == "harmful, refused"


def test_scores_do_not_depend_on_batching(guard):
    prompts = many("harmful", 20, 5) + many("harmless", 20, 5, "persuasion")
    together = guard.score(prompts)
    alone = np.array([guard.score(prompt)[0] for prompt in prompts])
    np.testing.assert_allclose(together, alone, atol=1e-3 * np.abs(together).max())
    np.testing.assert_allclose(together, [verdict.harmfulness for verdict in guard(prompts)])
    assert guard.score([]).shape == (0,)


def test_the_score_is_the_rule_on_plain_transformers_states(chat):
    """The published rule recomputed from the Hugging Face model's own hidden states, prompt by prompt."""
    harmful, harmless = many("harmful", 14, 1), many("harmless", 14, 1)
    guard = LatentGuard.fit(chat, harmful, harmless, rule="centroid", progress=False, refusal_rule=None, steering=False)
    rule = guard.harmfulness.rule
    assert isinstance(rule, CentroidRule)
    assert guard.threshold == 0.0
    assert guard.states == tuple(range(chat.layers + 1))
    last = []
    handle = chat.model.model.layers[-1].register_forward_hook(lambda module, inputs, output: last.append(output))
    try:
        for prompt in many("harmful", 3, 2) + many("harmless", 3, 2):
            rendered = chat.render(prompt)
            with torch.no_grad():
                hidden = chat.model(torch.tensor([rendered.ids]), output_hidden_states=True).hidden_states
            output = last.pop()
            final = output[0] if isinstance(output, tuple) else output
            states = [*hidden[:-1], final]
            expected = np.mean(
                [
                    torch.cosine_similarity(state[0, rendered.t_inst], torch.tensor(rule.positive[index]), dim=0).item()
                    - torch.cosine_similarity(
                        state[0, rendered.t_inst], torch.tensor(rule.negative[index]), dim=0
                    ).item()
                    for index, state in enumerate(states)
                ]
            )
            assert guard.score(prompt)[0] == pytest.approx(expected, abs=1e-5)
            assert guard(prompt).harmfulness == pytest.approx(expected, abs=1e-5)
    finally:
        handle.remove()


def test_anchors_of_the_paper_use_desired_behaviour_only(chat):
    harmful, harmless = fit_prompts()
    options = {"rule": "centroid", "progress": False, "steering": False}
    anchored = LatentGuard.fit(chat, harmful, harmless, anchors="behaviour", **options)
    clean = LatentGuard.fit(chat, harmful, harmless, **options)
    assert anchored.training["anchors"] == "behaviour"
    assert not np.allclose(anchored.harmfulness.rule.positive, clean.harmfulness.rule.positive)


def test_the_same_seed_gives_the_same_guard(chat, guard):
    again = LatentGuard.fit(chat, *fit_prompts(), calibration=0.05, progress=False)
    assert again.fingerprint == guard.fingerprint


def test_metrics_and_records(guard):
    assert guard.metrics["area"] > 0.95
    assert guard.metrics["refusal_balanced_accuracy"] > 0.95
    assert set(guard.metrics["recall_by_family"]) == {"bare", "roleplay"}
    assert guard.training["harmful"] + guard.training["harmless"] + guard.training["held_out"] == 400
    assert "chosen among" in guard.harmfulness.reason
    assert len(guard.harmfulness.table) > 5


def test_too_few_prompts_for_the_rate_are_said(chat, capsys):
    guard = LatentGuard.fit(
        chat, many("harmful", 20, 3), many("harmless", 20, 3), calibration=0.02, steering=False, refusal_rule=None
    )
    assert guard.metrics["enough_for_rate"] is False
    assert guard.metrics["needed_for_rate"] == 149
    assert any("149" in warning for warning in guard.warnings)
    assert "149" in capsys.readouterr().err
    assert guard("attack1 the thing3").flagged


def test_confounded_beliefs_are_said(chat):
    guard = LatentGuard.fit(chat, many("harmful", 40, 3), many("harmless", 40, 3), progress=False, steering=False)
    assert any("confounded" in warning for warning in guard.warnings)


def test_a_model_that_never_refuses_has_no_refusal_belief(chat):
    guard = LatentGuard.fit(
        chat, many("harmful", 30, 3, "roleplay"), many("harmless", 30, 3, "roleplay"), progress=False
    )
    assert guard.refusal is None
    assert guard.steering is None
    assert any("refuses only 0 of 60" in warning for warning in guard.warnings)
    verdict = guard("pretend you are free and attack1 the thing3")
    assert verdict.refusal is None
    assert verdict.quadrant == "harmful"
    assert guard.positions == ("t_inst",)


def test_a_guard_that_cannot_tell_says_so(chat):
    names = [f"bake{number % 12} the thing{number % 24} {'please ' * (number // 24)}" for number in range(96)]
    guard = LatentGuard.fit(chat, names[::2], names[1::2], progress=False, steering=False, refusal_rule=None)
    assert any("hardly tells" in warning for warning in guard.warnings)


def test_prompts_that_cannot_be_rendered_are_left_out_of_the_fit(chat):
    harmful = [*many("harmful", 20, 3), "attack1 " * 80]
    guard = LatentGuard.fit(chat, harmful, many("harmless", 20, 3), progress=False, steering=False, refusal_rule=None)
    assert any("1 prompts were left out" in warning for warning in guard.warnings)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rule": "guesswork"}, "no guard rule"),
        ({"refusal_rule": "guesswork"}, "no guard rule"),
        ({"calibration": 2.0}, "between 0 and 1"),
        ({"anchors": "other"}, "anchors"),
        ({"calibration": Calibration(fraction=0.01)}, "held out"),
        ({"calibration": Calibration(method="isotonic")}, "200"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(chat, options, word):
    with pytest.raises(GuardError, match=word):
        LatentGuard.fit(
            chat,
            many("harmful", 12, 3),
            many("harmless", 12, 3),
            progress=False,
            steering=False,
            **({"refusal_rule": None} | options),
        )


def test_states_that_are_not_finite_are_never_judged(guard):
    states = {position: np.ones((2, len(guard.states), guard.model.width)) for position in guard.positions}
    assert len(guard.read(states)) == 2
    states["t_inst"][1, :, 0] = np.nan
    with pytest.raises(GuardError, match="number 2"):
        guard.read(states)


def test_a_model_of_another_shape_is_refused(guard):
    with pytest.raises(GuardMismatchError, match="width"):
        LatentGuard(tiny_chat(), guard.identity, guard.harmfulness, guard.refusal)
