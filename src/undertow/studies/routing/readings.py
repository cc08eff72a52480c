"""What the routing study read of pairs and heads: the screening, the circuit and the bands (parts 1 to 5).

Heads are (block, head). An effect of interchange is in the readout's unit; positive means that the head carries refusal
from the sensitive side of a pair. Source of the parts: Frank (arXiv 2604.04385).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from undertow.measure.statistics import Estimate

Array = npt.NDArray[Any]
Head = tuple[int, int]

MOST_NECESSARY = 16
MOST_ATTRIBUTED = 4


@dataclass(frozen=True)
class PairsSummary:
    """Part 1: the pairs that everything is measured on.

    Attributes:
        source: where they come from.
        choose: pairs on which directions come from and anything is chosen.
        report: pairs on which figures are made.
        topics, languages: of all pairs, in order of first mention.
        length_difference: sensitive minus control, in tokens, mean over all pairs.
        same_length: share of the pairs with equal token counts.
        refused: "sensitive", "control" -> share refused by the judge, report pairs.
        examples: a few (sensitive, control) texts.
    """

    source: str
    choose: int
    report: int
    topics: tuple[str, ...]
    languages: tuple[str, ...]
    length_difference: Estimate
    same_length: Estimate
    refused: Mapping[str, Estimate]
    examples: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Effects:
    """What an intervention on each head does, over all heads.

    Attributes:
        heads: the H heads, in order.
        value, low, high: (H,) mean over the report pairs, with its 95 % bootstrap interval.
        control: (H,) the same with a donor of the recipient's own class (another pair), report pairs.
        p: (H,) family-wise p over all heads that the effect, net of the control donor, is above zero: sign flips over
            the choose pairs.
        each: (n, H) the effect of every report pair.
        n: report pairs.
        tested: choose pairs.
    """

    heads: tuple[Head, ...]
    value: Array = field(repr=False)
    low: Array = field(repr=False)
    high: Array = field(repr=False)
    control: Array = field(repr=False)
    p: Array = field(repr=False)
    each: Array = field(repr=False)
    n: int
    tested: int

    def of(self, head: Head) -> Estimate:
        """One head's effect."""
        place = self.heads.index(head)
        return Estimate(float(self.value[place]), float(self.low[place]), float(self.high[place]), self.n)


@dataclass(frozen=True)
class Screening:
    """Part 4: interchange of every head on its own.

    Attributes:
        readout: what is read, with its unit.
        position: where heads were exchanged: "t_post", "tail" (right-aligned template tail) or "full span".
        baseline: readout of the sensitive prompt minus that of its control, report pairs.
        necessity: R(sensitive) - R(sensitive, head <- control).
        sufficiency: R(control, head <- sensitive) - R(control).
        seconds: time it took.
        method: how replay ran: "tree", "expanded" or "loop".
    """

    readout: str
    position: str
    baseline: Estimate
    necessity: Effects
    sufficiency: Effects
    seconds: float
    method: str


@dataclass(frozen=True)
class HeadRow:
    """One head in the table of part 5.

    Attributes:
        head: (block, head).
        role: "gate", "amplifier", "direct" (necessary, sufficient, and acting mostly through its own attribution),
            or "".
        necessity, sufficiency: by interchange at t_post, report pairs.
        necessity_p, sufficiency_p: family-wise, choose pairs.
        share: necessity over the baseline.
        attribution: direct logit attribution to the readout, sensitive minus control, report pairs.
        attribution_rank: 1 for the largest absolute attribution.
        indirect: necessity minus attribution: what acts through later parts.
        fall: how much its attribution on sensitive prompts falls when the gates are knocked out; None before them.
        fall_p: family-wise over all later heads, None likewise.
        necessity_share, sufficiency_share: over the baseline, ratio of means over the same pairs.
        indirect_share: share of its necessity that is indirect, likewise.
        necessity_control, sufficiency_control: the same shares with a donor of the recipient's own class.
    """

    head: Head
    role: str
    necessity: Estimate
    sufficiency: Estimate
    necessity_p: float
    sufficiency_p: float
    share: float
    attribution: Estimate
    attribution_rank: int
    indirect: Estimate
    fall: Estimate | None = None
    fall_p: float | None = None
    necessity_share: Estimate | None = None
    sufficiency_share: Estimate | None = None
    indirect_share: Estimate | None = None
    necessity_control: float | None = None
    sufficiency_control: float | None = None


