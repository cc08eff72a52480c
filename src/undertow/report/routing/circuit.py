"""Part 5 of the page: gates and amplifiers, the cascade, and bands."""

from __future__ import annotations

import math

import numpy as np

from undertow.measure.statistics import Estimate
from undertow.report.figures import Figure
from undertow.report.html import Section
from undertow.report.routing.common import (
    estimate_at,
    head_name,
    heads_named,
    measure_of,
    missing,
    number_cell,
    number_text,
    probability_text,
    reasons,
    role_of,
    share_cell,
    share_text,
)
from undertow.report.routing.plots import Line, lines
from undertow.report.routing.points import Point, Row, rows_with_control, scatter
from undertow.report.tables import Table, percent, written
from undertow.studies.routing.readings import Bands, Cascade, Circuit
from undertow.studies.routing.result import RoutingResult

CIRCUIT = "The circuit"
BANDS = "Heads together"
MOST_FALLS = 20
MOST_NAMED = 8
UNIT = "nats"


def circuit_sentence(circuit: Circuit) -> str:
    """Gates and amplifiers, or that there are none, in a plain sentence or two."""
    if not circuit.gates:
        acting = "acts" if len(circuit.direct) == 1 else "act"
        alone = (
            f" {heads_named(circuit.direct, opening=True)} {acting} on the refusal directly." if circuit.direct else ""
        )
        return f"No gate was found among {circuit.heads} heads.{alone}"
    plural, many = len(circuit.gates) > 1, len(circuit.amplifiers) > 1
    named = heads_named(circuit.gates, opening=True)
    text = f"{named} {'are gates' if plural else 'is a gate'}, of {circuit.heads} heads screened."
    them = "them" if plural else "it"
    if not circuit.amplifiers:
        return f"{text} No later head amplifies {them}."
    later = heads_named(circuit.amplifiers, opening=True)
    return (
        f"{text} {later} {'amplify' if many else 'amplifies'} {them}: {'their' if many else 'its'} attribution falls "
        f"when {'they are' if plural else 'it is'} knocked out."
    )


def circuit_section(result: RoutingResult) -> Section:
    """Parts 3 and 5: which heads are gates and amplifiers, and how they differ from heads of large attribution."""
    circuit = result.circuit
    figures = [*_attributed(circuit)]
    if circuit.cascade is not None:
        figures += _falls(circuit, circuit.cascade)
    return Section(
        title=CIRCUIT,
        text=f"{circuit_sentence(circuit)}\n\nThe rule. {circuit.rule}\n\nHeads carry "
        f"{share_text(circuit.attention_share)} of the attributed difference between the sides of a pair, the MLPs the "
        f"rest ({circuit.attention_share.n} report pairs). The attributed parts add up to the logits up to a relative "
        f"difference of {written(circuit.residue)}." + _agreement(circuit),
        figures=figures,
        tables=[_rows(circuit)] if circuit.rows else [],
        control=_control(circuit),
        how_to_read="Direct attribution is what a head itself writes towards a refusal; necessity is what goes when "
        "the head's output is exchanged, with everything that later parts make of it. Heads far above the dotted line "
        "act through others: a ranking by attribution would miss them. Heads far to the right of it write much, but "
        "others make up for them.",
        skipped=reasons(result, "circuit", "attribution"),
    )


def _agreement(circuit: Circuit) -> str:
    ranks = [
        f"head {head_name(row.head)} has rank {row.attribution_rank}" for row in circuit.rows if row.role == "gate"
    ]
    if not ranks:
        return ""
    return f" By the size of its attribution, {', '.join(ranks)} of {circuit.heads}."


def _control(circuit: Circuit) -> str:
    if circuit.cascade is None:
        return (
            "No gate was found, so no cascade was measured. Every necessity and sufficiency was held against a donor "
            "of the recipient's own class, and tested on other pairs than those shown."
        )
    return (
        f"The cascade is held against the knockout of each of the {len(circuit.cascade.null_heads)} other heads of the "
        "gates' blocks, one at a time: grey bars show the range of the falls that these cause. p is family-wise over "
        "all later heads, on the pairs kept for choosing."
    )


