"""What the beliefs study measured, part by part; its findings, tables and figures are made of this.

Source of the parts: Zhao et al. (arXiv 2507.11878).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.measure.finding import Claim, Finding
from undertow.measure.statistics import Estimate
from undertow.prompts import Prompt
from undertow.studies.beliefs.readings import FOUR_KINDS as FOUR_KINDS
from undertow.studies.beliefs.readings import Agreement as Agreement
from undertow.studies.beliefs.readings import Array as Array
from undertow.studies.beliefs.readings import Band as Band
from undertow.studies.beliefs.readings import BeliefMap, Directions, Separation, Sorting

if TYPE_CHECKING:
    from undertow.model.identity import ModelIdentity
    from undertow.studies.beliefs.comparison import Comparison
    from undertow.studies.beliefs.suffix_search import SuffixSearch


@dataclass(frozen=True)
class Sweep:
    """Part 5: share of prompts refused under steering (figure 4).

    Attributes:
        states: states steered at.
        coefficients: how many times the direction was added, ascending, without 0.
        refused: prompts ("harmless", "harmful") -> direction ("harmfulness", "refusal", "reversed harmfulness",
            "reversed refusal", "random") -> (states, coefficients) of `Estimate`, as nested lists.
        baseline: "harmless", "harmful" -> share refused without steering.
        best: the same two -> direction -> (state, coefficient) chosen on other prompts than those counted here.
        n: "harmless", "harmful" -> prompts.
        tried: prompts on which `best` was chosen.
    """

    states: tuple[int, ...]
    coefficients: tuple[float, ...]
    refused: Mapping[str, Mapping[str, list[list[Estimate]]]] = field(repr=False)
    baseline: Mapping[str, Estimate]
    best: Mapping[str, Mapping[str, tuple[int, float]]]
    n: Mapping[str, int]
    tried: int

    def at_best(self, prompts: str, direction: str) -> Estimate:
        """The share refused at the chosen state and coefficient."""
        state, coefficient = self.best[prompts][direction]
        return self.refused[prompts][direction][self.states.index(state)][self.coefficients.index(coefficient)]

    def random_beside(self, prompts: str, direction: str) -> Estimate:
        """The share refused under the random direction at the state and coefficient chosen for another direction."""
        state, coefficient = self.best[prompts][direction]
        return self.refused[prompts]["random"][self.states.index(state)][self.coefficients.index(coefficient)]


@dataclass(frozen=True)
class InversionGrid:
    """Answers to the inversion question under one kind of steering.

    Attributes:
        prompts: "harmless" or "harmful".
        span: "instruction" (the request without the question) or "prompt".
        direction: as in `Sweep`.
        certainly, no, refusal: (states, coefficients) mean probability that the answer's first token opens "Certainly",
            "No", or a refusal. "No" may open a refusal too and then counts in both.
        low, high: name of those three -> (states, coefficients), ends of the 95 % bootstrap interval.
    """

    prompts: str
    span: str
    direction: str
    certainly: Array = field(repr=False)
    no: Array = field(repr=False)
    refusal: Array = field(repr=False)
    low: Mapping[str, Array] = field(repr=False)
    high: Mapping[str, Array] = field(repr=False)


@dataclass(frozen=True)
class Path:
    """What one direction does as it is added more and more, at the state chosen for it, against being subtracted.

    Attributes:
        direction: "harmfulness", "refusal" or "random".
        span: which tokens it is added to.
        state: chosen by its effect on refusal, on other prompts.
        coefficients: 0 and upwards.
        refusal: (coefficients,) half the difference of the mean refusal log-odds on the bare prompts between adding and
            subtracting, in nats.
        judgement: (coefficients,) the same of the log-odds of "Certainly" against "No" with the question.
        matched: the coefficient at which the directions are compared.
    """

    direction: str
    span: str
    state: int
    coefficients: tuple[float, ...]
    refusal: Array
    judgement: Array
    matched: float


@dataclass(frozen=True)
class Dissociation:
    """The double dissociation in one number; `undertow.studies.beliefs.dissociation` defines it.

    Attributes:
        value: judgement moved by harmfulness steering minus judgement moved by refusal steering, where both move
            refusal equally, in nats of log-odds.
        control: the same with a random direction in the place of harmfulness.
        level: the change of the refusal log-odds at which they are compared, in nats.
        paths: harmfulness, refusal, random.
        by_state: (states,) the statistic with both directions at that state.
    """

    value: Estimate
    control: Estimate
    level: float
    paths: tuple[Path, ...]
    by_state: Array = field(repr=False)


@dataclass(frozen=True)
class Inversion:
    """Part 6: reply inversion under steering (figure 5).

    Attributes:
        states: states steered at.
        coefficients: from 0 upwards.
        wordings: the questions.
        by_wording: wording -> "harmless", "harmful" -> share judged rightly, unsteered.
        grids: every kind of steering.
        dissociation: the one statistic; None where a first token does not tell the answers apart.
        n: prompts of each kind.
    """

    states: tuple[int, ...]
    coefficients: tuple[float, ...]
    wordings: tuple[str, ...]
    by_wording: Mapping[str, Mapping[str, Estimate]]
    grids: tuple[InversionGrid, ...] = field(repr=False)
    dissociation: Dissociation | None
    n: int

    def grid(self, prompts: str, span: str, direction: str) -> InversionGrid:
        """The grid of that steering."""
        wanted = (prompts, span, direction)
        return next(grid for grid in self.grids if (grid.prompts, grid.span, grid.direction) == wanted)


@dataclass(frozen=True)
class FamilyEffect:
    """What one wrapper family does.

    Attributes:
        family: its name.
        n: harmful prompts in it.
        answered: share of them that the model answers.
        harmfulness, refusal: mean published belief of these prompts.
        harmfulness_shift, refusal_shift: mean change of the belief against the same requests bare; None where the bare
            requests are unknown (a user's file).
        harmless_harmfulness_shift, harmless_refusal_shift: the same for harmless requests in the same wrappers: the
            control.
        believed_answered: share that the model believes harmful and yet answers.
    """

    family: str
    n: int
    answered: Estimate
    harmfulness: Estimate
    refusal: Estimate
    harmfulness_shift: Estimate | None
    refusal_shift: Estimate | None
    harmless_harmfulness_shift: Estimate | None
    harmless_refusal_shift: Estimate | None
    believed_answered: Estimate


@dataclass(frozen=True)
class Jailbreaks:
    """Part 7.

    Attributes:
        bare: bare harmful prompts, in the same terms, no shifts.
        families: every wrapper family.
        believed: some prompts that the model believes harmful and yet answers.
        suffixes: the gradient-based search; None unless asked for.
    """

    bare: FamilyEffect
    families: tuple[FamilyEffect, ...]
    believed: tuple[Prompt, ...] = field(repr=False)
    suffixes: SuffixSearch | None = None


@dataclass(frozen=True)
class GuardRow:
    """One judge of prompts in table 1.

    Attributes:
        key: short name: "centroid", "prototype", "linear", "own_refusal", "inversion", "bag_of_words", "shuffled", or
            what the user named.
        title: for readers.
        note: what it is fitted on, and what its own threshold is.
        role: "guard", "baseline" or "control".
        accuracy: group of test prompts -> share judged rightly at the row's own threshold. Groups: each wrapper
            family's accepted harmful prompts by its name, "refused harmless", "accepted harmful" (all families), "all".
        false_positives: share of all harmless test prompts flagged at its own threshold.
        auc: accepted harmful against all harmless test prompts; None for verdicts without a score.
        recall: false-positive rate (0.01, 0.02, 0.05) -> recall of accepted harmful prompts at the threshold of that
            rate on the harmless test prompts, bootstrapped with the threshold; empty for verdicts without a score.
        spared: the same rates -> share of refused harmless prompts not flagged at that threshold.
        flops: forward FLOPs a prompt (mean over the test prompts); None where unknown.
        extra_flops: FLOPs a prompt beyond what answering the prompt needs anyway.
        seconds: measured seconds a prompt, in batches.
    """

    key: str
    title: str
    note: str
    role: str
    accuracy: Mapping[str, Estimate]
    false_positives: Estimate
    auc: Estimate | None
    recall: Mapping[float, Estimate]
    spared: Mapping[float, Estimate]
    flops: float | None
    extra_flops: float | None
    seconds: float | None


@dataclass(frozen=True)
class Guards:
    """Part 8: table 1.

    Attributes:
        rows: all judges; the published rule first.
        best: key of the rule (not the published one) with the best cross-validated score on the FIT prompts.
        gain: best rule minus `centroid`, paired bootstrap: "accepted harmful" (recall at 2 %), "refused harmless"
            (spared at 2 %), "auc".
        families: wrapper families, in order.
        fit: what the rules were fitted on, in words.
    """

    rows: tuple[GuardRow, ...]
    best: str
    gain: Mapping[str, Estimate]
    families: tuple[str, ...]
    fit: str

    def row(self, key: str) -> GuardRow | None:
        """The row of that key."""
        return next((row for row in self.rows if row.key == key), None)


@dataclass(frozen=True)
class Attack:
    """One attack on the weights, with the model before and after compared.

    Attributes:
        key: "finetuning" or "abliteration".
        title: for readers.
        about: settings and course of it, such as steps, rank, learning rate, loss, seconds.
        comparison: the model before against after.
        control: the same against an attack that should do nothing: finetuning on harmless answers for as many steps, a
            random direction removed.
    """

    key: str
    title: str
    about: Mapping[str, Any]
    comparison: Comparison
    control: Comparison | None


@dataclass(frozen=True)
class OverRefusal:
    """Part 10: releasing over-refused prompts.

    Attributes:
        released: share of refused harmless prompts answered under release.
        released_control: the same along a random direction of equal norm.
        let_through: share of refused harmful prompts answered under release: the price.
        let_through_control: the same along the random direction.
        touched: "refused harmless", "refused harmful" -> share on which the guard acted at all.
        exchange: answered harmless gained for every harmful one let through; None where none is let through.
        unchanged: share of accepted harmless prompts whose reply is the very same under release.
        note: how the guard was fitted, and anything that limits this.
    """

    released: Estimate | None
    released_control: Estimate | None
    let_through: Estimate | None
    let_through_control: Estimate | None
    touched: Mapping[str, Estimate]
    exchange: float | None
    unchanged: Estimate | None
    note: str


@dataclass(frozen=True)
class BeliefsResult:
    """Everything that one run measured.

    Attributes:
        identity: the model.
        sorting, separation, belief_map, directions, sweep, inversion, jailbreaks, guards, attacks, over_refusal: the
            ten parts. A part that this model or these prompts do not allow is None, with its reason in `skipped`.
        skipped: name of a part -> why it was not measured.
        notes: what limits the whole, in sentences.
        findings: what it comes to.
        rules: finding's id -> the rule of its verdict.
        run: what was run: model, seed, versions, prompts, seconds.
    """

    identity: ModelIdentity
    sorting: Sorting
    separation: Separation | None = None
    belief_map: BeliefMap | None = None
    directions: Directions | None = None
    sweep: Sweep | None = None
    inversion: Inversion | None = None
    jailbreaks: Jailbreaks | None = None
    guards: Guards | None = None
    attacks: tuple[Attack, ...] = ()
    over_refusal: OverRefusal | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    rules: Mapping[str, Claim] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

    def finding(self, name: str) -> Finding | None:
        """The finding of that id."""
        return next((finding for finding in self.findings if finding.id == name), None)


def estimate_of(hits: Array) -> Estimate | None:
    """The share of hits with its Clopper-Pearson interval; None where there is nothing to count."""
    from undertow.measure.statistics import proportion

    return proportion(int(np.sum(hits)), len(hits)) if len(hits) else None
