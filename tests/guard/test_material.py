from __future__ import annotations

import numpy as np
import pytest

from tests.guard.taught import fit_prompts, is_refused
from undertow.errors import GuardError
from undertow.guard import LatentGuard, material
from undertow.guard.calibration import Calibration
from undertow.guard.data import gather
from undertow.guard.material import FitSettings, prepare

SETTINGS = FitSettings(progress=False)


def test_states_and_behaviour_are_those_of_the_model(chat):
    found = prepare(chat, gather(*fit_prompts()), Calibration(), SETTINGS)
    prompts = found.data.prompts
    assert len(found.observed) == len(found.sampled) == len(prompts) == 400
    captured = chat.capture(list(prompts), progress=False)
    np.testing.assert_allclose(found.at_instruction(np.arange(400)), captured.at("t_inst"), atol=1e-5)
    np.testing.assert_allclose(found.at_end(np.arange(400)), captured.at("t_post"), atol=1e-5)
    np.testing.assert_allclose(
        found.at_instruction(np.array([7, 3]), (1, 3)), captured.at("t_inst")[[7, 3]][:, [1, 3]], atol=1e-5
    )
    assert (found.refused == [is_refused(prompt) for prompt in prompts]).mean() > 0.95
    assert len(found.fit_rows) == 280
    assert sorted([*found.fit_rows, *found.held_out]) == list(range(400))


def test_memory_is_bounded_and_every_prompt_is_still_used(chat, monkeypatch):
    monkeypatch.setattr(material, "STATE_ROWS", 150)
    monkeypatch.setattr(material, "BEHAVIOUR_ROWS", 90)
    found = prepare(chat, gather(*fit_prompts()), Calibration(), SETTINGS)
    assert (len(found.sampled), len(found.observed)) == (150, 90)
    assert set(found.observed) <= set(found.sampled)
    captured = chat.capture(list(found.data.prompts), progress=False)
    rows = np.arange(0, 400, 3)
    np.testing.assert_allclose(found.at_instruction(rows, (2,)), captured.at("t_inst")[rows][:, [2]], atol=1e-5)
    np.testing.assert_allclose(found.at_instruction(found.sampled), captured.at("t_inst")[found.sampled], atol=1e-5)
    np.testing.assert_allclose(found.at_end(found.observed), captured.at("t_post")[found.observed], atol=1e-5)
    assert found.behaviour.count("unknown") == 310
    guard = LatentGuard.fit(chat, *fit_prompts(), calibration=0.05, progress=False, steering=False)
    assert guard.training["harmful"] + guard.training["harmless"] == 280
    assert guard.training["behaviour_known"] == 90
    assert guard.metrics["area"] > 0.95


def test_no_behaviour_is_looked_at_when_nobody_asks(chat, monkeypatch):
    monkeypatch.setattr(type(chat), "generate", None)
    settings = FitSettings(progress=False, steering=False, refusal_rule=None)
    assert len(prepare(chat, gather(*fit_prompts()), Calibration(), settings).observed) == 0


def test_states_that_are_not_finite_are_refused():
    with pytest.raises(GuardError, match="not finite"):
        material._finite(np.array([1.0, np.inf]))
