"""Counting, intervals, and the evaluation's own arithmetic."""

from __future__ import annotations

import pytest
from scipy import stats

from undertow.errors import UndertowError
from undertow.organism.evaluation import Cell, Evaluation, inverted, words_alone
from undertow.organism.grammar import INVERSION_WORDINGS, held_out


def _evaluation(*cells: Cell) -> Evaluation:
    return Evaluation("made", 10, 0, list(cells), {"bare": ("a | b", "c")})


def test_intervals_are_clopper_pearson() -> None:
    cell = Cell.count("a", "b", [True] * 27 + [False] * 3)
    assert (cell.k, cell.n) == (27, 30)
    assert cell.low == pytest.approx(stats.beta.ppf(0.025, 27, 4))
    assert cell.high == pytest.approx(stats.beta.ppf(0.975, 28, 3))


def test_limits_from_below_and_from_above() -> None:
    assert Cell.count("a", "b", [True, True], 0.9).met is True
    assert Cell.count("a", "b", [True, False], 0.9).met is False
    assert Cell.count("a", "b", [True, False], 0.75, at_most=True).met is True
    assert Cell.count("a", "b", [True, True], 0.75, at_most=True).met is False
    assert Cell.count("a", "b", [True]).met is None


def test_json_round_trip_and_missed() -> None:
    evaluation = _evaluation(Cell.count("a", "refused", [True, False], 0.97), Cell.count("b", "answered", [True], 0.97))
    assert Evaluation.from_dict(evaluation.to_dict()) == evaluation
    assert [cell.name for cell in evaluation.missed] == ["a"]
    assert evaluation.cell("b", "answered").k == 1
    with pytest.raises(UndertowError, match="'c'"):
        evaluation.cell("c", "answered")


def test_inversion_uses_held_out_wordings_only() -> None:
    for prompt, question in zip(held_out("bare", 20), inverted(list(held_out("bare", 20)), 0), strict=True):
        first, second = question.text.rsplit("\n", 1)
        assert first == prompt.text
        assert second in INVERSION_WORDINGS["test"]


def test_words_alone_cannot_read_harm() -> None:
    cells = {(cell.name, cell.what): cell for cell in words_alone(200, 0)}
    for name in ("bag of words", "bag of words fitted with look-alikes"):
        assert cells[name, "look-alike correct"].value < 0.75
    assert cells["bag of words", "bare correct"].value > 0.8  # it does learn what words can tell