@dataclass(frozen=True)
class Cascade:
    """Part 5: how later heads' attribution falls when the gates are knocked out.

    Attributes:
        knocked: the gates.
        heads: later heads, in order.
        fall: (later heads,) mean over report pairs, in logits.
        low, high: (later heads,) its interval.
        p: (later heads,) family-wise, choose pairs, net of the mean over `null`.
        null: (null heads, later heads) the same fall when each other head of the gates' blocks is knocked out, all of
            them.
        null_heads: those heads.
        n: report pairs.
    """

    knocked: tuple[Head, ...]
    heads: tuple[Head, ...]
    fall: Array = field(repr=False)
    low: Array = field(repr=False)
    high: Array = field(repr=False)
    p: Array = field(repr=False)
    null: Array = field(repr=False)
    null_heads: tuple[Head, ...]
    n: int


@dataclass(frozen=True)
class Circuit:
    """Part 5: gates and amplifiers by rule.

    Attributes:
        gates, amplifiers: heads; both may be empty, and "no gate found" is an answer.
        direct: heads that are necessary and sufficient through their own attribution.
        rows: every head, by falling necessity on the choose pairs.
        rule: the rule in words, with its numbers.
        cascade: None where no gate was found.
        heads: how many heads were screened.
        attention_share: share of the total attribution difference that heads carry, MLPs the rest, report pairs.
        residue: largest relative difference between the parts' sum and the logits.
    """

    gates: tuple[Head, ...]
    amplifiers: tuple[Head, ...]
    direct: tuple[Head, ...]
    rows: tuple[HeadRow, ...]
    rule: str
    cascade: Cascade | None
    heads: int
    attention_share: Estimate
    residue: float

    @property
    def notable(self) -> tuple[HeadRow, ...]:
        """The rows worth a line in a table: with a role, of the largest necessity or of the largest attribution."""
        return tuple(
            row
            for place, row in enumerate(self.rows)
            if row.role or place < MOST_NECESSARY or row.attribution_rank <= MOST_ATTRIBUTED
        )


@dataclass(frozen=True)
class BandStep:
    """One step of the greedy search: the head added, and the joint interchange so far on report pairs.

    Attributes:
        head: the head added at this step.
        necessity, sufficiency: of all heads so far together.
        random: mean joint necessity of random sets of as many heads of the same blocks, report pairs.
        random_low, random_high: 2.5 and 97.5 percentiles over those sets.
        refused: share of sensitive report prompts still refused when all of them are exchanged (t_post).
        chosen: whether the step belongs to the band: the gain on the choose pairs was clear of zero and large enough.
        gain: necessity over that of the first step's head, ratio of means over the same pairs.
    """

    head: Head
    necessity: Estimate
    sufficiency: Estimate
    random: float
    random_low: float
    random_high: float
    refused: Estimate
    chosen: bool
    gain: Estimate | None = None


@dataclass(frozen=True)
class Bands:
    """Part 5: the set of heads found greedily by joint interchange.

    Attributes:
        steps: in order of addition, a few beyond the band.
        band: heads of the chosen steps.
        baseline: as in `Screening`.
        random_sets: how many random sets stand behind each `random`.
        rule: when the search stops, in words.
    """

    steps: tuple[BandStep, ...]
    band: tuple[Head, ...]
    baseline: Estimate
    random_sets: int
    rule: str


def mean_interval(values: Array, seed: int = 0, resamples: int = 2000) -> tuple[Array, Array, Array]:
    """Mean over the first axis (pairs) with its 95 % percentile bootstrap interval, all columns resampled together.

    Args:
        values: (n, ...).
        seed: of the resampling.
        resamples: how many.
    """
    values = np.asarray(values, dtype=np.float64)
    count = len(values)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(count, np.full(count, 1 / count), resamples) / count
    drawn = np.tensordot(weights, values, axes=1)
    return values.mean(0), np.quantile(drawn, 0.025, axis=0), np.quantile(drawn, 0.975, axis=0)


def mean_estimate(values: Array, seed: int = 0) -> Estimate:
    """Mean of (n,) numbers with its 95 % percentile bootstrap interval."""
    mean, low, high = mean_interval(values, seed)
    return Estimate(float(mean), float(low), float(high), len(values))
