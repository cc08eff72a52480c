"""A guard of the rule `normed` that stands in for a guard of another rule, and how far the two agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from undertow.guard.belief import Belief
from undertow.guard.calibration import Calibration, fit_curve, threshold_at
from undertow.guard.data import gather, strata_weights
from undertow.guard.material import FitSettings, Material, prepare
from undertow.guard.rules.normed import NormedRule
from undertow.guard.selection import choose, fit_choice
from undertow.measure.direction import state_range
from undertow.measure.statistics import clopper_pearson

if TYPE_CHECKING:
    from undertow.guard.guard import LatentGuard

_CALIBRATION = ("rate", "confidence", "fraction", "method", "guarantee")


@dataclass(frozen=True)
class Agreement:
    """How often two guards decide alike on prompts held out from the fit of the second.

    Attributes:
        alike, prompts: decisions alike, of how many.
        low, high: 95 % Clopper-Pearson interval of the share.
        only_first, only_second: prompts that one of the two flags alone.
    """

    alike: int
    prompts: int
    low: float
    high: float
    only_first: int
    only_second: int

    def sentence(self) -> str:
        """In words, the first being the guard and the second the head."""
        return (
            f"On {self.prompts} prompts held out from its fit the head decides as the guard does on {self.alike} "
            f"({self.alike / self.prompts:.1%}, 95 % interval {self.low:.1%} to {self.high:.1%}); {self.only_first} "
            f"are flagged by the guard alone and {self.only_second} by the head alone."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def fit_head(
    guard: LatentGuard, harmful: Any, harmless: Any, *, seed: int = 0, progress: bool = True
) -> tuple[LatentGuard, Agreement, list[str]]:
    """Fit the rule `normed` on the state that a guard reads, or on a chosen one where it reads several.

    Calibration and threshold are set on held-out prompts with the guard's own wanted false-positive rate (the usual
    one, with a note, where it keeps the published threshold), by the same means as when a guard is fitted.

    Args:
        guard: the guard to stand in for.
        harmful, harmless: as for `LatentGuard.fit`.
        seed: of the split.
        progress: whether bars are shown.

    Returns:
        The new guard, its agreement with the given one on the held-out prompts, and sentences on what was done.

    Raises:
        GuardError, PromptFileError: as `LatentGuard.fit`.
    """
    from undertow.guard.guard import LatentGuard as Guard

    calibration, notes = _calibration(guard.calibration)
    settings = FitSettings(
        rule=NormedRule.name, calibration=calibration, seed=seed, refusal_rule=None, steering=False, progress=progress
    )
    material = prepare(guard.model, gather(harmful, harmless), calibration, settings)
    own = guard.harmfulness.rule.states
    states = own if len(own) == 1 and own[0] >= NormedRule.least_state else material.states
    belief = _fit(material, states, calibration, seed)
    if belief.rule.states != own:
        where = f"state{'s' if len(own) > 1 else ''} {state_range(own)}"
        notes.append(f"The guard reads {where}; state {belief.rule.states[0]} was chosen for the head.")
    rows = material.held_out
    truth = material.data.labels[rows]
    scores = belief.rule.score(material.at_instruction(rows, belief.rule.states))
    of_guard = guard.harmfulness.rule.score(material.at_instruction(rows, own))
    first, second = of_guard >= guard.threshold, scores >= belief.threshold.value
    alike = int((first == second).sum())
    low, high = clopper_pearson(alike, len(rows), 0.95)
    agreement = Agreement(
        alike, len(rows), float(low), float(high), int((first & ~second).sum()), int((~first & second).sum())
    )
    if not belief.threshold.enough:
        notes.append(belief.threshold.sentence())
    head = Guard(
        guard.model,
        guard.model.identity,
        belief,
        None,
        calibration=asdict(calibration) | {"published_threshold": False},
        metrics=_metrics(belief, scores, truth),
        training={
            "harmful": int(material.data.labels[material.fit_rows].sum()),
            "harmless": int((~material.data.labels[material.fit_rows]).sum()),
            "held_out": len(rows),
            "refused": 0,
            "behaviour_known": 0,
            "sha256": material.data.sha256,
            "seed": seed,
            "anchors": "labels",
            "rule_asked_for": NormedRule.name,
        },
        warnings=(*material.data.notes, *material.notes, *notes),
        mismatches=guard.mismatches,
    )
    return head, agreement, [*material.data.notes, *material.notes, *notes]


def _calibration(values: Mapping[str, Any]) -> tuple[Calibration, list[str]]:
    """The guard's calibration, with a logistic curve and a wanted rate whatever it asked for."""
    found = {name: values[name] for name in _CALIBRATION if name in values}
    notes = []
    if values.get("published_threshold"):
        rate = Calibration(**found).rate
        notes.append(
            f"The guard keeps the published threshold; the head's was set for a false-positive rate of {rate:.2%}."
        )
    if found.get("method") == "isotonic":
        notes.append("The guard's isotonic curve was replaced by a logistic one, the only one a classifier can hold.")
        found["method"] = "platt"
    return Calibration(**found), notes


def _fit(material: Material, states: tuple[int, ...], calibration: Calibration, seed: int) -> Belief:
    data, rows = material.data, material.fit_rows
    known = rows[material.is_sampled[rows]]
    kinds = material.kinds
    given = NormedRule.settings_for(material.model)
    choice = choose(
        material.at_instruction(known, states),
        data.labels[known],
        states,
        rule=NormedRule.name,
        groupings={name: [groups[row] for row in known] for name, groups in data.groupings.items()},
        weights=strata_weights([kinds[row] for row in known]),
        rate=calibration.rate,
        seed=seed,
        given=given,
    )
    chosen = choice.chosen.states
    weights = strata_weights([kinds[row] for row in rows])
    rule = fit_choice(choice, material.at_instruction(rows, chosen), data.labels[rows], chosen, weights)
    scores = rule.score(material.at_instruction(material.held_out, chosen))
    truth = data.labels[material.held_out]
    table = tuple(line.to_dict() for line in choice.table)
    curve = fit_curve(scores, truth, calibration.method, intercept=rule.has_intercept)
    return Belief("harmfulness", "t_inst", rule, curve, threshold_at(scores, truth, calibration), choice.reason, table)


def _metrics(belief: Belief, scores: Any, truth: Any) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    threshold = belief.threshold
    return {
        "area": float(roc_auc_score(truth, scores)),
        "recall": threshold.recall,
        "false_positive_rate": threshold.false_positives / threshold.harmless,
        "false_positive_rate_upper": threshold.upper,
        "enough_for_rate": threshold.enough,
        "needed_for_rate": threshold.needed,
        "threshold_sentence": threshold.sentence(),
        "recall_by_family": {},
        "false_positives_by_family": {},
        "refusal_balanced_accuracy": None,
    }
