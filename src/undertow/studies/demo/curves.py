"""The published score over the states, for the four clusters of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from undertow.measure.centroids import Centroids
from undertow.measure.statistics import Band
from undertow.studies.demo.behaviour import Array, Cell
from undertow.studies.demo.detectors import Bench

RESAMPLES = 400

CLUSTERS: tuple[tuple[str, bool, bool], ...] = (
    ("refused harmful", True, True),
    ("accepted harmful", True, False),
    ("accepted harmless", False, False),
    ("refused harmless", False, True),
)
"""(name, harmful, refused), as in the paper."""


def separation(bench: Bench) -> dict[str, list[Band]]:
    """For both positions, s(l) of the four clusters of held-out prompts.

    s(l, h) = cos(h, mu_refused_harmful(l)) - cos(h, mu_accepted_harmless(l)), the centroids from the fit prompts.
    Source: Zhao et al. (arXiv 2507.11878), figure 2. The control is the cluster of accepted harmful prompts under
    centroids of the same anchors with shuffled membership.

    Returns:
        Position -> bands; empty where the fit prompts hold no refused harmful or no accepted harmless ones.
    """
    harmful = bench.labels & bench.refused
    harmless = ~bench.labels & ~bench.refused
    if harmful.sum() < 2 or harmless.sum() < 2:
        return {}
    generator = np.random.default_rng(bench.seed)
    found = {}
    for position, states in bench.states.items():
        centroids = _centroids(states[harmful], states[harmless])
        bands = []
        for name, is_harmful, is_refused in CLUSTERS:
            values = _members(bench.cells, position, is_harmful, is_refused)
            if len(values) > 1:
                bands.append(_band(name, values, centroids, generator))
        anchors = np.flatnonzero(harmful | harmless)
        mixed = generator.permutation(harmful[anchors])
        shuffled = _centroids(states[anchors[mixed]], states[anchors[~mixed]])
        values = _members(bench.cells, position, True, False)
        if len(values) > 1:
            bands.append(_band("accepted harmful, shuffled centroids", values, shuffled, generator, control=True))
        found[position] = bands
    return found


def swaps(bands: Mapping[str, Sequence[Band]]) -> dict[str, float]:
    """Mean over the states of each cluster's score, by position and cluster."""
    return {
        f"{position}: {band.name}": float(band.mean.mean()) for position, listed in bands.items() for band in listed
    }


def _centroids(positive: Array, negative: Array) -> Centroids:
    return Centroids.fit(torch.from_numpy(positive), torch.from_numpy(negative))


def _members(cells: Sequence[Cell], position: str, harmful: bool, refused: bool) -> Array:
    return np.concatenate(
        [cell.observed.states[position][cell.refused == refused] for cell in cells if cell.kind.harmful is harmful]
    )


def _band(
    name: str, values: Array, centroids: Centroids, generator: np.random.Generator, control: bool = False
) -> Band:
    scores = centroids.scores(torch.from_numpy(values)).numpy()
    draws = generator.integers(0, len(scores), size=(RESAMPLES, len(scores)))
    weights = np.stack([np.bincount(draw, minlength=len(scores)) for draw in draws]) / len(scores)
    low, high = np.quantile(weights @ scores, [0.025, 0.975], axis=0)
    return Band(name, len(scores), scores.mean(axis=0), low, high, control)
