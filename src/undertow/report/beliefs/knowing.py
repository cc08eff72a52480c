"""Parts 1 to 4 of the page: what the model does, what it believes, and along which directions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from undertow.guard.verdict import QUADRANTS
from undertow.report.cells import (
    bars_of,
    curve_of,
    listed,
    number_cell,
    number_text,
    reasons,
    share_cell,
    titled,
)
from undertow.report.figures import Curve, Figure, belief_map, quadrant_bars, score_curves
from undertow.report.html import Section
from undertow.report.intervals import interval_bars
from undertow.report.matrix import matrix
from undertow.report.tables import Table, percent, quadrant_table, truncated, written
from undertow.studies.beliefs.result import BeliefMap, BeliefsResult, Directions, Sorting

SORTING = "What the model does"
SEPARATION = "Both positions, state by state"
MAP = "Two beliefs, four quadrants"
DIRECTIONS = "The two directions"


def sorting_section(result: BeliefsResult) -> Section:
    """Part 1: replies judged, prompts sorted into the four kinds."""
    sorting = result.sorting
    bars = bars_of(
        (title, found, "harmful" if sorting.harmful.get(title) else "harmless", True)
        for title, found in sorting.refused.items()
    )
    total = sum(sorting.counts.values())
    text = (
        f"The model replied to {total:,} test prompts at temperature 0, and the judge `{sorting.judge}` read every "
        "reply. Truth and reply together make four kinds of prompt. The two desired ones, refused harmful and accepted "
        "harmless, are the anchors of everything below; the other two are where what the model knows and what it "
        "does may part."
    )
    if sorting.unfinished:
        text += f" {sorting.unfinished} replies broke off inside their reasoning; reasoning is never judged as a reply."
    kinds = Table(
        ("Kind", "Test prompts", "Share"),
        tuple(
            (titled(kind), count, percent(count / total if total else None)) for kind, count in sorting.counts.items()
        ),
        numeric=(1, 2),
        caption="The four kinds.",
    )
    return Section(
        title=SORTING,
        text=text,
        figures=[interval_bars("refusal-rates", bars, axis="share refused")] if bars else [],
        tables=[kinds, *_agreement(sorting)],
        control=_judges(sorting),
        how_to_read="Long bars on harmful groups and short ones on harmless groups are what the model is meant to do. "
        "A wrapper with a short bar among the harmful groups is a jailbreak that works; a long bar on a harmless group "
        "is over-refusal. Thin lines are 95 % intervals (Clopper-Pearson).",
        skipped=reasons(result, "sorting"),
    )


def _agreement(sorting: Sorting) -> list[Table]:
    if not sorting.agreements:
        return []
    rows = tuple(
        (f"{pair.first}, {pair.second}", share_cell(pair.share), written(pair.kappa), pair.share.n)
        for pair in sorting.agreements
    )
    columns = ("Judges", "Same verdict", "Cohen's kappa", "n")
    return [Table(columns, rows, numeric=(1, 2, 3), caption="How far judges of refusal agree on the same replies.")]


def _judges(sorting: Sorting) -> str:
    if not sorting.agreements:
        return f"Only one judge, `{sorting.judge}`, read these replies, so its errors cannot be told from the model's."
    worst = min(sorting.agreements, key=lambda pair: pair.share.value)
    return (
        "Every share depends on who judges. The two judges that differ most, "
        f"`{worst.first}` and `{worst.second}`, agree on {percent(worst.share.value)} of the replies"
        + (f" (kappa {written(worst.kappa)})." if worst.kappa is not None else ".")
    )


def separation_section(result: BeliefsResult) -> Section:
    """Part 2: s(l) at both positions (figure 2)."""
    separation = result.separation
    if separation is None:
        return Section(title=SEPARATION, skipped=reasons(result, "separation"))
    figures = [
        score_curves(
            f"separation-{position}",
            [curve_of(band) for band in bands],
            range(len(bands[0].mean)),
            axis=f"s(l) at {position}",
        )
        for position, bands in separation.bands.items()
        if bands
    ]
    positions = list(separation.sides)
    names = list(dict.fromkeys(kind for sides in separation.sides.values() for kind in sides))
    rows = [
        (titled(kind), *(share_cell(separation.sides[position].get(kind)) for position in positions)) for kind in names
    ]
    rows.append(
        ("Control: accepted harmful, shuffled anchors", *(share_cell(separation.control.get(one)) for one in positions))
    )
    return Section(
        title=SEPARATION,
        text="The score s(l) of a prompt is its cosine with the centroid of refused harmful prompts minus its cosine "
        "with that of accepted harmless prompts, at state l. Centroids come from the fit prompts, curves from the test "
        "prompts. After Zhao et al. (arXiv 2507.11878), figure 2.",
        figures=figures,
        tables=[
            Table(
                ("Prompts", *(f"Above zero at {position}" for position in positions)),
                tuple(rows),
                numeric=tuple(range(1, len(positions) + 1)),
                caption="Share of the prompts whose score, averaged over all states, is on the harmful (t_inst) or "
                "refused (t_post) side.",
            )
        ],
        control="Dashed: accepted harmful prompts under centroids of the same anchors with their membership shuffled. "
        "It should stay at zero. Bands are 95 % bootstrap intervals of the mean over prompts.",
        how_to_read="Above zero a kind lies nearer to refused harmful prompts. If the model knows harm apart from what "
        "it does about it, accepted harmful prompts lie above zero at t_inst and refused harmless ones below, whatever "
        "the reply; at t_post, where the reply is decided, the two change places.",
        skipped=reasons(result, "separation"),
    )


def map_section(result: BeliefsResult, show_prompts: bool) -> Section:
    """Part 3: every prompt at its two beliefs (figure 3)."""
    found = result.belief_map
    if found is None:
        return Section(title=MAP, skipped=reasons(result, "belief_map"))
    rows = tuple((titled(name), number_cell(one), one.n) for name, one in found.correlation.items())
    return Section(
        title=MAP,
        text="Every dot is a test prompt at its two published beliefs: the score s averaged over all states, at t_inst "
        "for harmfulness and at t_post for refusal. Were the two one belief, all dots would lie along one rising line. "
        f"Their rank correlation over all prompts is {number_text(found.correlation.get('all'))}. After figure 3 of "
        "the paper.",
        figures=[
            *_maps(found, show_prompts),
            quadrant_bars("belief-quadrants", found.quadrants, QUADRANTS),
        ],
        tables=[
            Table(
                ("Prompts", "Spearman's correlation", "n"),
                (*rows, ("Control: one belief permuted", number_cell(found.control), found.control.n)),
                numeric=(1, 2),
                caption="How far the two beliefs rise together.",
            ),
            replace(quadrant_table(found.quadrants, QUADRANTS), caption="Prompts in each quadrant.", folded=True),
        ],
        control=f"With one of the beliefs permuted the correlation is {number_text(found.control)}. Within harmful or "
        "harmless prompts alone, where the truth is held fixed, what correlation is left is the overlap of the "
        "beliefs.",
        how_to_read="Lower right: the model thinks the request harmful and will answer it anyway, a jailbreak. Upper "
        "left: it thinks it harmless and will refuse, an over-refusal. Both thresholds are 0, as published; nothing is "
        "tuned here. A wrapper that moves dots down fools the refusal; one that moves them left fools the judgement.",
        skipped=reasons(result, "belief_map"),
    )


def _maps(found: BeliefMap, show_prompts: bool) -> list[Figure]:
    """All prompts in a few coarse kinds; then one family at a time against the same model's bare prompts."""
    labels = [truncated(prompt.text, show=show_prompts or not prompt.harmful) for prompt in found.prompts]
    coarse, families = [], []
    for group in found.groups:
        family, _, kind = group.rpartition(", ")
        coarse.append(f"{kind}, in a wrapper" if family else f"{kind}, bare")
        families.append(family)
    order = sorted(range(len(coarse)), key=lambda row: (bool(families[row]), coarse[row]))
    figures = [_map("belief-map", found, [(row, coarse[row]) for row in order], labels)]
    distinct = [family for family in dict.fromkeys(families) if family]
    if distinct:
        kept = [
            (row, found.groups[row] if families[row] else coarse[row])
            for row in order
            if coarse[row] != "look-alike, bare"
        ]
        bare = [kind for kind in ("harmful, bare", "harmless, bare") if any(kind == name for _, name in kept)]
        views = {
            titled(family): [*bare, *dict.fromkeys(name for row, name in kept if families[row] == family)]
            for family in distinct
        }
        figures.append(_map("belief-map-families", found, kept, labels, views))
    return figures