def _attributed(circuit: Circuit) -> list[Figure]:
    points = [
        Point(
            head_name(row.head), row.attribution, row.necessity, role_of(circuit, row.head),
            named=bool(role_of(circuit, row.head)) or place < 3 or row.attribution_rank <= 2,
        )
        for place, row in enumerate(circuit.rows)
    ]  # fmt: skip
    if not any(math.isfinite(one.x.value) and math.isfinite(one.y.value) for one in points):
        return []
    n = circuit.rows[0].necessity.n
    title = (
        f"Necessity against direct attribution of all {len(points)} heads, in {UNIT}, n = {n} report "
        "pairs. Lines: 95 % intervals. Dotted: all of the necessity is the head's own attribution."
    )
    across, along = f"attribution, {UNIT}", f"necessity, {UNIT}"
    return [scatter("attribution", title, points, across=across, along=along, identity=True)]


def _falls(circuit: Circuit, cascade: Cascade) -> list[Figure]:
    order = np.argsort(-np.nan_to_num(np.abs(cascade.fall), nan=-np.inf), kind="stable")
    rows = []
    for place in map(int, order[:MOST_FALLS]):
        head = cascade.heads[place]
        null = np.asarray(cascade.null, dtype=float)[:, place] if len(cascade.null) else np.empty(0)
        null = null[np.isfinite(null)]
        fall = estimate_at(place, cascade.fall, cascade.low, cascade.high, cascade.n)
        limits = (float(null.min()), float(null.mean()), float(null.max())) if len(null) else None
        rows.append(Row(head_name(head), fall, role_of(circuit, head) or "other later head", None, limits))
    rows = [row for row in rows if math.isfinite(row.value.value)]
    if not rows:
        return []
    title = (
        f"Fall of the attribution of later heads when {heads_named(cascade.knocked)} "
        f"{'are' if len(cascade.knocked) > 1 else 'is'} knocked out, in {UNIT}: the {len(rows)} largest of "
        f"{len(cascade.heads)}, n = {cascade.n} report pairs. Lines: 95 % intervals. Grey: range under the knockout of "
        f"{len(cascade.null_heads)} other heads."
    )
    return [
        rows_with_control("cascade", title, rows, axis=f"fall of attribution, {UNIT}", null="other heads' knockout")
    ]


def _rows(circuit: Circuit) -> Table:
    return Table(
        (
            "Head", "Role", "Necessity", "p", "Share of baseline", "Sufficiency", "p ", "Attribution", "Rank",
            "Not its own", "Fall", "p  ",
        ),
        tuple(
            (
                head_name(row.head),
                row.role or "\u2013",
                number_cell(row.necessity),
                probability_text(row.necessity_p),
                percent(row.share),
                number_cell(row.sufficiency),
                probability_text(row.sufficiency_p),
                number_cell(row.attribution),
                row.attribution_rank,
                number_cell(row.indirect),
                number_cell(row.fall),
                probability_text(row.fall_p),
            )
            for row in circuit.notable
        ),
        numeric=tuple(range(2, 12)),
        caption=f"The {len(circuit.notable)} most notable of {circuit.heads} heads by falling necessity, in {UNIT}; p "
        "is family-wise. Not its own: necessity minus attribution. Fall: of its attribution when the gates are "
        "knocked out.",
        folded=True,
    )  # fmt: skip


