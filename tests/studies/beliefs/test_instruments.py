from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.measure.observed import Observed
from undertow.studies.beliefs.context import Panel
from undertow.studies.beliefs.instruments import Instruments


@pytest.fixture(scope="module")
def fitted() -> Instruments:
    return Instruments.fit(small_context().fit, 0)


def test_thresholds_keep_two_percent_of_held_out_harmless_prompts(fitted: Instruments) -> None:
    fit = small_context().fit
    harmless = [row for row in fitted.held_out if not fit.harmful[row]]
    harmful = [row for row in fitted.held_out if fit.harmful[row]]
    assert len(fitted.held_out) == round(0.4 * len(fit))
    for key in ("published", "best"):
        scores = fitted.scores(key, fit.observed.states)
        assert (scores[harmless] >= fitted.thresholds[key]).sum() <= 0.02 * len(harmless)
        assert (scores[harmful] >= fitted.thresholds[key]).mean() > 0.5
    assert fitted.rules["published"].name == "centroid" != fitted.rules["best"].name


def test_beliefs_are_the_published_ones(fitted: Instruments) -> None:
    context = small_context()
    beliefs = fitted.beliefs(context.test.observed.states)
    for belief, position, positive, negative in (
        ("harmfulness", "t_inst", context.fit.kind("refused harmful"), context.fit.kind("accepted harmless")),
        ("refusal", "t_post", np.flatnonzero(context.fit.refused), np.flatnonzero(~context.fit.refused)),
    ):
        means = [context.fit.states(position)[rows].astype(float).mean(0) for rows in (positive, negative)]
        states = context.test.states(position).astype(float)
        cosines = [
            (states * mean).sum(-1) / np.linalg.norm(states, axis=-1) / np.linalg.norm(mean, axis=-1) for mean in means
        ]
        assert beliefs[belief] == pytest.approx((cosines[0] - cosines[1]).mean(1), abs=1e-5)


def test_a_threshold_moves_with_the_states_it_is_set_on(fitted: Instruments) -> None:
    states = small_context().fit.observed.states
    assert fitted.threshold_for("best", states) == fitted.thresholds["best"]
    assert fitted.threshold_for("best", {"t_inst": states["t_inst"] * 1.5}) != fitted.thresholds["best"]


def test_too_few_anchors_are_named() -> None:
    fit = small_context().fit
    seen = fit.observed
    answered = Panel(replace(seen, refused=np.zeros(len(fit), dtype=bool)), fit.bare)
    assert isinstance(answered.observed, Observed)
    with pytest.raises(UndertowError, match="0 refused harmful fit prompts"):
        Instruments.fit(answered, 0)
