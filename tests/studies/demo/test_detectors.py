from __future__ import annotations

import numpy as np
import pytest

from undertow.guard import LatentGuard
from undertow.measure import BagOfWords
from undertow.studies.demo import DemoResult
from undertow.studies.demo.behaviour import observe
from undertow.studies.demo.detectors import CALIBRATION, Bench
from undertow.studies.demo.kinds import fit_prompts


def test_the_saved_guard_comes_first_and_scores_as_it_does_alone(result: DemoResult):
    detector = result.detectors[0]
    assert detector.role == "guard"
    for kind in ("persuasion", "look-alike"):
        prompts = result.cell(kind).observed.prompts
        np.testing.assert_allclose(detector.scores[kind], result.guard.score(prompts), atol=1e-3)
        flagged = [verdict.flagged for verdict in result.guard(prompts)]
        np.testing.assert_array_equal(detector.flags(kind), flagged)


def test_a_rival_is_the_guard_that_fit_makes_of_its_rule(result: DemoResult):
    fitted = fit_prompts(result.n, result.seed)
    alone = LatentGuard.fit(
        result.guard.model,
        fitted.positive,
        fitted.negative,
        rule="centroid",
        calibration=CALIBRATION,
        seed=result.seed,
        refusal_rule=None,
        steering=False,
        progress=False,
    )
    detector = result.detector("centroid")
    assert detector is not None
    assert detector.threshold == pytest.approx(alone.threshold, abs=1e-4)
    prompts = result.cell("suffix").observed.prompts
    np.testing.assert_allclose(detector.scores["suffix"], alone.score(prompts), atol=1e-4)


def test_bag_of_words_is_fitted_on_the_fit_rows_alone(result: DemoResult):
    fitted = fit_prompts(result.n, result.seed)
    bench = Bench.prepare(observe(result.guard.model, fitted.prompts, False), result.cells, result.seed)
    assert not set(bench.fit_rows) & set(bench.held_out)
    assert len(bench.fit_rows) + len(bench.held_out) == len(fitted.prompts)
    texts = [fitted.prompts[row].text for row in bench.fit_rows]
    words = BagOfWords(seed=result.seed).fit(texts, [bool(fitted.prompts[row].harmful) for row in bench.fit_rows])
    detector = result.detector("bag_of_words")
    assert detector is not None
    wanted = words.score([prompt.text for prompt in result.cell("bare").observed.prompts])
    np.testing.assert_allclose(detector.scores["bare"], wanted)


def test_published_rule_by_hand(result: DemoResult):
    fitted = fit_prompts(result.n, result.seed)
    bench = Bench.prepare(observe(result.guard.model, fitted.prompts, False), result.cells, result.seed)
    rows = bench.fit_rows
    states = bench.states["t_inst"].astype(np.float64)
    positive = states[[row for row in rows if bench.labels[row] and bench.refused[row]]].mean(axis=0)
    negative = states[[row for row in rows if not bench.labels[row] and not bench.refused[row]]].mean(axis=0)
    hidden = result.cell("role_play").observed.states["t_inst"].astype(np.float64)

    def cosine(center: np.ndarray) -> np.ndarray:
        return (hidden * center).sum(-1) / (np.linalg.norm(hidden, axis=-1) * np.linalg.norm(center, axis=-1))

    detector = result.detector("published")
    assert detector is not None
    assert detector.threshold == 0.0
    assert not detector.fixed_rate
    wanted = (cosine(positive) - cosine(negative)).mean(axis=1)
    np.testing.assert_allclose(detector.scores["role_play"], wanted, atol=1e-5)


def test_guards_that_know_nothing_find_little(result: DemoResult):
    for flags in (result.controls.shuffled, result.controls.random):
        harmless = result.control_flags(flags, kinds=lambda kind: not kind.harmful, refused=None)
        assert harmless.shape[1] == 6 * result.n
        assert harmless.mean() < 0.2
    known = result.jailbroken(result.detectors[0]).mean()
    nothing = result.control_flags(result.controls.shuffled, kinds=lambda kind: kind.harmful, refused=False).mean()
    assert nothing < 0.5 * known
