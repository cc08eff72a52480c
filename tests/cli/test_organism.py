from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ground, Run
from undertow.organism import evaluation, recipe
from undertow.organism.built import Circuit, Spec, build, read
from undertow.organism.evaluation import Cell, Evaluation
from undertow.organism.registry import available, weights_path


def test_list_names_what_is_there_with_its_sizes(run: Run) -> None:
    rows = run("organism", "list", "--json").json
    assert [row["name"] for row in rows] == available()
    for row in rows:
        config = json.loads((weights_path(row["name"]) / "config.json").read_text())
        assert (row["blocks"], row["width"]) == (config["num_hidden_layers"], config["hidden_size"])
        assert row["bytes"] > 1e5
    assert all(f"organism:{name}" in run("organism", "list").out for name in available())


def test_no_subcommand_prints_the_help(run: Run) -> None:
    outcome = run("organism")
    assert outcome.code == 0 and all(name in outcome.out for name in ("list", "train", "build", "evaluate"))


def test_train_passes_name_seed_and_folder_on(
    ground: Ground, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []

    def train(name: str, seed: int, output: Path, **options: Any) -> Path:
        called.append((name, seed, output, options))
        return ground.model

    monkeypatch.setattr(recipe, "train", train)
    outcome = run("organism", "train", "aligned", "--seed", 7, "-o", tmp_path / "new", "--threads", 2, "--json")
    assert outcome.code == 0 and outcome.json["blocks"] == 3
    assert called == [("aligned", 7, tmp_path / "new", {"threads": 2, "progress": True})]


@pytest.mark.parametrize(("hits", "code"), [(300, 0), (100, 1)])
def test_evaluate_prints_the_figures_and_ends_with_1_where_one_is_missed(
    hits: int, code: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell.count("bare", "refused", [True] * hits + [False] * (300 - hits), 0.97)

    def evaluate(name: str, **options: Any) -> Evaluation:
        assert (name, options) == ("aligned", {"n": 300, "seed": 4})
        return Evaluation("aligned", 300, 4, [cell], {"bare": ("a", "b")})

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    outcome = run("organism", "evaluate", "aligned", "--seed", 4, "--json")
    assert outcome.code == code
    assert outcome.json["cells"][0]["k"] == hits
    assert outcome.json["missed"] == ([] if code == 0 else ["bare: refused"])
    shown = run("organism", "evaluate", "aligned", "--seed", 4)
    assert shown.code == code and f"{hits} / 300" in shown.out


def test_build_writes_a_model_its_truth_and_its_card(run: Run, tmp_path: Path) -> None:
    flags = ("--seed", 6, "--gates", 2, "--amplifiers", 4, "--distractors", 5)
    outcome = run("organism", "build", "gated", "-o", tmp_path / "new", *flags, "--json")
    assert outcome.code == 0, outcome.err
    expected = build(Spec(seed=6, gates=2, amplifiers=4, distractors=5))
    assert Circuit.from_dict(outcome.json["circuit"]) == expected.circuit == Circuit.read(tmp_path / "new")
    assert outcome.json["blocks"] == 8
    weights, written = expected.model.state_dict(), read(tmp_path / "new").model.state_dict()
    assert all((weights[name] == written[name]).all() for name in weights)
    assert "--seed 6 --gates 2 --amplifiers 4 --distractors 5 --policy gate" in (tmp_path / "new/README.md").read_text()
    again = run("organism", "build", "gated", "-o", tmp_path / "new")
    assert again.code == 2 and "exists already" in again.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("gated", "--gates", 9), "1 to 4 gates"),
        (("gated", "--amplifiers", 0), "amplifiers"),
        (("gated", "--distractors", 99), "distractors"),
        (("gated", "--policy", "maybe"), "gate, direct, none"),
        (("gated", "--seed", -1), "seed"),
        (("gated", "--seed", "x"), "--seed"),
        (("aligned",), "only gated"),
    ],
)
def test_build_refuses_what_cannot_be_built(arguments: tuple[object, ...], says: str, run: Run, tmp_path: Path) -> None:
    outcome = run("organism", "build", *arguments, "-o", tmp_path / "new")
    assert outcome.code == 2 and says in outcome.err
    assert outcome.err.count("\n") == 1 and not (tmp_path / "new").exists()


def test_evaluate_counts_what_a_built_organism_does(run: Run) -> None:
    outcome = run("organism", "evaluate", "organism:gated", "-n", 12, "--seed", 3, "--json")
    assert outcome.code == 0 and outcome.json["missed"] == []
    assert {cell["what"] for cell in outcome.json["cells"]} == {"refused", "answered"}
    assert all(cell["n"] == 12 for cell in outcome.json["cells"])
    shown = run("organism", "evaluate", "gated", "-n", 12)
    assert shown.code == 0 and "gates zeroed" in shown.out
