from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.conftest import Ground, Run


def published(ground: Ground, position: int) -> np.ndarray:
    """The rule written out in numpy: mean over states of the difference of two cosines."""
    states = torch.load(ground.states, weights_only=True).double().numpy()[:, :, position]
    scores = []
    for path in ground.centroids:
        centre = torch.load(path, weights_only=True).double().numpy()[:, None]
        norms = np.linalg.norm(states, axis=-1) * np.linalg.norm(centre, axis=-1)
        scores.append((states * centre).sum(-1) / norms)
    return np.asarray((scores[0] - scores[1]).mean(0))


@pytest.mark.parametrize(("name", "position"), [("t_inst", 0), ("t_post", 1)])
def test_beliefs_equal_the_rule_in_numpy(name: str, position: int, ground: Ground, run: Run) -> None:
    harmful, harmless = ground.centroids
    outcome = run(
        "score-states", ground.states, "--harmful", harmful, "--harmless", harmless, "--position", name, "--json"
    )
    assert outcome.code == 0, outcome.err
    expected = published(ground, position)
    assert [row["belief"] for row in outcome.json["rows"]] == pytest.approx(expected, abs=1e-6)
    [summary] = outcome.json["arrays"]
    assert summary["positive"] == int((expected >= 0).sum()) and summary["n"] == len(expected)


def test_rows_are_written_and_counted(ground: Ground, run: Run, tmp_path: Path) -> None:
    harmful, harmless = ground.centroids
    output = tmp_path / "beliefs.jsonl"
    arguments = ("score-states", ground.states, "--harmful", harmful, "--harmless", harmless, "-o", output)
    outcome = run(*arguments)
    assert outcome.code == 0 and "believed harmful" in outcome.out
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["belief"] for row in rows] == pytest.approx(published(ground, 0), abs=1e-6)
    assert all(row["positive"] == (row["belief"] >= 0) for row in rows)
    assert run(*arguments).code == 2 and run(*arguments, "--overwrite").code == 0


def test_imported_files_score_as_the_originals(ground: Ground, run: Run, tmp_path: Path) -> None:
    sources = {"states": ground.states, "a": ground.centroids[0], "b": ground.centroids[1]}
    for name, path in sources.items():
        kind = "states" if name == "states" else "centroids"
        assert run("import", path, "--as", kind, "-o", tmp_path / f"{name}.safetensors").code == 0
    places = [tmp_path / f"{name}.safetensors" for name in sources]
    imported = run("score-states", places[0], "--harmful", places[1], "--harmless", places[2], "--json").json
    assert [row["belief"] for row in imported["rows"]] == pytest.approx(published(ground, 0), abs=1e-6)
