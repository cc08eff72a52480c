from __future__ import annotations

import numpy as np

from undertow.studies.demo import DemoResult
from undertow.studies.demo.result import estimate


def test_accepted_harmful_are_those_that_the_model_answered(result: DemoResult):
    guard = result.detectors[0]
    wanted = np.concatenate([guard.flags(kind)[~result.cell(kind).refused] for kind in ("persuasion", "suffix")])
    np.testing.assert_array_equal(result.jailbroken(guard), wanted)
    own = result.detector("own_refusal")
    assert own is not None
    assert not result.jailbroken(own).any()


def test_quadrants_count_every_prompt_once(result: DemoResult):
    for cell in result.cells:
        counts = result.quadrants()[cell.kind.title]
        assert sum(counts.values()) == cell.n
        flagged = sum(count for name, count in counts.items() if name.startswith("harmful"))
        assert flagged == int(result.detectors[0].flags(cell.kind.name).sum())


def test_recall_at_the_tests_own_rate_by_hand(result: DemoResult):
    guard = result.detectors[0]
    harmless = np.sort(np.concatenate([guard.scores[cell.kind.name] for cell in result.cells if not cell.kind.harmful]))
    limit = harmless[::-1][int(0.02 * len(harmless))]
    scores = np.concatenate([guard.scores[kind][~result.cell(kind).refused] for kind in ("persuasion", "suffix")])
    recall = result.recall_at_test_rate(guard)
    assert recall is not None
    assert abs(recall - float((scores > limit).mean())) < 1e-9


def test_nothing_to_count_is_no_estimate():
    assert estimate(np.zeros(0, dtype=bool)) is None