def bands_section(result: RoutingResult) -> Section:
    """Part 5: heads found together by joint interchange."""
    bands = result.bands
    if bands is None:
        return Section(title=BANDS, skipped=missing(result, "bands"))
    if not bands.steps:
        return Section(
            title=BANDS,
            text=f"The greedy search took no step, so there is no band. {bands.rule}",
            skipped=reasons(result, "bands"),
        )
    last = [step for step in bands.steps if step.chosen]
    taking = "together they take" if len(bands.band) > 1 else "it takes"
    outcome = (
        f"The band is {heads_named(bands.band)}: exchanged, {taking} {number_text(last[-1].necessity)} of a baseline "
        f"of {number_text(bands.baseline)}, and {share_text(last[-1].refused)} of the sensitive prompts "
        "are still refused."
        if last and bands.band
        else "No set of heads cleared the rule, so there is no band; the steps tried are shown all the same."
    )
    return Section(
        title=BANDS,
        text=f"Heads are exchanged together, and the one that adds most is kept, again and again. {outcome}\n\nThe "
        f"rule. {bands.rule}",
        figures=_steps(result, bands),
        tables=[_band_table(bands)],
        control=f"Dashed: random sets of as many heads of the same blocks, {bands.random_sets} at every size; the band "
        "around it holds 95 % of the sets. Heads are chosen on other pairs than those shown.",
        how_to_read="Filled points belong to the band, hollow ones were tried beyond it. A line that is far above the "
        "dashed one from the first head on says that one head carries most of the decision; one that climbs head by "
        "head, that many share it. A band is a set whose exchange turns the decision: it may hold gates, or what lies "
        "behind them. Refusals show whether the readout's fall is one of behaviour.",
        skipped=reasons(result, "bands"),
    )


def _steps(result: RoutingResult, bands: Bands) -> list[Figure]:
    steps = bands.steps
    unit = measure_of(result.screenings[0].readout)[1] if result.screenings else UNIT
    sizes = [float(place + 1) for place in range(len(steps))]
    hollow = [not step.chosen for step in steps]
    notes = [f"{place + 1} heads, {head_name(step.head)} added" for place, step in enumerate(steps)]
    ticks = {float(place + 1): f"{place + 1}: {head_name(step.head)}" for place, step in enumerate(steps)}

    def line(name: str, found: list[Estimate]) -> Line:
        parts = [[getattr(one, key) for one in found] for key in ("value", "low", "high")]
        return Line(name, sizes, parts[0], parts[1], parts[2], hollow=hollow, notes=notes)

    random = Line(
        "random heads of the same blocks", sizes, [step.random for step in steps], [step.random_low for step in steps],
        [step.random_high for step in steps], control=True, notes=notes,
    )  # fmt: skip
    n = steps[0].necessity.n
    across = "heads exchanged: the one added"
    return [
        lines(
            "bands",
            f"Joint necessity and sufficiency of the heads so far, in {unit}, n = {n} report pairs. Shaded: 95 % "
            f"intervals. Dashed: {bands.random_sets} random sets. Dotted: the baseline.",
            [
                line("necessity", [step.necessity for step in steps]),
                line("sufficiency", [step.sufficiency for step in steps]),
                random,
            ],
            across=across,
            along=f"change of the readout, {unit}",
            ticks=ticks,
            levels=[bands.baseline.value] if math.isfinite(bands.baseline.value) else [],
        ),
        lines(
            "bands-refused",
            f"Share of sensitive prompts still refused when the heads so far are exchanged at t_post, n = "
            f"{steps[0].refused.n} report pairs. Shaded: 95 % intervals. Dotted: without exchange.",
            [line("sensitive prompts refused", [step.refused for step in steps])],
            across=across,
            along="share refused",
            share=True,
            ticks=ticks,
            levels=[result.pairs.refused["sensitive"].value] if "sensitive" in result.pairs.refused else [],
        ),
    ]


def _band_table(bands: Bands) -> Table:
    return Table(
        ("Heads", "Added", "In the band", "Necessity", "Sufficiency", "Random sets", "Still refused"),
        tuple(
            (
                place + 1,
                head_name(step.head),
                step.chosen,
                number_cell(step.necessity),
                number_cell(step.sufficiency),
                number_cell(Estimate(step.random, step.random_low, step.random_high, bands.random_sets)),
                share_cell(step.refused),
            )
            for place, step in enumerate(bands.steps)
        ),
        numeric=(3, 4, 5, 6),
        caption="The steps of the search.",
        folded=True,
    )
