from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np

from tests.serve.served import settings_with
from undertow.guard import LatentGuard
from undertow.serve.inspector.about import describe, steerable_states


def test_it_names_model_guard_clusters_and_choices(guard: LatentGuard) -> None:
    about = json.loads(json.dumps(describe(guard, settings_with()), allow_nan=False))
    assert about["model"] == "taught" and about["layers"] == 3 and about["threshold"] == guard.threshold
    assert guard.belief_map is not None and guard.directions is not None and guard.steering is not None
    np.testing.assert_allclose(about["belief_map"]["harmfulness"], guard.belief_map.harmfulness, atol=1e-4)
    assert about["reads"]["harmfulness"]["states"] == list(guard.harmfulness.rule.states)
    refusal = next(direction for direction in about["directions"] if direction["name"] == "refusal")
    assert refusal["state"] == guard.steering.state and refusal["span"] == "tail"
    assert refusal["counts"] == list(guard.directions.counts["refusal"])
    assert about["choices"]["on_harmful"] == ["refuse"]
    assert describe(guard, settings_with(name="other"))["model"] == "other"


def test_no_folder_of_this_machine_gets_out(guard: LatentGuard) -> None:
    moved = copy.copy(guard)
    moved.model = copy.copy(guard.model)
    moved.model.name = "/somewhere/private/model-8b"
    assert describe(moved, settings_with())["model"] == "model-8b"


def test_states_that_cannot_be_read_cannot_be_steered(guard: LatentGuard) -> None:
    assert guard.directions is not None
    separations = {**guard.directions.separations, "refusal": (0.0, 3.0, 0.2, 9.0)}
    other = copy.copy(guard)
    other.directions = replace(guard.directions, separations=separations)
    assert steerable_states(other, "refusal") == [1, 3]
    refusal = next(one for one in describe(other, settings_with())["directions"] if one["name"] == "refusal")
    assert refusal["states"] == [1, 3] and refusal["state"] in (1, 3)


def test_an_older_guard_has_no_directions_and_no_clusters(guard: LatentGuard) -> None:
    older = copy.copy(guard)
    older.directions = older.belief_map = None
    about = describe(older, settings_with())
    assert about["directions"] == [] and about["belief_map"] is None
