from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from undertow.guard.calibration import recall_at_rate
from undertow.measure.observed import Observed
from undertow.measure.statistics import clopper_pearson, threshold_at_rate
from undertow.prompts import Prompt
from undertow.studies.beliefs.context import Panel
from undertow.studies.beliefs.guard_rows import (
    ACCEPTED_HARMFUL,
    RATES,
    REFUSED_HARMLESS,
    Bootstrap,
    Judged,
    Verdicts,
    gains,
    limits,
    mean_row,
    row_of,
)
from undertow.studies.beliefs.result import Array

HARMFUL, HARMLESS = 40, 60


@pytest.fixture(scope="module")
def panel() -> Panel:
    """100 requests, each bare and in two wrappers; a third of each class misbehaves."""
    generator = np.random.default_rng(0)
    prompts, bare = [], []
    for family in (None, "noise", "play"):
        for request in range(HARMFUL + HARMLESS):
            prompts.append(Prompt(f"{family} {request}", harmful=request < HARMFUL, wrapper=family))
            bare.append(-1 if family is None else request)
    harmful = np.array([bool(prompt.harmful) for prompt in prompts])
    refused = harmful ^ (generator.random(len(prompts)) < 0.33)
    return Panel(Observed(prompts, [""] * len(prompts), refused, {}), np.array(bare))


def scores_for(panel: Panel, strength: float, seed: int = 1) -> Array:
    """Noisy scores with ties, higher for harmful prompts."""
    noise = np.random.default_rng(seed).normal(size=len(panel))
    return np.round(noise + strength * panel.harmful, 1)


@pytest.mark.parametrize("rate", RATES)
def test_limits_are_the_thresholds_of_that_rate(rate: float) -> None:
    generator = np.random.default_rng(3)
    for size in (7, 60, 333):
        values = np.round(generator.normal(size=size), 1)
        limit = limits(values, np.ones((1, size)), rate)[0]
        np.testing.assert_array_equal(values > limit, values >= threshold_at_rate(values, rate).threshold)
        weights = generator.multinomial(size, np.full(size, 1 / size), size=20)
        for drawn, found in zip(weights, limits(values, weights, rate), strict=True):
            assert found == limits(np.repeat(values, drawn), np.ones((1, size)), rate)[0]


def test_requests_are_drawn_with_all_their_wrapped_forms(panel: Panel) -> None:
    weights = Bootstrap(panel, seed=2, resamples=50).weights
    assert weights.shape == (50, 300)
    np.testing.assert_array_equal(weights[:, :100], weights[:, 100:200])
    np.testing.assert_array_equal(weights[:, :100], weights[:, 200:])
    assert (weights[:, :HARMFUL].sum(axis=1) == HARMFUL).all()
    assert (weights[:, HARMFUL:100].sum(axis=1) == HARMLESS).all()
    assert len({tuple(row) for row in weights}) == 50
    np.testing.assert_array_equal(weights, Bootstrap(panel, seed=2, resamples=50).weights)


def test_recall_spared_and_area_are_those_of_the_drawn_prompts(panel: Panel) -> None:
    bootstrap = Bootstrap(panel, resamples=30)
    scores = scores_for(panel, 1.5)
    positives, innocents = panel.kind(ACCEPTED_HARMFUL), panel.kind(REFUSED_HARMLESS)
    harmless = panel.rows(harmful=False)
    chosen = np.concatenate([positives, harmless])
    assert bootstrap.recall(scores, 0.05)[0] == pytest.approx(
        recall_at_rate(scores[chosen], panel.harmful[chosen], 0.05)
    )
    assert bootstrap.area(scores)[0] == pytest.approx(roc_auc_score(panel.harmful[chosen], scores[chosen]))
    recalls, spares, areas = (
        found[1] for found in (bootstrap.recall(scores, 0.05), bootstrap.spared(scores, 0.05), bootstrap.area(scores))
    )
    for number, drawn in enumerate(bootstrap.weights.astype(int)):
        threshold = threshold_at_rate(np.repeat(scores[harmless], drawn[harmless]), 0.05).threshold
        flagged = scores >= threshold
        assert recalls[number] == pytest.approx(np.repeat(flagged[positives], drawn[positives]).mean())
        assert spares[number] == pytest.approx(1 - np.repeat(flagged[innocents], drawn[innocents]).mean())
        expected = roc_auc_score(panel.harmful[chosen], scores[chosen], sample_weight=drawn[chosen])
        assert areas[number] == pytest.approx(expected)


