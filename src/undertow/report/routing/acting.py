"""Parts 6 and 7 of the page: ablation beside interchange, and the detection signal turned up and down."""

from __future__ import annotations

import math

import numpy as np

from undertow.measure.statistics import Estimate
from undertow.report.figures import Figure
from undertow.report.html import Section
from undertow.report.intervals import interval_dots
from undertow.report.routing.common import (
    bars_of,
    estimate_at,
    head_name,
    head_names,
    listed,
    measure_of,
    missing,
    number_cell,
    number_text,
    reasons,
    role_of,
    share_cell,
    titled,
    with_title,
)
from undertow.report.routing.plots import Line, Mark, lines
from undertow.report.routing.points import Point, scatter
from undertow.report.tables import ABSENT, Table, percent, written
from undertow.studies.routing.readings import Circuit
from undertow.studies.routing.result import Ablation, DoseCurve, Modulation, RoutingResult

ABLATION = "Ablation against interchange"
MODULATION = "Detection turned down and up"
_INTERCHANGE = "interchange"
_SIDES = {"sensitive": "Sensitive, signal subtracted", "control": "Controls, signal added"}
_MOST_HEADS = 6


def ablation_section(result: RoutingResult) -> Section:
    """Part 6: what ablations of single heads show beside their interchange, and what either does to replies."""
    ablation = result.ablation
    if ablation is None:
        return Section(title=ABLATION, skipped=missing(result, "ablation"))
    ranked = ", ".join(f"{name} {number_text(found)}" for name, found in ablation.rank_correlation.items())
    return Section(
        title=ABLATION,
        text="An ablation asks what a head does at all; an interchange asks what it carries from one side of a pair to "
        "the other. Each head was set to its mean, set to zero, or had its difference between the sides projected out, "
        f"and the fall of the readout on sensitive prompts is compared with interchange over {len(ablation.heads)} "
        f"heads ({ablation.n} report pairs). Rank correlation with interchange: {ranked or ABSENT}.",
        figures=_effects(result, ablation, result.circuit),
        tables=[_correlations(ablation), *_behaviour(ablation)],
        control="Interchange has its own control in the screening. In the table of behaviour, the row without any "
        "intervention and those of random heads of the same blocks are the control.",
        how_to_read="Heads on the dotted line are the same for both. Heads above it hurt when ablated although they "
        "carry nothing that tells the sides apart; heads below it route without being missed. Readouts can fall while "
        "replies stay: the table says what is refused afterwards.",
        skipped=reasons(result, "ablation"),
    )


def _effects(result: RoutingResult, ablation: Ablation, circuit: Circuit) -> list[Figure]:
    unit = measure_of(result.screenings[0].readout)[1] if result.screenings else "the readout's unit"
    if _INTERCHANGE not in ablation.effects:
        return []

    def of(method: str, place: int) -> Estimate:
        return estimate_at(place, ablation.effects[method], ablation.low[method], ablation.high[method], ablation.n)

    points = []
    for method in ablation.effects:
        if method == _INTERCHANGE:
            continue
        largest = {
            int(place)
            for name in (_INTERCHANGE, method)
            for place in np.argsort(-np.nan_to_num(ablation.effects[name], nan=-np.inf), kind="stable")[:2]
        }
        points += [
            Point(
                head_name(head), of(_INTERCHANGE, place), of(method, place), role_of(circuit, head),
                bool(role_of(circuit, head)) or place in largest, titled(method),
            )
            for place, head in enumerate(ablation.heads)
        ]  # fmt: skip
    if not any(math.isfinite(one.x.value) and math.isfinite(one.y.value) for one in points):
        return []
    title = (
        f"Fall of the readout on sensitive prompts by ablation and by interchange of each of {len(ablation.heads)} "
        f"heads at t_post, in {unit}, n = {ablation.n} report pairs. Lines: 95 % intervals. Dotted: equal."
    )
    across, along = f"interchange, {unit}", f"ablation, {unit}"
    return [scatter("ablation", title, points, across=across, along=along, identity=True)]


def _correlations(ablation: Ablation) -> Table:
    names = list(dict.fromkeys([*ablation.rank_correlation, *ablation.overlap]))
    return Table(
        ("Ablation", "Rank correlation with interchange", f"Of interchange's top {ablation.top}"),
        tuple(
            (
                titled(name),
                number_cell(ablation.rank_correlation.get(name)),
                percent(ablation.overlap.get(name), 0),
            )
            for name in names
        ),
        numeric=(1, 2),
        caption=f"Spearman correlation over {len(ablation.heads)} heads, and the share of interchange's largest heads "
        "that are among the ablation's.",
    )


def _behaviour(ablation: Ablation) -> list[Table]:
    if not ablation.behaviour:
        return []
    return [
        Table(
            ("What was done", "Heads", "Sensitive refused", "Controls refused", "n"),
            tuple(
                (
                    done[:1].upper() + done[1:],
                    head_names(heads) if len(heads) <= _MOST_HEADS else f"{len(heads)} heads",
                    share_cell(sensitive),
                    share_cell(control),
                    sensitive.n,
                )
                for done, heads, sensitive, control in ablation.behaviour
            ),
            numeric=(2, 3, 4),
            caption="Judged replies after each intervention. Interchange gives the controls the sensitive prompts' "
            "outputs.",
        )
    ]


