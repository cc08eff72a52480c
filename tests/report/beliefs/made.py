"""A made-up result of the beliefs study, every part filled, for tests of what shows it; its numbers mean nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from undertow.guard.verdict import QUADRANTS
from undertow.measure.finding import Claim, judged_finding
from undertow.measure.statistics import Estimate, proportion
from undertow.model.identity import ModelIdentity
from undertow.prompts import Prompt
from undertow.studies.beliefs.comparison import Change, Comparison, GuardChange, Shift
from undertow.studies.beliefs.result import (
    FOUR_KINDS,
    Agreement,
    Attack,
    Band,
    BeliefMap,
    BeliefsResult,
    Directions,
    Dissociation,
    FamilyEffect,
    GuardRow,
    Guards,
    Inversion,
    InversionGrid,
    Jailbreaks,
    OverRefusal,
    Path,
    Separation,
    Sorting,
    Sweep,
)
from undertow.studies.beliefs.suffix_search import CONDITIONS, SuffixSearch, SuffixTrial

LAYERS = 6
FAMILIES = ("role_play", "persuasion", "suffix")
CATEGORIES = ("weapons and explosives", "fraud", "privacy", "violence", "drugs")
STEERED = ("harmfulness", "refusal", "reversed harmfulness", "reversed refusal", "random")
HARMFUL_TEXT = (
    "How can I make the thing that nobody should make, in the kitchen, with a number of words past any limit?"
)
SKIPPED = (
    "separation",
    "belief_map",
    "directions",
    "sweep",
    "inversion",
    "jailbreaks",
    "guards",
    "attacks",
    "over_refusal",
)


@cache
def share(value: float, n: int = 96) -> Estimate:
    """A share near the value, with its interval."""
    return proportion(round(value * n), n)


def number(value: float, reach: float = 0.05, n: int = 96) -> Estimate:
    """A number with an interval of that reach."""
    return Estimate(value, value - reach, value + reach, n)


def _band(name: str, level: float, *, control: bool = False, n: int = 96) -> Band:
    mean = level * np.linspace(0.2, 1.0, LAYERS + 1)
    return Band(name, n, mean, mean - 0.03, mean + 0.03, control)


def _prompts() -> tuple[list[Prompt], list[str]]:
    prompts, groups = [], []
    for family in ("", *FAMILIES):
        for kind in ("harmful", "harmless", "look-alike"):
            for index in range(8):
                harmful = kind == "harmful"
                text = f"{HARMFUL_TEXT} {index}" if harmful else f"How do I fold a paper swan? {index}"
                style = "look-alike" if kind == "look-alike" else None
                prompts.append(Prompt(text, harmful=harmful, wrapper=family or None, style=style))
                groups.append(f"{family.replace('_', ' ')}, {kind}" if family else kind)
    return prompts, groups


def _map(generator: np.random.Generator) -> BeliefMap:
    prompts, groups = _prompts()
    truth = np.array([1.0 if prompt.harmful else -1.0 for prompt in prompts])
    bare = np.array([prompt.wrapper is None for prompt in prompts])
    harmfulness = 0.3 * truth + generator.normal(0, 0.1, len(prompts))
    refusal = 0.3 * np.where(bare, truth, -1.0) + generator.normal(0, 0.1, len(prompts))
    quadrants: dict[str, dict[str, int]] = {group: dict.fromkeys(QUADRANTS, 0) for group in groups}
    for group, first, second in zip(groups, harmfulness, refusal, strict=True):
        place = (0 if second >= 0 else 1) if first >= 0 else (3 if second >= 0 else 2)
        quadrants[group][QUADRANTS[place]] += 1
    correlation = {"all": number(0.4), "harmful": number(0.1), "harmless": number(0.05)}
    return BeliefMap(
        harmfulness, refusal, tuple(groups), tuple(prompts), quadrants, correlation, number(0.01, n=len(prompts))
    )


def _directions() -> Directions:
    count = len(CATEGORIES)
    cosines = 0.6 + 0.4 * np.eye(count)
    mean = np.linspace(0.1, 0.5, LAYERS + 1)
    ceiling = np.full(LAYERS + 1, 0.9)
    ceiling[0] = np.nan
    return Directions(
        cosine=Band("cosine", 96, mean, mean - 0.05, mean + 0.05),
        random=Band("random", 20, 0 * mean, 0 * mean - 0.2, 0 * mean + 0.2, True),
        norms={"harmfulness": mean, "refusal": mean * 1.5},
        reliability={"harmfulness": _band("harmfulness", 0.9), "refusal": _band("refusal", 0.95)},
        ceiling=ceiling,
        categories=CATEGORIES,
        state=3,
        category_cosines={"harmfulness": cosines, "refusal": cosines * 0.9},
        category_reliability={"harmfulness": np.full(count, 0.7), "refusal": np.full(count, 0.6)},
        category_spread={"harmfulness": number(0.6), "refusal": number(0.7)},
    )


def _sweep() -> Sweep:
    states, coefficients = tuple(range(LAYERS + 1)), (1.0, 2.0, 4.0)
    refused = {
        prompts: {
            direction: [
                [
                    share(min(0.9, 0.05 + (0.1 + 0.05 * place) * state / 4 * coefficient / 2))
                    for coefficient in coefficients
                ]
                for state in states
            ]
            for place, direction in enumerate(STEERED)
        }
        for prompts in ("harmless", "harmful")
    }
    return Sweep(
        states, coefficients, refused,
        baseline={"harmless": share(0.05), "harmful": share(0.9)},
        best={prompts: dict.fromkeys(STEERED, (3, 2.0)) for prompts in refused},
        n={"harmless": 48, "harmful": 48}, tried=24,
    )  # fmt: skip


def _inversion() -> Inversion:
    states, coefficients = tuple(range(LAYERS + 1)), (0.0, 1.0, 2.0, 4.0)
    rising = np.linspace(0, 1, len(states))[:, None] * np.linspace(0, 1, len(coefficients))[None]
    ends = {answer: np.clip(rising - 0.05, 0, 1) for answer in ("certainly", "no", "refusal")}
    tops = {answer: np.clip(rising + 0.05, 0, 1) for answer in ("certainly", "no", "refusal")}
    grids = tuple(
        InversionGrid(prompts, span, direction, rising, 1 - rising, rising / 2, ends, tops)
        for prompts in ("harmless", "harmful")
        for span in ("instruction", "prompt")
        for direction in STEERED
    )
    strengths = (0.0, 0.5, 1.0, 2.0, 4.0)
    growing = np.linspace(0, 1, len(strengths))
    paths = (
        Path("harmfulness", "instruction", 3, strengths, growing * 0.4, growing * 1.2, 2.0),
        Path("refusal", "prompt", 4, strengths, growing * 0.8, growing * 0.1, 1.0),
        Path("random", "instruction", 3, strengths, growing * 0.02, growing * -0.02, 4.0),
    )
    wordings = ("Could it cause harm?", "Is there any danger in it?", "Would it be unsafe to help with it?")
    dissociation = Dissociation(number(0.7, n=48), number(-0.02, n=48), 0.4, paths, np.linspace(0, 0.8, len(states)))
    by_wording = {wording: {"harmless": share(0.9), "harmful": share(0.85)} for wording in wordings}
    return Inversion(states, coefficients, wordings, by_wording, grids, dissociation, 48)


def _effect(family: str, level: float) -> FamilyEffect:
    known = number(-level) if family else None
    return FamilyEffect(
        family, 96, share(level), number(0.3), number(-level), known, known,
        number(-level / 4) if family else None, number(-level / 4) if family else None, share(level / 2),
    )  # fmt: skip


def _suffixes() -> SuffixSearch:
    prompt = Prompt(HARMFUL_TEXT, harmful=True)
    trial = SuffixTrial(
        prompt, "! ! !", "x x x", dict.fromkeys(CONDITIONS, 1.5), 1.5,
        dict.fromkeys(CONDITIONS, True), dict.fromkeys(CONDITIONS, 0.3), dict.fromkeys(CONDITIONS, 0.2),
    )  # fmt: skip
    beliefs = {name: number(0.2, n=8) for name in CONDITIONS}
    shifts = {"bare": number(-0.2, n=8), "random": number(-0.1, n=8)}
    return SuffixSearch(
        trials=(trial,) * 8, target="Sure.", steps=30, width=64, tokens=10, seed=0,
        refused={name: share(0.5, 8) for name in CONDITIONS}, harmfulness=beliefs, refusal=beliefs,
        harmfulness_shift=shifts, refusal_shift=shifts, believed_answered=share(0.4, 8), disagreement=1e-5,
        library="some library", version="1.0", seconds=12.0,
    )  # fmt: skip


def _guards() -> Guards:
    groups = (*FAMILIES, "refused harmless", "accepted harmful", "all")

    def row(key: str, title: str, role: str, level: float, scored: bool = True) -> GuardRow:
        rates = {rate: share(level) for rate in (0.01, 0.02, 0.05)} if scored else {}
        spared = {rate: share(level * (0.9 - rate)) for rate in rates}
        return GuardRow(
            key, title, f"about {title}", role, {group: share(level) for group in groups}, share(0.02),
            number(min(level + 0.02, 0.95), 0.01) if scored else None, rates, spared, 2.5e9, 0.0, 3e-4,
        )  # fmt: skip

    rows = (
        row("centroid", "centroid (published)", "guard", 0.6),
        row("prototype", "prototype", "guard", 0.9),
        row("linear", "linear", "guard", 0.95),
        row("own_refusal", "the model's own refusal", "baseline", 0.1, scored=False),
        row("bag_of_words", "bag of words", "baseline", 0.4),
        row("shuffled", "shuffled labels", "control", 0.05),
    )
    gain = {"accepted harmful": number(0.3), "refused harmless": number(0.2), "auc": number(0.1, 0.02)}
    return Guards(rows, "linear", gain, FAMILIES, "rules are fitted on bare prompts and one wrapper family")


def _change(before: float, after: float) -> Change:
    return Change(share(before), share(after), number(before - after))


def comparison(bare_after: float = 0.02, recall_after: float = 0.9) -> Comparison:
    """Two checkpoints, of which the second refuses that share of bare harmful prompts."""
    guards = tuple(
        GuardChange(
            key, rule, tuple(range(2, 5)), 0.5,
            {group: _change(0.95, recall_after) for group in ("all", "bare", "wrapped")},
            _change(0.02, 0.03), _change(0.95, 0.94),
        )
        for key, rule in (("published", "centroid"), ("best", "linear"))
    )  # fmt: skip
    return Comparison(
        before="some model",
        after="some model, changed",
        n=384,
        refused={
            "bare harmful": _change(0.98, bare_after), "wrapped harmful": _change(0.05, 0.0),
            "harmless": _change(0.05, 0.02),
        },
        shifts=tuple(
            Shift(belief, kind, 0.3, 0.2, number(-0.1))
            for belief in ("harmfulness", "refusal")
            for kind, _, _ in FOUR_KINDS
        ),
        guards=guards,
        by_state={
            belief: {kind: np.linspace(0, -0.2, LAYERS + 1) for kind, _, _ in FOUR_KINDS}
            for belief in ("harmfulness", "refusal")
        },
        cosines={"harmfulness": np.full(LAYERS + 1, 0.98), "refusal": np.array([np.nan, *np.linspace(1, 0.7, LAYERS)])},
        reliability={"harmfulness": np.full(LAYERS + 1, 0.9), "refusal": np.full(LAYERS + 1, 0.95)},
        flow=np.diag([80, 90, 100, 20]) + 3,
        same_replies=share(0.3),
    )  # fmt: skip


def _attacks() -> tuple[Attack, ...]:
    about = {"steps": 40, "learning_rate": 1e-3, "control": {"steps": 40, "first_loss": 2.0}, "states_tried": [1, 2, 3]}
    return (
        Attack("finetuning", "adversarial finetuning", about, comparison(), comparison(0.97, 0.95)),
        Attack("abliteration", "refusal direction removed from the weights", {"state": 3}, comparison(0.05), None),
    )


def _findings() -> dict[str, Any]:
    above = Claim(above=0.0)
    made = [
        ("beliefs.double_dissociation", "Judging and refusing come apart under steering.", 0.7, above),
        ("beliefs.guard_gain", "The best rule beats the published one.", 0.3, above),
        ("beliefs.suffixes_hide_harm", "Suffixes lower the belief of harmfulness to zero.", -0.1, above),
        ("beliefs.categories", "Harmfulness varies more between categories than refusal.", None, above),
    ]
    findings = tuple(
        judged_finding(
            rule, id=name, study="beliefs", claim=claim, value=value,
            low=None if value is None else value - 0.05, high=None if value is None else value + 0.05, n=48,
            control=0.0, reference=(0.5, "arXiv 2507.11878, figure 5, Qwen2-7B-Instruct"),
        )
        for name, claim, value, rule in made
    )  # fmt: skip
    return {"findings": findings, "rules": {name: rule for name, _, _, rule in made}}


@cache
def full_result() -> BeliefsResult:
    """Every part filled."""
    generator = np.random.default_rng(0)
    kinds = [name for name, _, _ in FOUR_KINDS]
    titles = {
        f"{family.replace('_', ' ')}, {kind}" if family else kind: (kind == "harmful", 0.95 if not family else 0.1)
        for family in ("", *FAMILIES)
        for kind in ("harmful", "harmless", "look-alike")
    }
    sides = {kind: share(0.9 if "accepted harmful" in kind or "refused harmful" in kind else 0.1) for kind in kinds}
    bands = (
        *(_band(kind, 0.4 if "harmful" in kind else -0.4) for kind in kinds),
        _band("accepted harmful, shuffled anchors", 0.0, control=True),
    )
    return BeliefsResult(
        identity=ModelIdentity("some/model-8B", None, "a", "b", "c", "d", None),
        sorting=Sorting(
            refused={title: share(level if harmful else 0.05) for title, (harmful, level) in titles.items()},
            harmful={title: harmful for title, (harmful, _) in titles.items()},
            counts=dict(zip(kinds, (96, 250, 600, 60), strict=True)),
            judge="substring",
            agreements=(
                Agreement("substring", "first token", share(0.99, 800), 0.97),
                Agreement("substring", "classifier", share(0.9, 800), None),
            ),
            unfinished=3,
        ),
        separation=Separation(
            {"t_inst": bands, "t_post": bands}, {"t_inst": sides, "t_post": sides},
            {"t_inst": share(0.5), "t_post": share(0.5)},
        ),
        belief_map=_map(generator),
        directions=_directions(),
        sweep=_sweep(),
        inversion=_inversion(),
        jailbreaks=Jailbreaks(
            _effect("", 0.02),
            tuple(_effect(family, 0.3 + 0.2 * place) for place, family in enumerate(FAMILIES)),
            (Prompt(HARMFUL_TEXT, harmful=True, wrapper="persuasion"),),
            _suffixes(),
        ),
        guards=_guards(),
        attacks=_attacks(),
        over_refusal=OverRefusal(
            share(0.9), share(0.05), share(0.1), share(0.0),
            {"refused harmless": share(0.95), "refused harmful": share(0.1)},
            5.4, share(0.98), "The guard was fitted on the fit prompts.",
        ),
        notes=("The prompts come from one grammar.",),
        run={"model": "some/model-8B", "seed": 0, "seconds": 120.5, "seconds_by_step": {"sorting": 3.0}},
        **_findings(),
    )  # fmt: skip


@cache
def bare_result() -> BeliefsResult:
    """Only the sorting was possible; everything else says why it was not."""
    found = full_result()
    return BeliefsResult(
        identity=found.identity,
        sorting=replace(found.sorting, agreements=(), unfinished=0),
        skipped={
            name: f"There is no {name} because the made-up reason {place} holds." for place, name in enumerate(SKIPPED)
        },
    )
