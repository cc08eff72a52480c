"""Everything that judges a later model, fitted on the model before: guard rules, their thresholds, centroids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from undertow.errors import UndertowError
from undertow.guard.calibration import Calibration, threshold_at
from undertow.guard.data import split, strata_weights
from undertow.guard.rules import rule_named
from undertow.guard.selection import BARE, choose, fit_choice
from undertow.measure.centroids import Centroids
from undertow.studies.beliefs.published import ANCHORS, belief_centroids, published_beliefs
from undertow.studies.beliefs.result import Array

if TYPE_CHECKING:
    from undertow.guard.rules import Rule
    from undertow.studies.beliefs.context import Panel

RATE = 0.02
CALIBRATION = Calibration(rate=RATE, fraction=0.4)
PUBLISHED = "published"
BEST = "best"
_LEAST = 4


@dataclass(frozen=True)
class Instruments:
    """Rules and centroids of one model.

    Attributes:
        rules: "published" (the centroid rule on the anchor clusters) and "best" (the other rule that cross-validation
            prefers), both at t_inst.
        thresholds: the same keys -> threshold for 2 % false positives on held-out fit prompts.
        centroids: "harmfulness" (t_inst; refused harmful, accepted harmless) and "refusal" (t_post; refused,
            accepted), over all states.
        held_out: rows of the fit prompts that thresholds come from.
        labels: (fit prompts,) of bool, True for harmful.
    """

    rules: Mapping[str, Rule] = field(repr=False)
    thresholds: Mapping[str, float]
    centroids: Mapping[str, Centroids] = field(repr=False)
    held_out: Array = field(repr=False)
    labels: Array = field(repr=False)

    @classmethod
    def fit(cls, fit: Panel, seed: int) -> Instruments:
        """Fit on 60 % of the fit prompts, set thresholds on the others; centroids come from all of them.

        Raises:
            UndertowError: too few prompts were refused or answered.
            GuardError: there are too few prompts to choose a rule.
        """
        anchors = {kind: fit.kind(kind) for kind in ANCHORS}
        for kind, rows in anchors.items():
            if len(rows) < _LEAST:
                raise UndertowError(f"There are {len(rows)} {kind} fit prompts; at least {_LEAST} are needed.")
        states = tuple(range(fit.states("t_inst").shape[1]))
        families = [prompt.wrapper or prompt.style or BARE for prompt in fit.prompts]
        strata = [(bool(label), family) for label, family in zip(fit.harmful, families, strict=True)]
        kept, held_out = split(strata, CALIBRATION.fraction, seed)
        features, labels = fit.states("t_inst", kept), fit.harmful[kept]
        groupings = {"category": [fit.prompts[row].category or "none" for row in kept]}
        if len(set(families)) > 1:
            groupings["family"] = [families[row] for row in kept]
        weights = strata_weights([strata[row] for row in kept])
        choice = choose(features, labels, states, groupings=groupings, weights=weights, rate=RATE, seed=seed)
        if choice.chosen.rule == "centroid":
            choice = replace(choice, chosen=next(one for one in choice.table if one.rule != "centroid"))
        pure = kept[fit.harmful[kept] == fit.refused[kept]]
        if len(set(fit.harmful[pure].tolist())) < 2:
            pure = np.concatenate(list(anchors.values()))
        rules: dict[str, Rule] = {
            PUBLISHED: rule_named("centroid").fit(fit.states("t_inst", pure), fit.harmful[pure], states),
            BEST: fit_choice(choice, features, labels, states, weights),
        }
        fitted = cls(rules, {}, belief_centroids(fit), held_out, fit.harmful)
        return replace(fitted, thresholds={key: fitted.threshold_for(key, fit.observed.states) for key in rules})

    def scores(self, key: str, states: Mapping[str, Array]) -> Array:
        """(n,) scores of a rule for states: position -> (n, L + 1, d)."""
        rule = self.rules[key]
        return rule.score(states["t_inst"][:, list(rule.states)])

    def threshold_for(self, key: str, states: Mapping[str, Array]) -> float:
        """The threshold of a rule for 2 % false positives, given states of all fit prompts on any model."""
        values = states["t_inst"][self.held_out]
        scores = self.scores(key, {"t_inst": values})
        return threshold_at(scores, self.labels[self.held_out], CALIBRATION).value

    def beliefs(self, states: Mapping[str, Array]) -> dict[str, Array]:
        """The published beliefs: name -> (n,)."""
        return published_beliefs(self.centroids, states)
