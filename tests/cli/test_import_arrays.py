from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import STATES, WIDTH, Ground, Run
from undertow import Direction


def test_a_direction_keeps_every_number(ground: Ground, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "d.safetensors"
    arguments = ("import", ground.centroids[1], "--as", "direction", "-o", output)
    outcome = run(*arguments, "--kind", "refusal", "--position", "t_post", "--json")
    assert outcome.code == 0 and outcome.json["arrays"] == {"array": [STATES, WIDTH]}
    direction = Direction.load(output)
    assert torch.equal(direction.values, torch.load(ground.centroids[1], weights_only=True).float())
    assert (direction.kind, direction.position, direction.states) == ("refusal", "t_post", tuple(range(STATES)))


@pytest.mark.parametrize("kind", ["centroids", "states"])
def test_centroids_and_states_keep_every_number(kind: str, ground: Ground, run: Run, tmp_path: Path) -> None:
    source = ground.states if kind == "states" else ground.centroids[0]
    output = tmp_path / "a.safetensors"
    outcome = run("import", source, "--as", kind, "-o", output)
    assert outcome.code == 0 and f"Saved in {output}" in outcome.out.replace("\n", "")
    [array] = load_file(output).values()
    assert torch.equal(array, torch.load(source, weights_only=True).float())


def test_one_of_several_arrays_is_taken_by_name(run: Run, tmp_path: Path) -> None:
    arrays = {"first": torch.ones(3, 8), "second": torch.arange(24.0).reshape(3, 8)}
    torch.save(arrays, tmp_path / "two.pt")
    output = tmp_path / "d.safetensors"
    assert run("import", tmp_path / "two.pt", "--as", "direction", "--name", "second", "-o", output).code == 0
    assert torch.equal(Direction.load(output).values, arrays["second"])


def test_overwrite_replaces(ground: Ground, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "d.safetensors"
    output.write_text("mine")
    arguments = ("import", ground.centroids[0], "--as", "centroids", "-o", output)
    assert run(*arguments).code == 2 and output.read_text() == "mine"
    assert run(*arguments, "--overwrite").code == 0 and len(load_file(output)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors"]