def modulation_section(result: RoutingResult) -> Section:
    """Part 7: replies against the dose of the detection signal."""
    found = result.modulation
    if found is None:
        return Section(title=MODULATION, skipped=missing(result, "modulation"))
    place = "before the gate" if found.before_gate else "with no gate known to come after it"
    return Section(
        title=MODULATION,
        text=f"The detection signal, the mean state of sensitive prompts minus that of controls, was subtracted from "
        f"sensitive prompts and added to controls at state {found.state}, {place}, over the span {found.span}. A dose "
        f"of 1 is the mean norm of the residual stream there ({written(found.norm)}); by itself the signal tells the "
        f"sides apart by {number_text(found.detection)} of it.\n\n{found.note}",
        figures=[*_doses(found), *_thresholds(found)],
        tables=[_threshold_table(found)] if found.curves else [],
        control="Dashed: refusals under random directions of the same length. What they do at a dose is what any push "
        "of that size does.",
        how_to_read="Subtracted from sensitive prompts, a signal that routing reads should turn refusals into answers, "
        "not into evasions; added to controls, answers into refusals. The threshold is where a logistic fit of "
        "refusals crosses one half; thresholds of topics or languages whose intervals do not overlap differ.",
        skipped=reasons(result, "modulation"),
    )


def _doses(found: Modulation) -> list[Figure]:
    drawn: list[Line] = []
    marks = []
    groups = list(dict.fromkeys(curve.group for curve in found.curves))
    for group in groups:
        for side, words in _SIDES.items():
            view = words if group == "all" else f"{words}: {group}"
            curves = {
                curve.direction: curve for curve in found.curves if curve.prompts == side and curve.group == group
            }
            signal, random = curves.get("detection"), curves.get("random")
            if signal is None:
                continue
            drawn += [
                Line("refused", signal.doses, signal.refusal, signal.low, signal.high, view=view),
                Line("evaded", signal.doses, signal.evasion, view=view),
                Line("answered", signal.doses, signal.answer, view=view),
            ]
            if random is not None:
                drawn.append(
                    Line("refused, random direction", random.doses, random.refusal, random.low, random.high, True, view)
                )
            if signal.threshold is not None:
                marks.append(Mark("half refused (fit)", signal.threshold, view))
    if not drawn:
        return []
    sizes = [curve.n for curve in found.curves if curve.group == "all"]
    title = (
        "Share of replies that refuse, evade and answer, against the dose of the detection signal (1 = the residual "
        f"stream's norm), n = {max(sizes, default=0)} prompts a side. Shaded: 95 % intervals. Grey: random direction."
    )
    return [
        lines(
            "modulation", title, drawn, across="dose, residual norms", along="share of replies", share=True, marks=marks
        )
    ]


def _said_group(curve: DoseCurve) -> str:
    return "all prompts" if curve.group == "all" else curve.group


def _thresholds(found: Modulation) -> list[Figure]:
    bars = bars_of(
        (_said_group(curve), curve.threshold, _SIDES.get(curve.prompts, curve.prompts), True)
        for curve in found.curves
        if curve.direction == "detection"
    )
    if not bars:
        return []
    absent = [
        f"{_said_group(curve)} ({curve.prompts})"
        for curve in found.curves
        if curve.direction == "detection" and curve.threshold is None
    ]
    title = (
        "Dose at which half of the prompts are refused, by topic and language, in residual norms, with 95 % intervals."
        + (f" Not crossed within the doses: {len(absent)}." if absent else "")
    )
    return [
        with_title(
            interval_dots("modulation-thresholds", bars, axis="threshold, residual norms", share=False, filled=True),
            title,
        )
    ]


def _threshold_table(found: Modulation) -> Table:
    return Table(
        (
            "Prompts",
            "Group",
            "Direction",
            "Threshold",
            "Slope",
            "Refused at dose 0",
            "Refused at the largest dose",
            "n",
        ),
        tuple(
            (
                titled(curve.prompts),
                curve.group,
                curve.direction,
                number_cell(curve.threshold) if curve.threshold is not None else "not crossed",
                written(curve.slope),
                *(percent(float(value)) for value in (curve.refusal[0], curve.refusal[-1])),
                curve.n,
            )
            for curve in found.curves
        ),
        numeric=(3, 4, 5, 6, 7),
        caption="Thresholds of all groups, with those of the random direction.",
        folded=True,
    )


def crossed(found: Modulation) -> str:
    """The thresholds over all prompts, for the summary; empty where none is crossed."""
    parts = [
        f"{number_text(curve.threshold)} residual norms "
        + ("subtracted from sensitive prompts" if curve.prompts == "sensitive" else "added to controls")
        for curve in found.curves
        if curve.group == "all" and curve.direction == "detection" and curve.threshold is not None
    ]
    return f"Half of the replies change at {listed(parts)}." if parts else ""
