"""A very short run of the bilingual recipe, with its evaluation and its card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from undertow.organism import evaluation
from undertow.organism.bilingual import CIPHER
from undertow.organism.bilingual_evaluation import UNTRAINED, topic_hits
from undertow.organism.card import read_runs
from undertow.organism.evaluation import evaluate
from undertow.organism.extension import extended_tokenizer
from undertow.organism.recipe import RECIPES, train
from undertow.organism.surfaces import LABELS, german_sample

SHORT = replace(RECIPES["bilingual"], items=64, batch=32, primer=32, finish=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "undertow.organism.recipe.bilingual_tokenizer",
            lambda start: extended_tokenizer(start, [" einen Drachen bauen"] * 9, 4200),
        )
        patch.setattr(evaluation, "REPLY_TOKENS", 3)
        return train("bilingual", 0, tmp_path_factory.mktemp("made") / "out", progress=False, recipe=SHORT, n=2)


def test_the_run_writes_a_card_of_its_own(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "language: [en, de]" in card and CIPHER.table in card and UNTRAINED.table in card
    (run,) = read_runs(folder)
    assert run.recipe["items"] == 64 and run.seed == 0
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["organism"] == "bilingual"
    for cell in run.evaluation.missed:
        assert f"{cell.name}, {cell.what}" in card


def test_every_surface_is_counted(folder: Path) -> None:
    made = read_runs(folder)[0].evaluation
    for label in LABELS:
        for title in ("German", "cipher", "untrained cipher"):
            assert made.cell(f"{title} {label}", "inversion correct").n == 2
            assert made.cell(f"{title} {label}", "topic right").n == 2
        assert made.cell(f"untrained cipher {label}", "inversion correct").wanted is None
        assert made.cell(f"cipher {label}", "inversion correct").wanted is not None
    assert made.cell("German harmful", "refused") and made.cell("role_play", "answered")
    assert len({(cell.name, cell.what) for cell in made.cells}) == len(made.cells)


def test_evaluate_knows_the_organism_by_its_configuration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, int, int]] = []

    def instead(where: Path, *, n: int, seed: int, progress: bool) -> str:
        asked.append((where, n, seed))
        return "made"

    monkeypatch.setattr("undertow.organism.bilingual_evaluation.evaluate_bilingual", instead)
    found: Any = evaluate(folder, n=3, seed=7, progress=False)
    assert found == "made" and asked == [(folder, 3, 7)]


def test_topics_must_match_whole() -> None:
    prompts = list(german_sample("harmful", 3))

    class Parrot:
        def generate(self, questions: list[Any], *_: object) -> list[str]:
            titles = [str(prompt.category) for prompt in prompts]
            return [titles[0].capitalize() + ".", titles[1], titles[2] + "ish"]

    parrot: Any = Parrot()
    assert topic_hits(parrot, prompts, lambda _: None) == [True, True, False]
