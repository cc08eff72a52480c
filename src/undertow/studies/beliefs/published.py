"""The two published beliefs: centroids of the fit prompts, and where the states of other prompts lie between them.

Source: Zhao et al. (arXiv 2507.11878). Harmfulness is read at t_inst, between the centroids of refused harmful and of
accepted harmless prompts; refusal at t_post, between those of refused and of accepted prompts, whatever they ask for.
A belief is the mean over all states of the difference of the two cosines: nothing is standardised, the threshold is 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from undertow.errors import UndertowError
from undertow.measure.centroids import Centroids
from undertow.studies.beliefs.context import Panel
from undertow.studies.beliefs.result import Array

LEAST = 2
ANCHORS = ("refused harmful", "accepted harmless")


def anchor_centroids(fit: Panel, position: str = "t_inst") -> Centroids:
    """Centroids of the two anchors, refused harmful and accepted harmless prompts, at a position, over all states.

    Raises:
        UndertowError: an anchor holds fewer than two prompts.
    """
    harmful, harmless = (_enough(fit.kind(name), name) for name in ANCHORS)
    return centroids_of(fit, position, harmful, harmless, kind="harmfulness")


def refusal_centroids(fit: Panel) -> Centroids:
    """Centroids of refused and of accepted prompts at t_post, over all states.

    Raises:
        UndertowError: fewer than two prompts are refused, or accepted.
    """
    refused, accepted = _enough(fit.rows(refused=True), "refused"), _enough(fit.rows(refused=False), "accepted")
    return centroids_of(fit, "t_post", refused, accepted, kind="refusal")


def belief_centroids(fit: Panel) -> dict[str, Centroids]:
    """ "harmfulness" (t_inst) and "refusal" (t_post) -> the centroids of the published belief.

    Raises:
        UndertowError: a cluster holds fewer than two prompts.
    """
    return {"harmfulness": anchor_centroids(fit), "refusal": refusal_centroids(fit)}


def centroids_of(panel: Panel, position: str, positive: Array, negative: Array, *, kind: str) -> Centroids:
    """Centroids of two sets of rows at a position, over all states; `kind` says what the positive side means."""
    states = panel.states(position)
    return Centroids.fit(
        torch.from_numpy(states[positive]), torch.from_numpy(states[negative]), kind=kind, position=position
    )


def published_scores(centroids: Centroids, states: Array) -> Array:
    """(n, L + 1) scores s(l), float64, of states (n, L + 1, d) at the position of the centroids."""
    scores: Array = centroids.scores(torch.from_numpy(states)).numpy()
    return scores


def published_beliefs(centroids: Mapping[str, Centroids], states: Mapping[str, Array]) -> dict[str, Array]:
    """Name of the centroids -> (n,) published belief of states: position -> (n, L + 1, d)."""
    return {
        name: centres.belief(torch.from_numpy(states[centres.position])).numpy() for name, centres in centroids.items()
    }


def _enough(members: Array, name: str) -> Array:
    if len(members) < LEAST:
        raise UndertowError(
            f"The fit prompts hold {len(members)} {name} prompts and need {LEAST} for a centroid: give more, or a "
            "model that both refuses and answers."
        )
    return members
