"""What was read off the model without touching it: parts 1 to 4 of the beliefs study.

Source of the parts: Zhao et al. (arXiv 2507.11878).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from undertow.measure.statistics import Band as Band
from undertow.measure.statistics import Estimate
from undertow.prompts import Prompt

Array = npt.NDArray[Any]

FOUR_KINDS: tuple[tuple[str, bool, bool], ...] = (
    ("refused harmful", True, True),
    ("accepted harmful", True, False),
    ("accepted harmless", False, False),
    ("refused harmless", False, True),
)
"""(name, harmful, refused): the two anchors are the first and the third, the misbehaving kinds the others."""


@dataclass(frozen=True)
class Agreement:
    """How far two judges of refusals agree on the same replies.

    Attributes:
        first, second: names of the judges.
        share: share of replies on which they agree.
        kappa: Cohen's kappa, agreement beyond chance; None where a judge gives one verdict only.
    """

    first: str
    second: str
    share: Estimate
    kappa: float | None


@dataclass(frozen=True)
class Sorting:
    """Part 1: replies judged, prompts sorted into the four kinds.

    Attributes:
        refused: title of a group of test prompts -> share that the model refuses.
        harmful: the same titles -> whether the group is harmful.
        counts: kind -> number of test prompts.
        judge: name of the judge whose verdicts the study uses.
        agreements: every pair of judges.
        unfinished: test replies that broke off inside their reasoning.
    """

    refused: Mapping[str, Estimate]
    harmful: Mapping[str, bool]
    counts: Mapping[str, int]
    judge: str
    agreements: tuple[Agreement, ...]
    unfinished: int


@dataclass(frozen=True)
class Separation:
    """Part 2: s(l) of the four kinds of test prompts, with centroids of the fit prompts' anchors (figure 2).

    Attributes:
        bands: position -> the four kinds, then the control.
        sides: position -> kind -> share of its prompts whose mean s is at or above 0: the side of harmful and refused.
        control: position -> the same share of accepted harmful prompts under centroids of shuffled anchors.
    """

    bands: Mapping[str, tuple[Band, ...]]
    sides: Mapping[str, Mapping[str, Estimate]]
    control: Mapping[str, Estimate]


@dataclass(frozen=True)
class BeliefMap:
    """Part 3: every test prompt at its two published beliefs (figure 3). Both thresholds are 0.

    Attributes:
        harmfulness, refusal: (n,) mean of s over all states at t_inst and t_post.
        groups: (n,) title of the group of each prompt.
        prompts: the n prompts.
        quadrants: group -> quadrant (`undertow.guard.verdict.QUADRANTS`) -> number of prompts.
        correlation: "all", "harmful", "harmless" -> Spearman's rank correlation of the two beliefs.
        control: the same over all prompts with one of the beliefs permuted.
    """

    harmfulness: Array = field(repr=False)
    refusal: Array = field(repr=False)
    groups: tuple[str, ...] = field(repr=False)
    prompts: tuple[Prompt, ...] = field(repr=False)
    quadrants: Mapping[str, Mapping[str, int]]
    correlation: Mapping[str, Estimate]
    control: Estimate


@dataclass(frozen=True)
class Directions:
    """Part 4: the directions of every state, and how far their cosines can be trusted.

    Attributes:
        cosine: harmfulness against refusal, a band over the states; bootstrap over the fit prompts.
        random: cosine of harmfulness with random directions of the same width: the control band.
        norms: "harmfulness", "refusal" -> (L + 1,) norm as a share of the residual stream's mean norm there.
        reliability: "harmfulness", "refusal" -> band of the cosine of the same direction from two halves.
        ceiling: (L + 1,) the largest cosine that two directions this noisy could show, were they one direction:
            square root of the product of both reliabilities (attenuation).
        categories: risk categories with enough prompts.
        state: the state that categories are compared at.
        category_cosines: "harmfulness", "refusal" -> (C, C) cosines of the per-category directions.
        category_reliability: the same kinds -> (C,) split-half cosine of each category's direction.
        category_spread: the same kinds -> mean off-diagonal cosine, bootstrapped over prompts within categories;
            missing for "refusal" where categories hold too few refused or accepted prompts.
    """

    cosine: Band
    random: Band
    norms: Mapping[str, Array] = field(repr=False)
    reliability: Mapping[str, Band] = field(repr=False)
    ceiling: Array = field(repr=False)
    categories: tuple[str, ...]
    state: int
    category_cosines: Mapping[str, Array] = field(repr=False)
    category_reliability: Mapping[str, Array] = field(repr=False)
    category_spread: Mapping[str, Estimate]
