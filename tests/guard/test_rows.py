from __future__ import annotations

from undertow.guard.rows import SCORES, Scorer, score_row
from undertow.guard.scan import LocalScorer
from undertow.prompts import Prompt


def test_a_row_has_its_keys_in_order_and_nothing_else() -> None:
    scores = {name: index for index, name in enumerate(reversed(SCORES))} | {"warnings": []}
    row = score_row(3, Prompt("hello", id="x"), True, scores)
    assert list(row) == ["row", "id", *SCORES, "error", "prompt"]
    assert row == {"row": 3, "id": "x", **{name: scores[name] for name in SCORES}, "error": None, "prompt": "hello"}
    assert score_row(4, Prompt("hello"), False, None, "why") == {
        "row": 4, "id": None, **dict.fromkeys(SCORES), "error": "why",
    }  # fmt: skip


def test_a_guard_is_no_scorer_and_its_scorer_is(guard) -> None:
    assert not isinstance(guard, Scorer)
    scorer = LocalScorer(guard)
    assert isinstance(scorer, Scorer)
    assert (scorer.fingerprint, scorer.chunk_rows, scorer.has_refusal) == (guard.fingerprint, 64, True)
