"""What the routing study measured, part by part; its findings, tables and figures are made of this.

Source of the parts: Frank (arXiv 2604.04385).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from undertow.measure.finding import Claim, Finding
from undertow.measure.statistics import Estimate
from undertow.studies.routing.readings import Array as Array
from undertow.studies.routing.readings import Bands as Bands
from undertow.studies.routing.readings import Circuit as Circuit
from undertow.studies.routing.readings import Head as Head
from undertow.studies.routing.readings import PairsSummary as PairsSummary
from undertow.studies.routing.readings import Screening as Screening

if TYPE_CHECKING:
    from undertow.model.identity import ModelIdentity


@dataclass(frozen=True)
class Ablation:
    """Part 6: ablation against interchange, head by head at t_post, and what either does to behaviour.

    Attributes:
        heads: the H heads.
        effects: "interchange", "mean ablation", "zero ablation", "projection" -> (H,) fall of the readout on sensitive
            prompts, mean over report pairs.
        low, high: the same keys -> (H,).
        rank_correlation: the three ablations -> Spearman correlation with interchange over heads, with interval over
            pairs.
        top: how many heads `overlap` compares.
        overlap: the three ablations -> share of interchange's top heads among the ablation's.
        behaviour: rows of (what was done, heads, share of sensitive report prompts refused afterwards, share of the
            controls refused): nothing, the gates / band / top ablation heads under each intervention at t_post and at
            all tokens, random heads of the same blocks.
        n: report pairs.
    """

    heads: tuple[Head, ...]
    effects: Mapping[str, Array] = field(repr=False)
    low: Mapping[str, Array] = field(repr=False)
    high: Mapping[str, Array] = field(repr=False)
    rank_correlation: Mapping[str, Estimate]
    top: int
    overlap: Mapping[str, float]
    behaviour: tuple[tuple[str, tuple[Head, ...], Estimate, Estimate], ...]
    n: int


@dataclass(frozen=True)
class DoseCurve:
    """Part 7: replies against dose, for one group of prompts and one direction.

    Attributes:
        prompts: "sensitive" (the signal is subtracted) or "control" (it is added).
        direction: "detection" or "random".
        group: "all", a topic or a language.
        doses: in units of the mean norm of the residual stream at that state; the first is 0.
        refusal, evasion, answer: (doses,) shares, which sum to 1.
        low, high: (doses,) Clopper-Pearson interval of the share refused.
        threshold: dose at which the logistic fit of refusal crosses one half, with its bootstrap interval; None where
            the curve does not cross it within the doses.
        slope: of the logistic, per unit of dose; None likewise.
        n: prompts.
    """

    prompts: str
    direction: str
    group: str
    doses: tuple[float, ...]
    refusal: Array
    evasion: Array
    answer: Array
    low: Array
    high: Array
    threshold: Estimate | None
    slope: float | None
    n: int


@dataclass(frozen=True)
class Modulation:
    """Part 7: the detection signal scaled before the gate.

    Attributes:
        state: the state it is added at, the input of a block at or before the first gate's.
        span: which tokens.
        norm: mean norm of the residual stream there: the unit of dose.
        detection: mean projection of sensitive minus control on the unit direction there, in the same unit.
        curves: all groups; group "all" comes first for each of prompts x direction.
        before_gate: whether a gate was found and the state lies at or before its block's input.
        note: how the state was chosen.
    """

    state: int
    span: str
    norm: float
    detection: Estimate
    curves: tuple[DoseCurve, ...]
    before_gate: bool
    note: str


@dataclass(frozen=True)
class CommitmentCurve:
    """Part 8: what exchanging one position's state does, at every state.

    Attributes:
        position: "t_post", "t_inst" or "earlier" (every prompt token before t_post, pairs of equal length).
        toward: "answer" (sensitive prompts given the control's state) or "refusal" (the reverse).
        donor: "pair" or "same class" (the control).
        flipped: (L + 1,) share of prompts whose judged reply changed to the other side's, among those that behave as
            wanted without intervention.
        low, high: (L + 1,) Clopper-Pearson.
        readout: (L + 1,) mean change of the readout, as a share of the baseline.
        n: prompts.
    """

    position: str
    toward: str
    donor: str
    flipped: Array
    low: Array
    high: Array
    readout: Array
    n: int


@dataclass(frozen=True)
class Commitment:
    """Part 8: when the decision becomes fixed.

    Attributes:
        curves: see `CommitmentCurve`.
        first: "answer", "refusal" -> first state from which exchanging t_post flips at least half of the replies.
        last: the same -> last state at which exchanging the earlier tokens (or t_inst) still flips half; None where
            none does.
        n: prompts.
    """

    curves: tuple[CommitmentCurve, ...]
    first: Mapping[str, int | None]
    last: Mapping[str, int | None]
    n: int


@dataclass(frozen=True)
class CipherReading:
    """Part 9: how well the model reads a cipher.

    Attributes:
        condition: "plain", "cipher", "other table" (a table it was not trained on, or None of them).
        refused: share of sensitive prompts refused.
        judged: share of prompts (both sides) whose harm it tells right when asked.
        n: pairs.
    """

    condition: str
    refused: Estimate
    judged: Estimate
    n: int


@dataclass(frozen=True)
class CipherHead:
    """Part 9: one head under the cipher.

    Attributes:
        head: (block, head).
        plain, cipher: necessity with the paired donor of the same form (plain control, ciphered control).
        published: necessity under the cipher with the published donor, the plain control: of another form.
        difference: plain minus cipher, paired.
    """

    head: Head
    plain: Estimate
    cipher: Estimate
    published: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Rescue:
    """Part 9: refusals under the cipher when something is put into heads at t_post of every pass.

    Attributes:
        injected: "nothing", "gate, plain sensitive", "gate, plain control", "random heads, plain sensitive",
            "random vector", "band, plain sensitive".
        refused: share of ciphered sensitive report prompts refused.
        readout: mean change of the readout against nothing.
    """

    injected: str
    refused: Estimate
    readout: Estimate


@dataclass(frozen=True)
class Ciphers:
    """Part 9: what a letter cipher does to detection and routing.

    Attributes:
        cipher: its name.
        readings: how well it is read.
        detection: "plain", "cipher" -> (L + 1,) mean projection of sensitive minus control (of the same form) on the
            unit detection direction from plain choose pairs, at t_inst.
        low, high: the same keys -> (L + 1,).
        drop: 1 - cipher / plain at the state where plain is largest.
        heads: the gates (or, without any, the heads of largest plain necessity).
        collapse: 1 - mean cipher / mean plain necessity over `heads`, signed, with interval.
        rescue: see `Rescue`.
        contrast: heads -> per-head sensitivity, in order of `contrast_heads`: mean attribution plain minus cipher, net
            of the same difference on controls, O(3n) passes (four sets here: the ciphered control is the extra one).
        contrast_p: (H,) family-wise p of it.
        contrast_heads: the H heads.
        n: report pairs.
    """

    cipher: str
    readings: tuple[CipherReading, ...]
    detection: Mapping[str, Array] = field(repr=False)
    low: Mapping[str, Array] = field(repr=False)
    high: Mapping[str, Array] = field(repr=False)
    drop: Estimate
    heads: tuple[CipherHead, ...]
    collapse: Estimate
    rescue: tuple[Rescue, ...]
    contrast: Array = field(repr=False)
    contrast_p: Array = field(repr=False)
    contrast_heads: tuple[Head, ...] = field(repr=False)
    n: int


@dataclass(frozen=True)
class CircuitComparison:
    """Part 10: the circuits of two models on the same pairs.

    Attributes:
        models: names of the two.
        baselines: their baselines.
        necessity: (2, H) mean necessity, report pairs.
        heads: the H heads, where both have the same.
        correlation: Spearman correlation of necessity over heads, with bootstrap interval over pairs.
        top: how many heads the top sets hold.
        jaccard: overlap of the two top sets, with its interval over resampled pairs.
        stability: for each model the mean Jaccard of the top set of resampled pairs with its own top set.
        chance: expected Jaccard of two random sets of that size.
        circuits: each model's gates and amplifiers.
        moved: heads whose necessity differs (family-wise p <= .05, two-sided), with the difference second minus first.
        n: report pairs.
    """

    models: tuple[str, str]
    baselines: tuple[Estimate, Estimate]
    necessity: Array = field(repr=False)
    heads: tuple[Head, ...] = field(repr=False)
    correlation: Estimate
    top: int
    jaccard: Estimate
    stability: tuple[Estimate, Estimate]
    chance: float
    circuits: tuple[Circuit, Circuit] = field(repr=False)
    moved: tuple[tuple[Head, Estimate], ...]
    n: int


@dataclass(frozen=True)
class Scores:
    """How well one method names the built heads, over all builds.

    Attributes:
        method: "screening", "attribution" (ranking by |DLA difference|), "ablation" (ranking by mean ablation).
        knows_count: whether the method was told how many gates and amplifiers there are (the two rankings are).
        gate_recall, gate_precision, amplifier_recall, amplifier_precision: pooled over heads of all builds with a gate,
            bootstrap interval over builds; Clopper-Pearson over builds where every build is right or every one wrong.
        false_gate: share of the builds without a gate in which one is named; None for rankings, which always name one.
    """

    method: str
    knows_count: bool
    gate_recall: Estimate
    gate_precision: Estimate
    amplifier_recall: Estimate
    amplifier_precision: Estimate
    false_gate: Estimate | None


@dataclass(frozen=True)
class BuiltScores:
    """Ground truth (section 2 of the study): circuits whose heads are known.

    Attributes:
        scores: one row a method.
        builds: builds with a gate.
        without_gate: builds without.
        pairs: pairs a build.
        by_gates: number of gates in a build -> (builds, gates found, gates there).
        spec: what was drawn at random, in words.
        rows: one mapping a build: seed, policy, truth and what was found; plain JSON.
        seconds: time it took.
    """

    scores: tuple[Scores, ...]
    builds: int
    without_gate: int
    pairs: int
    by_gates: Mapping[int, tuple[int, int, int]]
    spec: str
    rows: tuple[Mapping[str, Any], ...] = field(repr=False)
    seconds: float = 0.0


@dataclass(frozen=True)
class RoutingResult:
    """Everything the study measured; a part that was impossible is None and named in `skipped`.

    Attributes:
        identity: the model.
        pairs: part 1.
        screenings: part 4, the one that the circuit rests on (default readout, t_post) first.
        circuit: parts 3 and 5.
        bands, ablation, modulation, commitment, ciphers, comparison: parts 5 to 10.
        built: ground truth, where it was asked for.
        skipped: part -> why.
        notes: what limits the figures.
        findings, rules: made by `findings_of`.
        run: metadata of the run.
    """

    identity: ModelIdentity
    pairs: PairsSummary
    screenings: tuple[Screening, ...]
    circuit: Circuit
    bands: Bands | None = None
    ablation: Ablation | None = None
    modulation: Modulation | None = None
    commitment: Commitment | None = None
    ciphers: Ciphers | None = None
    comparison: CircuitComparison | None = None
    built: BuiltScores | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    rules: Mapping[str, Claim] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
