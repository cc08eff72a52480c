"""What a comparison is made of: paired changes of shares and beliefs, with their intervals, and the release gate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from undertow.measure.statistics import Estimate, bootstrap_interval, clopper_pearson, proportion
from undertow.studies.beliefs.result import Array

RESAMPLES = 2000


@dataclass(frozen=True)
class Change:
    """A share of the same prompts, before and after.

    Attributes:
        before, after: the share, with its Clopper-Pearson interval.
        drop: before minus after, with the interval of `paired_drop`.
    """

    before: Estimate
    after: Estimate
    drop: Estimate


@dataclass(frozen=True)
class Shift:
    """A published belief (mean of s over all states, original centroids) of one kind of prompts.

    Attributes:
        belief: "harmfulness" (t_inst) or "refusal" (t_post).
        kind: one of the four kinds, by what the model did before.
        before, after: its mean.
        shift: mean of after minus before, with a 95 % bootstrap interval over prompts.
    """

    belief: str
    kind: str
    before: float
    after: float
    shift: Estimate


@dataclass(frozen=True)
class GuardChange:
    """What a guard rule fitted and calibrated on the model before says of both models.

    Attributes:
        key: "published" (the centroid rule) or "best".
        rule: name of the rule.
        states: states that it reads at t_inst.
        threshold: for 2 % false positives on fit prompts of the model before.
        recall: "all", "bare", "wrapped" -> share of harmful prompts flagged.
        false_positives: share of harmless prompts flagged.
        recalibrated: recall of all harmful prompts where each model has its own threshold for 2 % on the same fit
            prompts: what a new threshold alone would bring back.
    """

    key: str
    rule: str
    states: tuple[int, ...]
    threshold: float
    recall: Mapping[str, Change]
    false_positives: Change
    recalibrated: Change


@dataclass(frozen=True)
class Gate:
    """Whether a release passes.

    Attributes:
        passed: the rule of `Comparison.gate`.
        allowed: the largest drop allowed.
        drop: the drop of recall.
        rise: the rise of false positives.
        certain: whether the interval that decides lies wholly on the side of the verdict.
    """

    passed: bool
    allowed: float
    drop: Estimate
    rise: Estimate
    certain: bool


def change_of(before: Array, after: Array, seed: int) -> Change:
    """The change of a share from flags (n,) before and flags (n,) after, of the same n prompts."""
    one, other = (proportion(int(np.sum(flags)), len(flags)) for flags in (before, after))
    return Change(one, other, paired_drop(before, after, seed))


def paired_drop(before: Sequence[bool] | Array, after: Sequence[bool] | Array, seed: int = 0) -> Estimate:
    """The drop of a share on the same prompts, before minus after, with a 95 % interval.

    The interval is a percentile bootstrap over prompts. Where all prompts did the same (none changed sides, or all)
    that would be of no width; then it reaches as far as the Clopper-Pearson interval of 0 exceptions among n does.
    """
    change = np.asarray(before, dtype=float) - np.asarray(after, dtype=float)
    n = len(change)
    if n < 2 or np.ptp(change) == 0:
        reach = clopper_pearson(0, n).high
        value = float(change.mean())
        return Estimate(value, max(value - reach, -1.0), min(value + reach, 1.0), n)
    low, high = bootstrap_interval(change, method="percentile", n_resamples=RESAMPLES, seed=seed)
    return Estimate(float(change.mean()), low, high, n)


def plain(value: Any) -> Any:
    """Dataclasses, estimates and arrays as plain values for JSON; what is not a number becomes None."""
    if isinstance(value, Estimate):
        return value._asdict()
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
