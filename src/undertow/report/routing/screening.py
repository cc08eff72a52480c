"""Parts 1 and 4 of the page: the pairs, and every head exchanged on its own."""

from __future__ import annotations

import numpy as np

from undertow.report.figures import Figure
from undertow.report.html import Section
from undertow.report.intervals import interval_bars
from undertow.report.routing.common import (
    bars_of,
    head_name,
    heads_named,
    measure_of,
    number_cell,
    number_text,
    probability_text,
    reasons,
    role_of,
    share_cell,
    share_text,
    titled,
    with_title,
)
from undertow.report.routing.heads import HeadPanel, head_maps
from undertow.report.routing.points import Row, rows_with_control
from undertow.report.tables import Table, percent, truncated, written
from undertow.studies.routing.readings import Circuit, Effects, PairsSummary, Screening
from undertow.studies.routing.result import RoutingResult

PAIRS = "The pairs"
SCREENING = "Every head, exchanged on its own"
TOP = 12
_NAMED = 8
_WAYS = {"sensitive": "Sensitive prompts", "control": "Controls"}
NECESSITY = (
    "Necessity of a head: how far the readout of the sensitive prompt falls when the head's output there is exchanged "
    "for the one on its control. Sufficiency: how far the readout of the control rises when the exchange goes the "
    "other way."
)


def pairs_section(result: RoutingResult, show_prompts: bool) -> Section:
    """Part 1: what everything is measured on."""
    pairs = result.pairs
    bars = bars_of((_WAYS.get(side, titled(side)), found, "", True) for side, found in pairs.refused.items())
    figures = []
    if bars:
        figures = [
            with_title(
                interval_bars("pair-refusals", bars, axis="share refused"),
                f"Share of prompts refused, of {pairs.report} report pairs, without any intervention. Lines: 95 % "
                "intervals (Clopper-Pearson). The controls are the control.",
            )
        ]
    return Section(
        title=PAIRS,
        text=f"A pair is a sensitive prompt and a control of the same form that should be answered. {pairs.choose} "
        f"pairs serve to choose heads, directions and states and to test for significance; the other {pairs.report} "
        "give every figure. No pair is in both. They come from: "
        f"{pairs.source}. Sensitive prompts are {number_text(pairs.length_difference)} tokens longer than their "
        f"controls on average; {share_text(pairs.same_length)} of the pairs have equal token counts.",
        figures=figures,
        tables=[_numbers(pairs), *_examples(pairs, show_prompts)],
        control="The control prompt of each pair, which shares form and nearly the length, so that what differs "
        "between the sides is what the request is about.",
        how_to_read="Routing can only be found where there is some: sensitive prompts mostly refused and controls "
        "mostly answered. Where the two bars are alike, nothing below can be read as a circuit of refusal.",
        skipped=reasons(result, "pairs"),
    )


def _numbers(pairs: PairsSummary) -> Table:
    rows = (
        ("Pairs to choose on", pairs.choose),
        ("Pairs to report on", pairs.report),
        ("Sensitive minus control, tokens", number_cell(pairs.length_difference)),
        ("Pairs of equal length", share_cell(pairs.same_length)),
        ("Topics", ", ".join(pairs.topics)),
        ("Languages", ", ".join(pairs.languages)),
    )
    return Table(("What", "Value"), rows, caption="The pairs in numbers.")


def _examples(pairs: PairsSummary, show_prompts: bool) -> list[Table]:
    if not pairs.examples:
        return []
    rows = tuple(
        (truncated(first, show=show_prompts), truncated(second, show=True)) for first, second in pairs.examples
    )
    return [Table(("Sensitive", "Control"), rows, caption="A few of the pairs.", folded=True)]


def screening_section(result: RoutingResult) -> Section:
    """Part 4: necessity and sufficiency of every head."""
    if not result.screenings:
        return Section(title=SCREENING, skipped=reasons(result, "screening") or "No head was exchanged.")
    first = result.screenings[0]
    measure, unit = measure_of(first.readout)
    effects = first.necessity
    return Section(
        title=SCREENING,
        text=f"{NECESSITY} All {len(effects.heads)} heads were exchanged one at a time at {first.position}. The "
        f"readout is the {measure}, in {unit}: between the sides of a pair it differs by {number_text(first.baseline)} "
        f"({first.baseline.n} report pairs), and an effect of that size means that the head carries all of it. "
        + _significant(first),
        figures=[
            _maps(result),
            *_top("heads-necessity", "Necessity", first, first.necessity, result.circuit),
            *_top("heads-sufficiency", "Sufficiency", first, first.sufficiency, result.circuit),
        ],
        tables=[_screenings(result)],
        control="Beside each head stands the same exchange with the output on another prompt of the recipient's own "
        "class, which should do nothing. A head counts as significant when its effect net of that control is above "
        f"zero over sign flips of {first.necessity.tested} other pairs, family-wise over all heads.",
        how_to_read="Blue heads carry refusal from the sensitive side of a pair, orange ones carry it away. A head "
        "that is both necessary and sufficient, while its direct attribution is near zero, works through later heads. "
        "A long line that crosses zero is an effect that these pairs cannot show.",
        skipped=reasons(result, "screening"),
    )


