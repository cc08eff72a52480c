"""Part 10 of the page, two models on the same pairs; and the circuits whose heads are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from undertow.measure.statistics import Estimate, proportion
from undertow.report.figures import Figure
from undertow.report.html import Section
from undertow.report.intervals import interval_bars, interval_dots
from undertow.report.routing.circuit import circuit_sentence
from undertow.report.routing.common import (
    bars_of,
    head_name,
    heads_named,
    missing,
    number_cell,
    number_text,
    reasons,
    role_of,
    share_cell,
    share_text,
    titled,
    with_title,
)
from undertow.report.routing.points import Point, scatter
from undertow.report.tables import ABSENT, Table, written
from undertow.studies.routing.result import BuiltScores, CircuitComparison, RoutingResult, Scores

COMPARISON = "Two models on the same pairs"
BUILT = "Circuits whose heads are known"
_MEASURES = {
    "gate_recall": "gates found",
    "gate_precision": "named gates that are gates",
    "amplifier_recall": "amplifiers found",
    "amplifier_precision": "named amplifiers that are amplifiers",
}
_METHODS = {
    "screening": "Our rule",
    "attribution": "Ranking by attribution",
    "ablation": "Ranking by mean ablation",
}


def comparison_section(result: RoutingResult) -> Section:
    """Part 10: necessity head by head, overlap and stability, heads that moved."""
    found = result.comparison
    if found is None:
        return Section(title=COMPARISON, skipped=missing(result, "comparison"))
    first, second = found.models
    moved = (
        f"Family-wise at 5 %, {heads_named(head for head, _ in found.moved)} moved."
        if found.moved
        else "No head's necessity differs beyond chance, family-wise at 5 %."
    )
    return Section(
        title=COMPARISON,
        text=f"{first} and {second} were screened on the same pairs ({found.n} report pairs). Their necessities "
        f"correlate over {len(found.heads)} heads by {number_text(found.correlation)} (Spearman). Of the {found.top} "
        f"heads of largest necessity each, the overlap (Jaccard) is {number_text(found.jaccard)}. {moved}\n\n{first}: "
        f"{circuit_sentence(found.circuits[0])} {second}: {circuit_sentence(found.circuits[1])}",
        figures=[*_scatter(found), *_moved(found)],
        tables=[_comparison_table(found), *_moved_table(found)],
        control=f"Two random sets of {found.top} heads overlap by {written(found.chance)}. Resampling the pairs, a "
        f"model's own top set overlaps with itself by {written(found.stability[0].value)} and "
        f"{written(found.stability[1].value)}: no overlap between models can be expected beyond that.",
        how_to_read="Heads on the dotted line matter as much in both. Heads along one axis matter in one model only. "
        "An overlap as high as the stability of each is the same circuit, as far as these pairs can tell; one near "
        "chance is another.",
        skipped=reasons(result, "comparison"),
    )


def _scatter(found: CircuitComparison) -> list[Figure]:
    values = np.asarray(found.necessity, dtype=float)
    if values.size == 0 or not np.isfinite(values).all(axis=0).any():
        return []
    moved = [head for head, _ in found.moved]
    top = {int(place) for row in values for place in np.argsort(-np.nan_to_num(row, nan=-np.inf))[: min(found.top, 4)]}
    points = []
    for place, head in enumerate(found.heads):
        role = next((role for circuit in found.circuits if (role := role_of(circuit, head))), "")
        ends = [Estimate(float(row[place]), math.nan, math.nan, found.n) for row in values]
        group = "moved" if head in moved else role
        points.append(Point(head_name(head), ends[0], ends[1], group, bool(group) or place in top))
    title = (
        f"Necessity of each of {len(found.heads)} heads in both models, in the readout's unit, mean of {found.n} "
        "report pairs; intervals of the differences are below. Dotted: equal."
    )
    return [
        scatter(
            "comparison", title, points, across=f"in {found.models[0]}", along=f"in {found.models[1]}", identity=True
        )
    ]


def _moved(found: CircuitComparison) -> list[Figure]:
    bars = bars_of((head_name(head), difference, "", True) for head, difference in found.moved[:20])
    if not bars:
        return []
    title = (
        f"Heads whose necessity differs: {found.models[1]} minus {found.models[0]}, in the readout's unit, n = "
        f"{found.n} report pairs, 95 % intervals; family-wise p at most 5 %."
    )
    figure = interval_dots("comparison-moved", bars, axis="difference", share=False, reference=0.0, filled=True)
    return [with_title(figure, title)]


def _comparison_table(found: CircuitComparison) -> Table:
    first, second = found.models
    rows: list[tuple[Any, ...]] = [
        (f"Baseline of {first}", number_cell(found.baselines[0]), found.baselines[0].n),
        (f"Baseline of {second}", number_cell(found.baselines[1]), found.baselines[1].n),
        ("Rank correlation of necessity", number_cell(found.correlation), found.correlation.n),
        (f"Jaccard of the top {found.top}", number_cell(found.jaccard), found.jaccard.n),
        (f"Stability of {first}", number_cell(found.stability[0]), found.stability[0].n),
        (f"Stability of {second}", number_cell(found.stability[1]), found.stability[1].n),
        ("Jaccard of random sets (control)", written(found.chance), ABSENT),
    ]
    return Table(("What", "Value", "n"), tuple(rows), numeric=(1, 2), caption="How alike the two circuits are.")


def _moved_table(found: CircuitComparison) -> list[Table]:
    if not found.moved:
        return []
    return [
        Table(
            ("Head", "Difference of necessity", "n"),
            tuple((head_name(head), number_cell(difference), difference.n) for head, difference in found.moved),
            numeric=(1, 2),
            caption=f"Heads that moved: {found.models[1]} minus {found.models[0]}.",
            folded=True,
        )
    ]


def built_section(result: RoutingResult) -> Section:
    """Ground truth: how well each method names heads that were built."""
    found = result.built
    if found is None:
        return Section(title=BUILT, skipped=missing(result, "built"))
    return Section(
        title=BUILT,
        text=f"{found.builds} models with a gate and {found.without_gate} without were built by hand, so that it is "
        f"known which heads route. Drawn at random: {found.spec}. Every method was given {found.pairs} pairs a build. "
        f"{_outcome(found)}",
        figures=[*_scores(found), *_by_gates(found)],
        tables=[_scores_table(found)],
        control="Builds without a gate, in which none may be named. The two rankings are told how many gates and "
        "amplifiers there are, which no method knows of a real model; our rule is not.",
        how_to_read="Recall is the share of the built heads that were named, precision the share of the named heads "
        "that were built. A ranking names as many heads as it is told to, so its errors count twice; and it names a "
        "gate in every model, also where there is none.",
        skipped=reasons(result, "built"),
    )


def _outcome(found: BuiltScores) -> str:
    ours = next((one for one in found.scores if one.method == "screening"), None)
    if ours is None:
        return ""
    return (
        f"Our rule finds {share_text(ours.gate_recall)} of the gates, and {share_text(ours.gate_precision)} of the "
        f"heads it calls gates are; of amplifiers {share_text(ours.amplifier_recall)} and "
        f"{share_text(ours.amplifier_precision)}."
        + (f" It names a gate in {share_text(ours.false_gate)} of the builds without." if ours.false_gate else "")
    )


def _method(one: Scores) -> str:
    return _METHODS.get(one.method, titled(one.method)) + (", told the counts" if one.knows_count else "")


def _scores(found: BuiltScores) -> list[Figure]:
    bars = bars_of(
        (titled(words), getattr(one, key), _method(one), not one.knows_count)
        for key, words in _MEASURES.items()
        for one in found.scores
    )
    if not bars:
        return []
    title = (
        f"Recall and precision over {found.builds} built models with a gate, {found.pairs} pairs each, with 95 % "
        "bootstrap intervals over builds. Hollow: methods that were told the counts."
    )
    return [with_title(interval_dots("built-scores", bars, axis="share of the heads"), title)]


def _by_gates(found: BuiltScores) -> list[Figure]:
    bars = bars_of(
        (f"{gates} gate{'s' if gates != 1 else ''} ({builds} builds)", proportion(named, there), "", True)
        for gates, (builds, named, there) in sorted(found.by_gates.items())
        if there
    )
    if not bars:
        return []
    title = (
        "Share of the gates that our rule finds, by how many a model has; n = gates of all such builds. Lines: 95 % "
        "intervals (Clopper-Pearson)."
    )
    return [with_title(interval_bars("built-by-gates", bars, axis="gates found"), title)]


def _scores_table(found: BuiltScores) -> Table:
    return Table(
        ("Method", "Told the counts", *(titled(words) for words in _MEASURES.values()), "A gate named without one"),
        tuple(
            (
                _METHODS.get(one.method, titled(one.method)),
                one.knows_count,
                *(share_cell(getattr(one, key)) for key in _MEASURES),
                share_cell(one.false_gate) if one.false_gate is not None else "always",
            )
            for one in found.scores
        ),
        numeric=(2, 3, 4, 5, 6),
        caption=f"Pooled over the heads of {found.builds} builds; the last column over {found.without_gate} builds "
        "without a gate.",
    )