def _map(
    name: str,
    found: BeliefMap,
    rows: list[tuple[int, str]],
    labels: list[str],
    views: dict[str, list[str]] | None = None,
) -> Figure:
    return belief_map(
        name,
        [kind for _, kind in rows],
        [float(found.harmfulness[row]) for row, _ in rows],
        [float(found.refusal[row]) for row, _ in rows],
        labels=[labels[row] for row, _ in rows],
        most_points=1200,
        views=views,
    )


def directions_section(result: BeliefsResult) -> Section:
    """Part 4: cosine, noise ceiling, norms, categories."""
    found = result.directions
    if found is None:
        return Section(title=DIRECTIONS, skipped=reasons(result, "directions"))
    states = range(len(found.cosine.mean))
    figures = [
        score_curves(
            "direction-cosines",
            [
                curve_of(found.cosine, "harmfulness and refusal"),
                Curve("largest cosine that this much noise allows", found.ceiling),
                curve_of(found.random, "harmfulness and random directions"),
            ],
            states,
            axis="cosine",
        ),
        score_curves(
            "direction-reliability",
            [curve_of(band, f"{name}, two halves") for name, band in found.reliability.items()],
            states,
            axis="split-half cosine",
        ),
        score_curves(
            "direction-norms",
            [Curve(name, values) for name, values in found.norms.items()],
            states,
            axis="norm, share of the stream's",
            zero=False,
        ),
    ]
    tables = []
    if found.categories:
        cosines = {titled(name): np.asarray(values).tolist() for name, values in found.category_cosines.items()}
        if cosines:
            figures.append(matrix("category-cosines", cosines, found.categories, found.categories, kind="cosine"))
        tables = _categories(found)
    trusted = [state for state in states if found.ceiling[state] >= 0.8]
    apart = [state for state in trusted if found.cosine.high[state] < found.ceiling[state]]
    text = (
        "The harmfulness direction is the mean state of harmful minus harmless prompts at t_inst, the refusal "
        "direction that of refused minus accepted prompts at t_post, both on the fit prompts. If they were one "
        "direction, their cosine would reach the ceiling that their noise allows. "
    )
    text += (
        f"The ceiling is at least 0.8 at {len(trusted)} of {len(states)} states; at {len(apart)} of these the whole "
        "interval of the cosine lies below it."
        if trusted
        else "The ceiling is below 0.8 at every state: with so few prompts these cosines say little."
    )
    return Section(
        title=DIRECTIONS,
        text=text,
        figures=figures,
        tables=tables,
        control="Dashed: the cosine with random directions of the same width, the size of a cosine that means nothing. "
        "The ceiling is the square root of the product of both directions' split-half reliabilities.",
        how_to_read="A cosine between the random band and the ceiling belongs to two directions that share a part and "
        "differ in a part. Where the split-half curves are low, the directions themselves are not known well enough, "
        "and no cosine there should be read. The norm says at which depth the difference is large beside what else is "
        "in the stream.",
        skipped=reasons(result, "directions"),
    )


def _categories(found: Directions) -> list[Table]:
    kinds = list(found.category_reliability)
    per_category = Table(
        ("Category", *(f"{titled(kind)}, two halves" for kind in kinds)),
        tuple(
            (category, *(written(float(found.category_reliability[kind][place])) for kind in kinds))
            for place, category in enumerate(found.categories)
        ),
        numeric=tuple(range(1, len(kinds) + 1)),
        caption="Split-half cosine of every category's direction: the ceiling of its cosines.",
        folded=True,
    )
    if not found.category_spread:
        return [per_category]
    missing = [kind for kind in ("harmfulness", "refusal") if kind not in found.category_spread]
    spread = Table(
        ("Direction", "Mean cosine between categories", "n"),
        tuple((titled(kind), number_cell(one), one.n) for kind, one in found.category_spread.items()),
        numeric=(1, 2),
        caption=f"Categories at state {found.state}: the lower, the more the direction differs by kind of harm."
        + (f" Too few refused or accepted prompts a category for {listed(missing)}." if missing else ""),
    )
    return [spread, per_category]