def _significant(screening: Screening) -> str:
    known = screening.necessity.heads
    found = {
        name: [head for head, p in zip(known, effects.p, strict=True) if p <= 0.05]
        for name, effects in (("necessary", screening.necessity), ("sufficient", screening.sufficiency))
    }
    parts = []
    for name, heads in found.items():
        more = f" ({len(heads)} in all)" if len(heads) > _NAMED else ""
        subject = f"{heads_named(heads[:_NAMED])}{more}" if heads else "no head"
        parts.append(f"{subject} {'are' if len(heads) > 1 else 'is'} {name}")
    return f"Beyond the control, family-wise at 5 %, {parts[0]} and {parts[1]}."


def _maps(result: RoutingResult) -> Figure:
    circuit = result.circuit
    panels = []
    several = len(result.screenings) > 1
    for place, one in enumerate(result.screenings):
        measure, unit = measure_of(one.readout)
        view = f"{measure}, {one.position}" if several else ""
        panels += [
            HeadPanel(title, found.heads, found.value, found.low, found.high, view)
            for title, found in (("Necessity", one.necessity), ("Sufficiency", one.sufficiency))
        ]
        # One scale serves both only where both are changes of logits.
        if place == 0 and unit == "nats" and circuit.rows:
            parts = [[getattr(row.attribution, key) for row in circuit.rows] for key in ("value", "low", "high")]
            heads = [row.head for row in circuit.rows]
            panels.append(HeadPanel("Attribution", heads, parts[0], parts[1], parts[2], view))
    marks = {"gate": circuit.gates, "amplifier": circuit.amplifiers, "direct": circuit.direct}
    first = result.screenings[0]
    return head_maps(
        "heads",
        f"Every head: necessity, sufficiency and direct attribution, in {measure_of(first.readout)[1]}; mean "
        f"of {first.necessity.n} report pairs. Point at a cell for its 95 % interval; controls are below.",
        panels,
        {role: heads for role, heads in marks.items() if heads},
    )


def _top(name: str, words: str, screening: Screening, effects: Effects, circuit: Circuit) -> list[Figure]:
    order = [int(place) for place in np.argsort(-np.nan_to_num(effects.value, nan=-np.inf), kind="stable")[:TOP]]
    rows = [
        Row(head_name(head), effects.of(head), role_of(circuit, head) or "other head", float(effects.control[place]))
        for place in order
        for head in [effects.heads[place]]
        if np.isfinite(effects.value[place])
    ]
    if not rows:
        return []
    _, unit = measure_of(screening.readout)
    title = (
        f"{words} of the {len(rows)} largest of {len(effects.heads)} heads, in {unit}, n = {effects.n} report pairs. "
        "Lines: 95 % intervals. Ticks: a donor of the same class, mean."
    )
    axis = f"{words.lower()}, {unit}"
    return [rows_with_control(name, title, rows, axis=axis, control="same-class donor (control)")]


def _screenings(result: RoutingResult) -> Table:
    rows = []
    for one in result.screenings:
        measure, unit = measure_of(one.readout)
        top = int(np.argmax(np.nan_to_num(one.necessity.value, nan=-np.inf)))
        head = one.necessity.heads[top]
        base = one.baseline.value
        rows.append(
            (
                f"{measure}, {unit}",
                one.position,
                number_cell(one.baseline),
                head_name(head),
                number_cell(one.necessity.of(head)),
                percent(float(one.necessity.value[top]) / base if base else None),
                probability_text(float(one.necessity.p[top])),
                number_cell(one.sufficiency.of(head)),
                written(one.seconds, 1),
            )
        )
    return Table(
        (
            "Readout", "Where", "Baseline", "Largest head", "Its necessity", "Share", "p", "Its sufficiency", "Seconds",
        ),
        tuple(rows),
        numeric=(2, 4, 5, 6, 7, 8),
        caption="All screenings, each with the head of largest mean necessity. The first is the one that the circuit "
        "rests on; p is family-wise.",
    )  # fmt: skip
