from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from undertow.errors import GuardError, GuardMismatchError
from undertow.guard import LatentGuard
from undertow.guard.directions import BeliefDirections, measure_directions

RANDOM = np.random.default_rng(0)


def clusters(sides: np.ndarray, states: int = 3, width: int = 5) -> np.ndarray:
    """States whose sides lie two apart along the first axis, but for state 0, where they coincide."""
    values = RANDOM.normal(scale=0.1, size=(len(sides), states, width))
    values[:, 1:, 0] += np.where(sides, 2.0, 0.0)[:, None]
    return values.astype(np.float32)


def example() -> BeliefDirections:
    harmful = np.arange(40) % 2 == 0
    refused = np.arange(40) % 4 < 2
    return measure_directions(clusters(harmful), harmful, clusters(refused), refused, harmful)


def test_means_read_minus_one_and_plus_one_between_them_linearly() -> None:
    found = example()
    low, high = found.means("harmfulness")
    np.testing.assert_allclose(found.read("harmfulness", low[None])[0, 1:], -1, atol=1e-5)
    np.testing.assert_allclose(found.read("harmfulness", high[None])[0, 1:], 1, atol=1e-5)
    np.testing.assert_allclose(found.read("harmfulness", (low + high)[None, 1:] / 2, [1, 2])[0], 0, atol=1e-5)
    np.testing.assert_allclose(found.difference("harmfulness")[1:, 0], 2, atol=0.1)


def test_states_that_do_not_tell_the_sides_apart_are_not_read() -> None:
    found = example()
    assert np.isnan(found.read("harmfulness", found.harmfulness[0][None])[0, 0])
    assert found.separations["harmfulness"][0] < 1 < found.separations["harmfulness"][1]


def test_refusal_weighs_harmful_and_harmless_prompts_alike() -> None:
    # 30 harmful prompts refused, 6 answered, and the other way round: a plain mean would mix harm into refusal.
    harmful = np.array([True] * 36 + [False] * 36)
    refused = np.array([True] * 30 + [False] * 6 + [True] * 6 + [False] * 30)
    states = np.zeros((72, 2, 3), dtype=np.float32)
    states[:, :, 0] = refused[:, None]
    states[:, :, 1] = harmful[:, None]
    found = measure_directions(states, harmful, states, refused, harmful)
    np.testing.assert_allclose(found.difference("refusal", 1), [1, 0, 0], atol=1e-6)
    assert found.counts == {"harmfulness": (36, 36), "refusal": (36, 36)}


def test_measuring_takes_little_memory_beside_the_states() -> None:
    sides = np.arange(200) % 2 == 0
    states = clusters(sides, states=40, width=256)
    tracemalloc.start()
    try:
        measure_directions(states, sides, states, sides, sides)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < states.nbytes / 4


def test_without_refusals_there_is_no_refusal_direction() -> None:
    harmful = np.arange(10) % 2 == 0
    found = measure_directions(clusters(harmful), harmful, clusters(harmful), np.zeros(10, dtype=bool), harmful)
    assert found.names == ("harmfulness",)
    with pytest.raises(GuardError, match="no refusal directions"):
        found.difference("refusal")


def test_a_guard_keeps_its_directions_and_verdicts_do_not_depend_on_them(guard: LatentGuard, tmp_path: Path) -> None:
    directions = guard.directions
    assert directions is not None
    again = LatentGuard.from_pretrained(guard.save_pretrained(tmp_path / "guard"), model=guard.model)
    assert again.directions is not None
    np.testing.assert_array_equal(again.directions.harmfulness, directions.harmfulness)
    assert again.directions.counts == directions.counts and again.directions.separations == directions.separations
    assert again.fingerprint == guard.fingerprint
    guard.directions = None
    try:
        bare = LatentGuard.from_pretrained(guard.save_pretrained(tmp_path / "bare"), model=guard.model)
    finally:
        guard.directions = directions
    assert bare.directions is None and bare.fingerprint == guard.fingerprint


def test_a_guards_directions_are_means_of_captured_states(guard: LatentGuard) -> None:
    from tests.guard.taught import many

    assert guard.directions is not None
    harmful = guard.model.capture(many("harmful", 30, 5), positions=["t_inst"], progress=False).at("t_inst")
    harmless = guard.model.capture(many("harmless", 30, 5), positions=["t_inst"], progress=False).at("t_inst")
    readings = [guard.directions.read("harmfulness", values.numpy()).mean(axis=0)[-1] for values in (harmless, harmful)]
    assert readings[0] < -0.4 and readings[1] > 0.4
    direction = guard.directions.direction("refusal", "abc")
    assert direction.kind == "refusal" and direction.position == "t_post" and direction.fingerprint == "abc"
    torch.testing.assert_close(direction.values, torch.from_numpy(guard.directions.difference("refusal")))


@pytest.mark.parametrize("damage", ["missing", "misshapen", "separations"])
def test_damaged_directions_are_refused(damage: str) -> None:
    found = example()
    values, tensors = found.to_dict(), found.tensors()
    if damage == "missing":
        del tensors["directions.refusal"]
    elif damage == "misshapen":
        tensors["directions.refusal"] = tensors["directions.refusal"][:, :2]
    else:
        values["separations"]["refusal"] = [1.0]
    with pytest.raises((GuardError, KeyError)):
        BeliefDirections.from_dict(values, tensors)


@pytest.mark.parametrize("states", [3, 5])
def test_a_model_of_another_depth_cannot_be_forced(guard: LatentGuard, tmp_path: Path, states: int) -> None:
    assert guard.directions is not None and len(guard.directions.states) == 4
    means = np.resize(guard.directions.harmfulness, (2, states, guard.model.width))
    other = BeliefDirections(means, None, {"harmfulness": (9, 9)}, {"harmfulness": (2.0,) * states})
    kept, guard.directions = guard.directions, other
    try:
        folder = guard.save_pretrained(tmp_path / "guard")
    finally:
        guard.directions = kept
    with pytest.raises(GuardMismatchError, match=f"reads states up to {states - 1} .* has states up to 3"):
        LatentGuard.from_pretrained(folder, guard.model, force=True)
