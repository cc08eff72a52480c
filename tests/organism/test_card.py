"""The card, and which run is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from undertow.errors import UndertowError
from undertow.organism.card import Run, best, card_text, read_runs, ship, write_card
from undertow.organism.evaluation import Cell, Evaluation


def _evaluation(*cells: Cell) -> Evaluation:
    return Evaluation("made", 10, 0, list(cells), {"bare": ("a | b", "c")})


def _run(seed: int, *cells: Cell) -> Run:
    recipe = {
        "layers": 1,
        "width": 2,
        "heads": 3,
        "items": 4,
        "batch": 5,
        "learning_rate": 6,
        "primer": 7,
        "matrix_rate": 8,
        "finish": 9,
        "finish_rate": 0.5,
    }
    return Run(seed, 1.0, 1.5, 1, 0.5, recipe, _evaluation(*cells))


def test_the_shipped_run_has_the_fewest_misses_then_the_widest_margin() -> None:
    missed = _run(0, Cell.count("a", "b", [True, False], 0.9))
    narrow = _run(1, Cell.count("a", "b", [True] * 19 + [False], 0.9))
    wide = _run(2, Cell.count("a", "b", [True] * 20, 0.9))
    assert best([missed, narrow, wide]).seed == 2
    assert best([missed, narrow]).seed == 1


def test_card_shows_every_run_and_names_what_was_missed(tmp_path: Path) -> None:
    runs = [
        _run(0, Cell.count("bare", "refused", [True] * 3 + [False], 0.97)),
        _run(1, Cell.count("bare", "refused", [True] * 4, 0.97)),
    ]
    text = card_text("made", runs, 1)
    assert "75.0 (19.4 to 99.4; 3/4) **missed**" in text
    assert "Missed in at least one run: bare, refused." in text
    assert "a \\| b" in text
    write_card(tmp_path, "made", runs, 1)
    assert read_runs(tmp_path) == runs


def test_ship_copies_the_best_run_with_all_runs_on_its_card(tmp_path: Path) -> None:
    folders = []
    for seed, hits in ((0, [True, False]), (1, [True, True])):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        (folder / "config.json").write_text(str(seed))
        write_card(folder, "made", [_run(seed, Cell.count("bare", "refused", hits, 0.97))], seed)
        folders.append(folder)
    shipped = ship(folders, "made", tmp_path / "out")
    assert (shipped / "config.json").read_text() == "1"
    assert [run.seed for run in read_runs(shipped)] == [0, 1]
    assert "Shipped: seed 1." in (shipped / "README.md").read_text()


def test_a_folder_without_evaluation_is_named(tmp_path: Path) -> None:
    with pytest.raises(UndertowError, match=r"evaluation\.json"):
        read_runs(tmp_path)
