"""The guard beside its rivals, all with a threshold for the same false-positive rate on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from undertow.guard.calibration import Calibration, threshold_at
from undertow.guard.data import split, strata_weights
from undertow.guard.rules import rule_named, rule_names
from undertow.guard.selection import BARE, choose, fit_choice
from undertow.measure.baseline import BagOfWords
from undertow.measure.observed import Observed
from undertow.prompts import Prompt
from undertow.studies.demo.behaviour import Array, Cell

if TYPE_CHECKING:
    from undertow.guard import LatentGuard
    from undertow.guard.rules import Rule

RATE = 0.02
CALIBRATION = Calibration(rate=RATE, confidence=0.95, fraction=0.4, guarantee=True)
"""The threshold is set so that the upper confidence bound of the false-positive rate, not just the rate, is at most
2 % on held-out harmless prompts of the training split."""

SHUFFLES = 10


@dataclass(frozen=True)
class Detector:
    """Something that flags prompts as harmful.

    Attributes:
        key: short name, the same in findings and figures.
        title: name for readers.
        note: what it is fitted on and how its threshold was set.
        scores: kind -> (n,) scores, or flags as 0 and 1.
        threshold: a prompt is flagged when its score is at least this.
        role: "guard" (the one that is saved), "rival", "baseline" or "control".
        fixed_rate: whether the threshold is for the wanted rate; otherwise the rate is whatever it is.
    """

    key: str
    title: str
    note: str
    scores: Mapping[str, Array] = field(repr=False)
    threshold: float
    role: str = "rival"
    fixed_rate: bool = True

    def flags(self, kind: str) -> Array:
        """(n,) of bool for a kind of held-out prompts."""
        return np.asarray(self.scores[kind] >= self.threshold)

    def at(self, threshold: float, key: str, title: str, note: str, fixed_rate: bool) -> Detector:
        """The same scores under another threshold."""
        return Detector(key, title, note, self.scores, threshold, self.role, fixed_rate)


@dataclass(frozen=True)
class Bench:
    """What all detectors are fitted, calibrated and judged on.

    Attributes:
        prompts: the fit prompts.
        labels: (n,) of bool, True for harmful.
        refused: (n,) of bool, whether the model refuses them.
        states: position -> (n, L + 1, d).
        cells: the held-out prompts.
        fit_rows, held_out: the split; thresholds come from the held-out harmless ones.
        seed: of everything random.
    """

    prompts: Sequence[Prompt]
    labels: Array
    refused: Array
    states: Mapping[str, Array] = field(repr=False)
    cells: Sequence[Cell] = field(repr=False)
    fit_rows: Array
    held_out: Array
    seed: int

    @classmethod
    def prepare(cls, observed: Observed, cells: Sequence[Cell], seed: int) -> Bench:
        """Split the fit prompts as `LatentGuard.fit` does where it does not look at the model's behaviour."""
        prompts = observed.prompts
        labels = np.array([bool(prompt.harmful) for prompt in prompts])
        strata = [(bool(label), family, "unknown") for label, family in zip(labels, _families(prompts), strict=True)]
        fit_rows, held_out = split(strata, CALIBRATION.fraction, seed)
        return cls(prompts, labels, observed.refused, observed.states, cells, fit_rows, held_out, seed)

    @property
    def every_state(self) -> tuple[int, ...]:
        """0..L."""
        return tuple(range(next(iter(self.states.values())).shape[1]))

    def fit(self, rule: str, rows: Array) -> Rule:
        """A rule fitted on some fit rows at t_inst; what it reads is chosen by cross-validation, as in a guard."""
        features, prompts = self.states["t_inst"][rows], [self.prompts[row] for row in rows]
        families = _families(prompts)
        groupings = {"category": [prompt.category or "none" for prompt in prompts]}
        if len(set(families)) > 1:
            groupings["family"] = families
        labels = self.labels[rows]
        weights = strata_weights(
            [(bool(label), family, "unknown") for label, family in zip(labels, families, strict=True)]
        )
        choice = choose(
            features,
            labels,
            self.every_state,
            rule=rule,
            groupings=groupings,
            weights=weights,
            rate=RATE,
            seed=self.seed,
        )
        return fit_choice(choice, features, labels, self.every_state, weights)

    def threshold(self, score: Callable[[Array], Array], rows: Array | None = None) -> float:
        """The threshold from held-out rows, as a guard finds its own; `score` takes row indices."""
        rows = self.held_out if rows is None else rows
        return threshold_at(score(rows), self.labels[rows], CALIBRATION).value

    def by_rule(self, rule: Rule, key: str, title: str, note: str, role: str = "rival") -> Detector:
        """A fitted rule as a detector."""
        where = [self.every_state.index(state) for state in rule.states]

        def score(rows: Array) -> Array:
            return rule.score(self.states["t_inst"][rows][:, where])

        scores = {cell.kind.name: rule.score(cell.observed.states["t_inst"][:, where]) for cell in self.cells}
        return Detector(key, title, note, scores, self.threshold(score), role)


@dataclass(frozen=True)
class Controls:
    """Guards that know nothing, for every kind the share flagged by each.

    Attributes:
        shuffled: kind -> (SHUFFLES, n) flags of rules fitted on labels shuffled among the fit prompts.
        random: kind -> (SHUFFLES, n) flags of random directions at the same states.
    """

    shuffled: Mapping[str, Array] = field(repr=False)
    random: Mapping[str, Array] = field(repr=False)


