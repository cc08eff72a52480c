from __future__ import annotations

import numpy as np

from tests.guard.taught import is_refused, many
from undertow.guard.behaviour import confounding_note, observe, sample_rows


def test_behaviour_is_what_the_model_was_taught(chat):
    prompts = many("harmful", 20, 4) + many("harmful", 20, 4, "roleplay") + many("look-alike", 20, 4)
    refused, notes = observe(chat, prompts, progress=False)
    assert (refused == [is_refused(prompt) for prompt in prompts]).mean() >= 0.95
    assert notes == ()


def test_replies_that_never_leave_their_reasoning_are_said(chat, monkeypatch):
    monkeypatch.setattr(type(chat), "generate", lambda self, prompts, **options: ["<think> hm"] * len(prompts))
    refused, notes = observe(chat, many("harmful", 10, 4), progress=False)
    assert not refused.any()
    assert "10 of 10 replies were still reasoning" in notes[0]


def test_small_kinds_are_looked_at_whole():
    strata = ["a"] * 1000 + ["b"] * 30 + ["c"] * 500
    rows = sample_rows(strata, 200, seed=0)
    taken = [strata[row] for row in rows]
    assert [taken.count(name) for name in "abc"] == [85, 30, 85]
    assert len(set(rows.tolist())) == 200
    assert sample_rows(strata, 2000, seed=0).tolist() == list(range(1530))


def test_confounding_is_named_only_where_it_is():
    harmful = np.arange(100) % 2 == 0
    assert "confounded" in (confounding_note(harmful, harmful) or "")
    mixed = harmful.copy()
    mixed[:10] = ~mixed[:10]
    assert confounding_note(mixed, harmful) is None
