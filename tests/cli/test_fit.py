from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Ground, Run, write_prompts
from tests.guard.taught import fit_prompts, many
from undertow import load
from undertow.guard import LatentGuard


def test_json_says_what_the_saved_guard_says(ground: Ground) -> None:
    found = ground.fit.json
    guard = LatentGuard.from_pretrained(ground.guard, model=load(ground.model))
    assert found["rule"] == guard.rule == "linear"
    assert found["threshold"] == guard.threshold and found["states"] == list(guard.harmfulness.rule.states)
    assert found["fingerprint"] == guard.fingerprint
    assert found["reason"] and found["metrics"]["threshold_sentence"]
    assert found["training"]["harmful"] + found["training"]["harmless"] + found["training"]["held_out"] == 400


def test_the_fitted_guard_tells_held_out_prompts_apart(ground: Ground) -> None:
    guard = LatentGuard.from_pretrained(ground.guard, model=load(ground.model))
    harmful, harmless = many("harmful", 40, 7), many("harmless", 40, 7)
    flagged = [verdict.flagged for verdict in guard([*harmful, *harmless])]
    assert sum(flagged[:40]) >= 36 and sum(flagged[40:]) <= 6


def test_one_labelled_file_prints_rule_reason_and_figures(ground: Ground, run: Run, tmp_path: Path) -> None:
    harmful, harmless = fit_prompts()
    both = write_prompts(tmp_path / "both.jsonl", harmful[:60] + harmless[:60])
    outcome = run("fit", ground.model, "--prompts", both, "-o", tmp_path / "guard", "--rule", "centroid")
    assert outcome.code == 0
    for words in ("rule centroid, read at t_inst", "why", "harmless prompts are flagged", "recall", "Saved in"):
        assert words in outcome.out
    assert LatentGuard.from_pretrained(tmp_path / "guard", model=load(ground.model)).threshold == 0.0


def test_what_limits_a_guard_is_said(ground: Ground, run: Run, tmp_path: Path) -> None:
    harmful, harmless = fit_prompts()
    both = write_prompts(tmp_path / "both.jsonl", harmful[:40] + harmless[:40])
    arguments = ("fit", ground.model, "--prompts", both, "-o", tmp_path / "guard", "--rule", "prototype")
    outcome = run(*arguments, "--false-positive-rate", "0.001", "--json")
    warnings = outcome.json["warnings"]
    assert any("too few prompts for the wanted rate of 0.10%" in warning for warning in warnings)
    assert all(f"note: {warning}" in outcome.err for warning in warnings)


def test_overwrite_replaces_the_guard(ground: Ground, run: Run, tmp_path: Path) -> None:
    harmful, harmless = fit_prompts()
    both = write_prompts(tmp_path / "both.jsonl", harmful[:40] + harmless[:40])
    arguments = ("fit", ground.model, "--prompts", both, "-o", tmp_path / "guard", "--json", "--rule")
    first, refused = run(*arguments, "centroid"), run(*arguments, "prototype")
    assert (first.code, refused.code) == (0, 2)
    second = run(*arguments, "prototype", "--overwrite")
    assert second.code == 0 and second.json["fingerprint"] != first.json["fingerprint"]
    assert LatentGuard.from_pretrained(tmp_path / "guard", model=load(ground.model)).rule == "prototype"


def test_the_seed_decides_the_split(ground: Ground, run: Run, tmp_path: Path) -> None:
    harmful, harmless = fit_prompts()
    both = write_prompts(tmp_path / "both.jsonl", harmful[:40] + harmless[:40])
    arguments = ("fit", ground.model, "--prompts", both, "--rule", "centroid", "--json", "--seed")
    runs = [run(*arguments, seed, "-o", tmp_path / name) for seed, name in ((1, "a"), (1, "b"), (2, "c"))]
    prints = [outcome.json["fingerprint"] for outcome in runs]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("flag", ["--prompt-column", "--label-column", "--category-column"])
def test_columns_can_be_named(flag: str, ground: Ground, run: Run, tmp_path: Path) -> None:
    harmful, harmless = fit_prompts()
    lines = [f"{prompt.text};{int(bool(prompt.harmful))};kind" for prompt in harmful[:30] + harmless[:30]]
    names = {"--prompt-column": "prompt", "--label-column": "harmful", "--category-column": "category"}
    names[flag] = "odd name"
    table = tmp_path / "both.csv"
    table.write_text("\n".join([";".join(names.values()), *lines]).replace(";", ",") + "\n")
    arguments = ("fit", ground.model, "--prompts", table, "-o", tmp_path / "guard", "--rule", "centroid", "--json")
    outcome = run(*arguments, flag, "odd name")
    assert outcome.code == 0, outcome.err
    assert outcome.json["training"]["harmful"] + outcome.json["training"]["harmless"] > 0
