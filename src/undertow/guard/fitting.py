"""How a guard is fitted: capture, the model's own behaviour, choice of rules, calibration, steering."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from undertow.errors import GuardError
from undertow.guard.behaviour import confounding_note
from undertow.guard.belief import Belief
from undertow.guard.belief_map import MOST_POINTS, BeliefMap
from undertow.guard.calibration import (
    Calibration,
    Threshold,
    balanced_threshold,
    fit_curve,
    measured_threshold,
    threshold_at,
)
from undertow.guard.data import LEAST_PROMPTS, gather, strata_weights
from undertow.guard.directions import BeliefDirections, measure_directions
from undertow.guard.material import FitSettings, Material, prepare
from undertow.guard.rules.base import Array, rule_named
from undertow.guard.selection import Choice, choose, fit_choice
from undertow.guard.steering import Steering, fit_steering
from undertow.progress import progress_bar

if TYPE_CHECKING:
    from undertow.guard.guard import LatentGuard
    from undertow.model import ChatModel

GuardType = TypeVar("GuardType", bound="LatentGuard")

_POOR_AREA = 0.75


def fit_guard(
    guard: type[GuardType], model: ChatModel, harmful: Any, harmless: Any, settings: FitSettings
) -> GuardType:
    """Carry out `LatentGuard.fit`."""
    settings.check()
    calibration = settings.resolved()
    material = prepare(model, gather(harmful, harmless), calibration, settings)
    harmfulness = _fit_harmfulness(material, calibration, settings)
    refusal = _fit_refusal(material, settings)
    steering = _fit_steering(model, material, settings)
    threshold = harmfulness.threshold
    if not threshold.enough:
        material.notes.append(threshold.sentence())
    metrics = _metrics(material, harmfulness, refusal)
    if metrics["area"] < _POOR_AREA:
        material.notes.append(
            f"The guard hardly tells held-out harmful from harmless prompts (ROC area {metrics['area']:.2f}): check "
            "the labels, add prompts, or do not use it with this model."
        )
    notes = (*material.data.notes, *material.notes, *(steering.notes() if steering else ()))
    if settings.progress:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    held_out = material.held_out
    return guard(
        model,
        model.identity,
        harmfulness,
        refusal,
        steering=steering,
        directions=_directions(material),
        belief_map=_belief_map(material, harmfulness, refusal),
        calibration=asdict(calibration) | {"published_threshold": settings.published_threshold},
        metrics=metrics,
        training={
            "harmful": int(material.data.labels[material.fit_rows].sum()),
            "harmless": int((~material.data.labels[material.fit_rows]).sum()),
            "held_out": len(held_out),
            "refused": int(material.refused[material.observed].sum()),
            "behaviour_known": len(material.observed),
            "sha256": material.data.sha256,
            "seed": settings.seed,
            "anchors": settings.anchors,
            "rule_asked_for": settings.rule,
        },
        warnings=notes,
    )


def _fit_harmfulness(material: Material, calibration: Calibration, settings: FitSettings) -> Belief:
    data, rows = material.data, material.fit_rows
    if settings.anchors == "behaviour":
        behaviour = material.behaviour
        rows = np.array(
            [row for row in rows if behaviour[row] == ("refused" if data.labels[row] else "answered")], dtype=int
        )
        if data.labels[rows].sum() < 2 or (~data.labels[rows]).sum() < 2:
            raise GuardError(
                "anchors='behaviour' needs refused harmful and answered harmless prompts, and this model gives too "
                "few; use anchors='labels'."
            )
    strata = material.kinds
    known = rows[material.is_sampled[rows]]
    choice = _choose(
        material.at_instruction(known),
        data.labels[known],
        material.states,
        settings.rule,
        {name: [groups[row] for row in known] for name, groups in data.groupings.items()},
        strata_weights([strata[row] for row in known]),
        calibration,
        settings,
        material.model,
    )
    states = choice.chosen.states
    weights = strata_weights([strata[row] for row in rows])
    rule = fit_choice(choice, material.at_instruction(rows, states), data.labels[rows], states, weights)
    held_out = material.held_out
    scores = rule.score(material.at_instruction(held_out, states))
    truth = data.labels[held_out]
    if settings.published_threshold:
        threshold = measured_threshold(0.0, scores, truth, calibration.confidence, None)
    else:
        threshold = threshold_at(scores, truth, calibration)
    curve = fit_curve(scores, truth, calibration.method, intercept=rule.has_intercept)
    table = tuple(line.to_dict() for line in choice.table)
    return Belief("harmfulness", "t_inst", rule, curve, threshold, choice.reason, table)


def _fit_refusal(material: Material, settings: FitSettings) -> Belief | None:
    if settings.refusal_rule is None:
        return None
    known = np.zeros(len(material.data.prompts), dtype=bool)
    known[material.observed] = True
    rows = np.array([row for row in material.fit_rows if known[row]], dtype=int)
    held_out = np.array([row for row in material.held_out if known[row]], dtype=int)
    refused, harmful = material.refused, material.data.labels
    for name, side in (("refuses", True), ("answers", False)):
        counts = [int((refused[part] == side).sum()) for part in (rows, held_out)]
        if sum(counts) < LEAST_PROMPTS or min(counts) < 2:
            material.notes.append(
                f"The model {name} only {sum(counts)} of {len(material.observed)} fit prompts, so the guard has no "
                "refusal belief and its verdicts speak of harm only."
            )
            return None
    note = confounding_note(refused[material.observed], harmful[material.observed])
    if note:
        material.notes.append(note)
    labels = refused[rows]
    strata = list(zip(refused.tolist(), harmful.tolist(), strict=True))
    weights = strata_weights([strata[row] for row in rows])
    groupings = {name: [groups[row] for row in rows] for name, groups in material.data.groupings.items()}
    features = material.at_end(rows)
    asked, model = settings.refusal_rule, material.model
    choice = _choose(features, labels, material.states, asked, groupings, weights, Calibration(), settings, model)
    rule = fit_choice(choice, features, labels, material.states, weights)
    scores = _scores(rule, material.at_end(held_out), material.states)
    truth = refused[held_out]
    value = 0.0 if settings.refusal_rule == "centroid" else balanced_threshold(scores, truth)
    threshold = measured_threshold(value, scores, truth, 0.95, None)
    table = tuple(line.to_dict() for line in choice.table)
    curve = fit_curve(scores, truth, "platt", intercept=rule.has_intercept)
    return Belief("refusal", "t_post", rule, curve, threshold, choice.reason, table)


def _choose(
    features: Array,
    labels: Array,
    states: Sequence[int],
    rule: str,
    groupings: dict[str, list[str]],
    weights: Array,
    calibration: Calibration,
    settings: FitSettings,
    model: ChatModel,
) -> Choice:
    given = None if rule == "auto" else rule_named(rule).settings_for(model)
    with progress_bar(None, "Choosing a rule", enabled=settings.progress) as advance:
        return choose(
            features,
            labels,
            states,
            rule=rule,
            groupings=groupings,
            weights=weights,
            rate=calibration.rate,
            seed=settings.seed,
            given=given,
            advance=advance,
        )


def _fit_steering(model: ChatModel, material: Material, settings: FitSettings) -> Steering | None:
    if not settings.steering or len(material.observed) == 0:
        return None
    known = material.observed
    position = {int(row): index for index, row in enumerate(known)}
    development = np.array([position[int(row)] for row in material.held_out if int(row) in position], dtype=int)
    with progress_bar(None, "Trying to steer", enabled=settings.progress) as advance:
        found = fit_steering(
            model,
            [material.data.prompts[row] for row in known],
            material.at_end(known),
            material.states,
            material.refused[known],
            material.data.labels[known],
            development,
            judge=settings.judge,
            reply_tokens=min(16, settings.reply_tokens),
            advance=advance,
        )
    if found is None:
        material.notes.append(
            "The model refuses all or none of the fit prompts, so there is no refusal direction to steer with."
        )
    return found


def _directions(material: Material) -> BeliefDirections:
    rows = np.array([row for row in material.fit_rows if material.is_sampled[row]], dtype=int)
    fitted = set(rows.tolist())
    known = np.array([row for row in material.observed if row in fitted], dtype=int)
    labels = material.data.labels
    return measure_directions(
        material.at_instruction(rows), labels[rows], material.at_end(known), material.refused[known], labels[known]
    )


def _belief_map(material: Material, harmfulness: Belief, refusal: Belief | None) -> BeliefMap | None:
    known = set(material.observed.tolist())
    rows = np.array([row for row in material.held_out if row in known], dtype=int)
    # Evenly spread where there are too many, as the prompts of one class stand together.
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_POINTS)).astype(int))]
    if not len(rows):
        return None
    states = harmfulness.rule.states
    beliefs = None
    if refusal is not None:
        beliefs = refusal.score(material.at_end(rows), material.states) - refusal.threshold.value
    scores = harmfulness.score(material.at_instruction(rows, states), states)
    return BeliefMap(scores, beliefs, material.data.labels[rows], material.refused[rows])


def _scores(rule: Any, features: Array, states: Sequence[int]) -> Array:
    where = [list(states).index(state) for state in rule.states]
    return np.asarray(rule.score(features if where == list(range(features.shape[1])) else features[:, where]))


def _metrics(material: Material, harmfulness: Belief, refusal: Belief | None) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    rows = material.held_out
    labels = material.data.labels[rows]
    states = harmfulness.rule.states
    scores = harmfulness.score(material.at_instruction(rows, states), states)
    flagged = scores >= harmfulness.threshold.value
    families = [material.data.families[row] for row in rows]
    threshold: Threshold = harmfulness.threshold
    metrics: dict[str, Any] = {
        "area": float(roc_auc_score(labels, scores)),
        "recall": threshold.recall,
        "false_positive_rate": threshold.false_positives / threshold.harmless,
        "false_positive_rate_upper": threshold.upper,
        "enough_for_rate": threshold.enough,
        "needed_for_rate": threshold.needed,
        "threshold_sentence": threshold.sentence(),
        "recall_by_family": _by_family(flagged, families, labels),
        "false_positives_by_family": _by_family(flagged, families, ~labels),
        "refusal_balanced_accuracy": None,
    }
    if refusal is not None:
        found = refusal.threshold
        metrics["refusal_balanced_accuracy"] = (found.recall + 1 - found.false_positives / found.harmless) / 2
    return metrics


def _by_family(flagged: Array, families: Sequence[str], side: Array) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in np.flatnonzero(side):
        entry = found.setdefault(families[int(row)], {"flagged": 0, "n": 0})
        entry["flagged"] += int(flagged[row])
        entry["n"] += 1
    return dict(sorted(found.items()))