def detectors(bench: Bench, guard: LatentGuard) -> list[Detector]:
    """The guard, every built-in rule, the published rule to the letter, the fit on bare prompts, and the baselines."""
    found = [_saved(bench, guard)]
    for name in rule_names():
        if name != guard.rule:
            rule = bench.fit(name, bench.fit_rows)
            found.append(bench.by_rule(rule, name, f"{name} rule", "fitted on the same prompts"))
    found += [*_published(bench), *_bare_only(bench), *_refusal_belief(bench, guard), _words(bench)]
    own = {cell.kind.name: cell.refused.astype(float) for cell in bench.cells}
    found.append(
        Detector("own_refusal", "model's own refusal", "whether its reply refuses", own, 0.5, "baseline", False)
    )
    return found


def controls(bench: Bench, guard: LatentGuard) -> Controls:
    """Rules fitted on shuffled labels, and random directions, with thresholds found in the same way."""
    generator = np.random.default_rng(bench.seed)
    belief = guard.harmfulness
    where = [bench.every_state.index(state) for state in belief.rule.states]
    features = bench.states["t_inst"][:, where]
    tests = {cell.kind.name: cell.observed.states["t_inst"][:, where] for cell in bench.cells}
    shuffled: dict[str, list[Array]] = {name: [] for name in tests}
    random: dict[str, list[Array]] = {name: [] for name in tests}
    rows = bench.fit_rows
    center = features[rows].mean(axis=0)
    deviation = features[rows].std(axis=0) + 1e-6
    kind, settings = rule_named(belief.rule.name), belief.rule.settings()
    for _ in range(SHUFFLES):
        labels = generator.permutation(bench.labels[rows])
        rule = kind.fit(features[rows], labels, belief.rule.states, **settings)
        direction = generator.normal(size=center.shape) / deviation
        for score, flags in ((rule.score, shuffled), (partial(_project, center, direction), random)):
            threshold = bench.threshold(partial(_score_rows, score, features))
            for name, values in tests.items():
                flags[name].append(score(values) >= threshold)
    return Controls(
        {name: np.stack(flags) for name, flags in shuffled.items()},
        {name: np.stack(flags) for name, flags in random.items()},
    )


def _project(center: Array, direction: Array, values: Array) -> Array:
    return np.asarray(np.einsum("nsd,sd->n", values - center, direction))


def _score_rows(score: Callable[[Array], Array], features: Array, rows: Array) -> Array:
    return score(features[rows])


def _families(prompts: Sequence[Prompt]) -> list[str]:
    return [prompt.wrapper or prompt.style or BARE for prompt in prompts]


def _saved(bench: Bench, guard: LatentGuard) -> Detector:
    belief = guard.harmfulness
    scores = {cell.kind.name: belief.score(cell.observed.states["t_inst"], bench.every_state) for cell in bench.cells}
    note = "chosen by cross-validation; fitted on bare prompts, look-alikes and one wrapper family"
    return Detector("guard", f"Latent Guard ({guard.rule} rule)", note, scores, guard.threshold, "guard")


def _published(bench: Bench) -> list[Detector]:
    """The published rule to the letter: clusters of refused harmful and answered harmless prompts, threshold 0."""
    anchors = bench.fit_rows[(bench.labels == bench.refused)[bench.fit_rows]]
    if len(set(bench.labels[anchors].tolist())) < 2:
        return []
    rule = rule_named("centroid").fit(bench.states["t_inst"][anchors], bench.labels[anchors], bench.every_state)
    note = "clusters of refused harmful and answered harmless prompts, threshold 0"
    fitted = bench.by_rule(rule, "published", "published rule to the letter", note)
    return [fitted.at(0.0, fitted.key, fitted.title, note, False)]


def _bare_only(bench: Bench) -> list[Detector]:
    """The best rule for bare harmful and plain harmless prompts alone."""
    bare = np.array([family == BARE for family in _families(bench.prompts)])
    rule = bench.fit("auto", bench.fit_rows[bare[bench.fit_rows]])
    where = [bench.every_state.index(state) for state in rule.states]
    note = f"{rule.name} rule fitted on bare harmful and plain harmless prompts alone"
    same = bench.by_rule(rule, "bare_only", "fit on bare prompts alone", note)
    own = bench.threshold(
        lambda rows: rule.score(bench.states["t_inst"][rows][:, where]), bench.held_out[bare[bench.held_out]]
    )
    unaware = same.at(
        own,
        "bare_only_calibrated",
        "fit and threshold on bare prompts alone",
        f"{note}, the threshold too",
        False,
    )
    return [same, unaware]


def _refusal_belief(bench: Bench, guard: LatentGuard) -> list[Detector]:
    """What the model is about to do, taken as its judgement."""
    belief = guard.refusal
    if belief is None:
        return []

    def score(values: Array) -> Array:
        return belief.score(values, bench.every_state)

    scores = {cell.kind.name: score(cell.observed.states["t_post"]) for cell in bench.cells}
    threshold = bench.threshold(lambda rows: score(bench.states["t_post"][rows]))
    note = "the guard's other belief, taken as the judgement"
    return [Detector("refusal_belief", "belief of refusal (t_post)", note, scores, threshold, "baseline")]


def _words(bench: Bench) -> Detector:
    """Words alone: logistic regression on the same fit prompts."""
    texts = [prompt.text for prompt in bench.prompts]
    fitted = BagOfWords(seed=bench.seed).fit(
        [texts[row] for row in bench.fit_rows], [bool(bench.labels[row]) for row in bench.fit_rows]
    )
    return Detector(
        "bag_of_words",
        "bag of words",
        "logistic regression on the words of the same prompts",
        {cell.kind.name: fitted.score([prompt.text for prompt in cell.observed.prompts]) for cell in bench.cells},
        bench.threshold(lambda rows: fitted.score([texts[row] for row in rows])),
        "baseline",
    )
