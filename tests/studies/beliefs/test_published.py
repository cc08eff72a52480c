"""Published centroids and beliefs against numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.measure.observed import Observed
from undertow.prompts import Prompt
from undertow.studies.beliefs.context import Panel
from undertow.studies.beliefs.published import (
    anchor_centroids,
    belief_centroids,
    centroids_of,
    published_beliefs,
    published_scores,
    refusal_centroids,
)
from undertow.studies.beliefs.result import Array


def cosines(states: Array, centre: Array) -> Array:
    return (states * centre).sum(-1) / np.linalg.norm(states, axis=-1) / np.linalg.norm(centre, axis=-1)


def made(kinds: list[tuple[bool, bool]]) -> Panel:
    """Random states of prompts of these (harmful, refused)."""
    generator = np.random.default_rng(3)
    states = {name: generator.normal(size=(len(kinds), 3, 6)).astype(np.float32) for name in ("t_inst", "t_post")}
    prompts = [Prompt(str(row), harmful=harmful) for row, (harmful, _) in enumerate(kinds)]
    refused = np.array([refused for _, refused in kinds])
    return Panel(Observed(prompts, [""] * len(kinds), refused, states), np.full(len(kinds), -1))


EVEN = [(True, True), (True, False), (False, False), (False, True)] * 4


@pytest.mark.parametrize("position", ["t_inst", "t_post"])
def test_anchors_are_refused_harmful_and_accepted_harmless(position: str) -> None:
    panel = made(EVEN)
    found = anchor_centroids(panel, position)
    states = panel.observed.states[position].astype(np.float64)
    np.testing.assert_allclose(found.positive.numpy(), states[0::4].mean(0), atol=1e-6)
    np.testing.assert_allclose(found.negative.numpy(), states[2::4].mean(0), atol=1e-6)
    assert (found.kind, found.position, found.n, found.states) == ("harmfulness", position, (4, 4), (0, 1, 2))


def test_refusal_lies_between_refused_and_accepted_prompts_at_t_post() -> None:
    panel = made([*EVEN, (True, True), (False, True)])
    found = refusal_centroids(panel)
    states = panel.observed.states["t_post"].astype(np.float64)
    refused = [row for row in range(18) if panel.refused[row]]
    accepted = [row for row in range(18) if not panel.refused[row]]
    np.testing.assert_allclose(found.positive.numpy(), states[refused].mean(0), atol=1e-6)
    np.testing.assert_allclose(found.negative.numpy(), states[accepted].mean(0), atol=1e-6)
    assert (found.kind, found.position, found.n) == ("refusal", "t_post", (10, 8))


def test_beliefs_are_means_of_scores_over_all_states() -> None:
    fit, test = made(EVEN), small_context().test
    centroids = belief_centroids(small_context().fit)
    assert list(centroids) == ["harmfulness", "refusal"]
    beliefs = published_beliefs(centroids, test.observed.states)
    for name, position in (("harmfulness", "t_inst"), ("refusal", "t_post")):
        states = test.observed.states[position].astype(np.float64)
        centres = [getattr(centroids[name], side).numpy().astype(np.float64) for side in ("positive", "negative")]
        scores = cosines(states, centres[0]) - cosines(states, centres[1])
        np.testing.assert_allclose(published_scores(centroids[name], test.states(position)), scores, atol=1e-9)
        np.testing.assert_allclose(beliefs[name], scores.mean(1), atol=1e-9)
    # Beliefs go by the position that the centroids were read at.
    swapped = {"t_inst": fit.states("t_post"), "t_post": fit.states("t_inst")}
    own = belief_centroids(fit)
    assert not np.allclose(
        published_beliefs(own, swapped)["refusal"], published_beliefs(own, fit.observed.states)["refusal"]
    )


def test_any_two_sets_of_rows_have_centroids() -> None:
    panel = made(EVEN)
    found = centroids_of(panel, "t_post", np.array([1, 5]), np.array([3]), kind="shuffled")
    np.testing.assert_allclose(found.positive.numpy(), panel.states("t_post")[[1, 5]].mean(0), atol=1e-6)
    np.testing.assert_allclose(found.negative.numpy(), panel.states("t_post")[3], atol=1e-6)
    assert found.kind == "shuffled"


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ([(True, True), (False, False), (False, False)], "hold 1 refused harmful prompts and need 2"),
        ([(True, True), (True, True), (True, False), (False, True)], "hold 0 accepted harmless prompts and need 2"),
    ],
)
def test_a_missing_anchor_is_named(kinds: list[tuple[bool, bool]], message: str) -> None:
    with pytest.raises(UndertowError, match=message):
        anchor_centroids(made(kinds), "t_inst")
    with pytest.raises(UndertowError, match=message):
        belief_centroids(made(kinds))


@pytest.mark.parametrize(("refused", "name"), [(True, "accepted"), (False, "refused")])
def test_one_sided_models_have_no_belief_of_refusal(refused: bool, name: str) -> None:
    panel = made(EVEN)
    one_sided = Panel(replace(panel.observed, refused=np.full(16, refused)), panel.bare)
    with pytest.raises(UndertowError, match=f"hold 0 {name} prompts and need 2"):
        refusal_centroids(one_sided)
