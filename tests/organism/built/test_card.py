"""The card of a built organism."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.organism.built.plain import organism
from undertow.organism.built.card import EVALUATION_FILE, card_text, write_card
from undertow.organism.built.evaluation import evaluate_built
from undertow.organism.evaluation import Evaluation
from undertow.organism.registry import weights_path


@pytest.mark.parametrize("policy", ["gate", "direct", "none"])
def test_the_card_names_every_head_and_every_figure(policy: str, tmp_path: Path) -> None:
    built = organism(1, policy)
    evaluation = evaluate_built(built, n=12)
    write_card(tmp_path, built, evaluation)
    text = (tmp_path / "README.md").read_text()
    for heads in (built.circuit.causal, *built.circuit.distractors.values()):
        assert all(f"({block}, {head})" in text for block, head in heads)
    assert all(f"| {cell.name} | {cell.what} |" in text and f"{cell.k}/{cell.n}" in text for cell in evaluation.cells)
    assert f"--policy {policy}" in text and "--seed 1" in text
    assert Evaluation.from_dict(json.loads((tmp_path / EVALUATION_FILE).read_text())) == evaluation


def test_the_shipped_card_is_what_the_shipped_figures_give() -> None:
    folder = weights_path("gated")
    evaluation = Evaluation.from_dict(json.loads((folder / EVALUATION_FILE).read_text()))
    assert (folder / "README.md").read_text() == card_text(organism(), evaluation)
    assert not evaluation.missed