def test_a_row_holds_shares_of_every_group(panel: Panel) -> None:
    scores = scores_for(panel, 2.0)
    bootstrap = Bootstrap(panel)
    row = row_of(Judged("k", "Title", "note", "guard", Verdicts.at(scores, 1.0), 3.0, 2.0, 1.0), bootstrap)
    assert (row.key, row.title, row.note, row.role) == ("k", "Title", "note", "guard")
    assert (row.flops, row.extra_flops, row.seconds) == (3.0, 2.0, 1.0)
    assert list(row.accuracy) == ["noise", "play", ACCEPTED_HARMFUL, REFUSED_HARMLESS, "all"]
    flagged = scores >= 1.0
    play = [
        index
        for index, prompt in enumerate(panel.prompts)
        if prompt.wrapper == "play" and prompt.harmful and not panel.refused[index]
    ]
    assert row.accuracy["play"].value == flagged[play].mean() and row.accuracy["play"].n == len(play)
    innocents = [index for index, prompt in enumerate(panel.prompts) if not prompt.harmful and panel.refused[index]]
    assert row.accuracy[REFUSED_HARMLESS].value == pytest.approx(1 - flagged[innocents].mean())
    assert row.accuracy["all"].value == pytest.approx((flagged == panel.harmful).mean())
    assert row.false_positives.value == pytest.approx(flagged[panel.rows(harmful=False)].mean())
    for name, estimate in {**row.accuracy, "false": row.false_positives}.items():
        exact = clopper_pearson(round(estimate.value * estimate.n), estimate.n)
        assert estimate.low <= exact.low <= estimate.value <= exact.high <= estimate.high, name
        assert estimate.low < estimate.high, name
    assert set(row.recall) == set(row.spared) == set(RATES)
    assert row.recall[0.01].value <= row.recall[0.02].value <= row.recall[0.05].value
    assert row.spared[0.01].value >= row.spared[0.05].value
    # The threshold is resampled too, so the interval is wider than that of a share alone.
    recall = row.recall[0.02]
    alone = clopper_pearson(round(recall.value * recall.n), recall.n)
    assert recall.high - recall.low > 1.2 * (alone.high - alone.low)


def test_wrapped_forms_that_fail_together_widen_the_interval(panel: Panel) -> None:
    generator = np.random.default_rng(5)
    rows = panel.rows(harmful=True)
    together = np.tile(generator.random(100) < 0.5, 3)
    apart = generator.permutation(together)
    clustered, loose = (Bootstrap(panel).share(hits, rows) for hits in (together, apart))
    assert clustered.high - clustered.low > 1.3 * (loose.high - loose.low)


def test_verdicts_without_a_score_have_no_curve(panel: Panel) -> None:
    row = row_of(Judged("own", "t", "n", "baseline", Verdicts(panel.refused)), Bootstrap(panel))
    assert row.auc is None and row.recall == {} and row.spared == {}
    assert row.accuracy[ACCEPTED_HARMFUL].value == row.accuracy[REFUSED_HARMLESS].value == 0
    assert row.accuracy[ACCEPTED_HARMFUL].high > 0


def test_kinds_without_a_prompt_are_left_out(panel: Panel) -> None:
    kept = np.setdiff1d(np.arange(len(panel)), panel.kind(REFUSED_HARMLESS))
    part = Panel(panel.observed.part(kept), np.full(len(kept), -1))
    bootstrap, scores = Bootstrap(part), scores_for(panel, 2.0)[kept]
    verdicts = Verdicts.at(scores, 0.0)
    row = row_of(Judged("k", "t", "n", "guard", verdicts), bootstrap)
    assert REFUSED_HARMLESS not in row.accuracy and row.spared == {} and row.auc is not None
    assert set(gains(verdicts, verdicts, bootstrap)) == {ACCEPTED_HARMFUL, "auc"}
    kept = np.setdiff1d(np.arange(len(panel)), panel.kind(ACCEPTED_HARMFUL))
    part = Panel(panel.observed.part(kept), np.full(len(kept), -1))
    row = row_of(Judged("k", "t", "n", "guard", Verdicts.at(scores_for(panel, 2.0)[kept], 0.0)), Bootstrap(part))
    assert list(row.accuracy) == [REFUSED_HARMLESS, "all"] and row.recall == {} and row.auc is None
    assert set(row.spared) == set(RATES)


def test_gains_are_paired(panel: Panel) -> None:
    bootstrap = Bootstrap(panel)
    scores = scores_for(panel, 2.0)
    weak, strong = Verdicts.at(scores, 0.0), Verdicts.at(scores + 2.0 * panel.harmful, 0.0)
    found, reverse = gains(strong, weak, bootstrap), gains(weak, strong, bootstrap)
    assert strong.scores is not None and weak.scores is not None
    assert set(found) == {ACCEPTED_HARMFUL, REFUSED_HARMLESS, "auc"}
    assert found[ACCEPTED_HARMFUL].value == pytest.approx(
        bootstrap.recall(strong.scores, 0.02)[0] - bootstrap.recall(weak.scores, 0.02)[0]
    )
    assert found[ACCEPTED_HARMFUL].low > 0 and found["auc"].low > 0
    for name, gain in found.items():
        assert reverse[name].value == pytest.approx(-gain.value)
        assert (reverse[name].low, reverse[name].high) == pytest.approx((-gain.high, -gain.low))
    same = gains(weak, weak, bootstrap)
    assert same[ACCEPTED_HARMFUL].value == 0 and same[ACCEPTED_HARMFUL].low < 0 < same[ACCEPTED_HARMFUL].high
    assert gains(weak, Verdicts(panel.refused), bootstrap) == {}


def test_the_mean_row_counts_the_times(panel: Panel) -> None:
    several = [Verdicts.at(scores_for(panel, 0.0, seed), 1.0) for seed in range(8)]
    bootstrap = Bootstrap(panel, resamples=50)
    row = mean_row(Judged("shuffled", "t", "n", "control", several[0]), several, bootstrap)
    areas = [row_of(Judged("s", "t", "n", "control", one), bootstrap).auc for one in several]
    values = [area.value for area in areas if area is not None]
    assert row.auc is not None and row.auc.n == 8
    assert row.auc.value == pytest.approx(np.mean(values))
    # t(0.975, 7 degrees) = 2.3646.
    assert row.auc.high - row.auc.value == pytest.approx(2.3646 * np.std(values, ddof=1) / np.sqrt(8), rel=1e-4)
    assert row.auc.low < 0.5 < row.auc.high
