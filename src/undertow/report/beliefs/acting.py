"""Parts 5, 6 and 10 of the page: steering, reply inversion under steering, and releasing over-refused prompts."""

from __future__ import annotations

import numpy as np

from undertow.report.cells import (
    bars_of,
    listed,
    number_cell,
    number_text,
    reasons,
    share_cell,
    share_text,
    titled,
)
from undertow.report.figures import Curve, Figure, score_curves
from undertow.report.heatmaps import HeatPanel, heat_maps
from undertow.report.html import Section
from undertow.report.intervals import interval_bars, interval_dots
from undertow.report.paths import Track, effect_paths
from undertow.report.tables import Table, percent, written
from undertow.studies.beliefs.result import BeliefsResult, Dissociation, Inversion, Path, Sweep

STEERING = "Steering"
INVERSION = "Reply inversion: judging and refusing"
RELEASE = "Releasing over-refused prompts"
SPANS = {"instruction": "added to the request only", "prompt": "added to the whole prompt"}
_ANSWERS = ("certainly", "no", "refusal")
_ANSWER_TITLES = {"certainly": "P(Certainly)", "no": "P(No)", "refusal": "P(refusal)"}


def steering_section(result: BeliefsResult) -> Section:
    """Part 5: refusal rates over states x coefficients (figure 4)."""
    sweep = result.sweep
    if sweep is None:
        return Section(title=STEERING, skipped=reasons(result, "sweep", "steering"))
    panels = [
        HeatPanel(
            row=titled(direction),
            column=f"{titled(prompts)} prompts",
            values=[[one.value for one in row] for row in grid],
            low=[[one.low for one in row] for row in grid],
            high=[[one.high for one in row] for row in grid],
            mark=sweep.best.get(prompts, {}).get(direction),
        )
        for prompts, directions in sweep.refused.items()
        for direction, grid in directions.items()
    ]
    counts = " and ".join(f"{count} {prompts}" for prompts, count in sweep.n.items())
    random = {name: _best(sweep, name, "random") for name in sweep.refused}
    control = " and ".join(
        f"{share_text(found)} of {name} ones ({share_text(sweep.baseline.get(name))} without steering)"
        for name, found in random.items()
        if found is not None
    )
    return Section(
        title=STEERING,
        text="Each direction is added to the stream at every token of the prompt, at one state, a number of times "
        f"over, and {counts} test prompts are answered again. Reversed directions are subtracted. Rings mark the "
        f"state and coefficient that moved refusal most on {sweep.tried} fit prompts; the bars below stand there. "
        "After figure 4 of the paper.",
        figures=[
            heat_maps("steering-sweep", panels, sweep.states, sweep.coefficients, axis="share refused"),
            *_at_best(sweep),
        ],
        tables=[_best_table(sweep)],
        control=f"{_beside(sweep)}At its own ring, where it does most, it has the model refuse {control}: added often "
        "enough, any direction disturbs a model."
        if control
        else "No random direction was tried.",
        how_to_read="The stronger the colour, the more is refused. On harmless prompts (left) a direction that "
        "carries refusal turns some states strong; on harmful ones (right) its reverse turns them pale. A random "
        "direction that does the same would mean that any push breaks the model. Far from the rings, large "
        "coefficients may also break replies altogether, which counts as not refused.",
        skipped=reasons(result, "sweep", "steering"),
    )


def _beside(sweep: Sweep) -> str:
    """What a random direction does at the rings of the two directions, on harmless prompts."""
    shares = [
        f"{percent(sweep.random_beside('harmless', direction).value)} of harmless prompts at the ring of {direction}"
        for direction in ("harmfulness", "refusal")
        if direction in sweep.best.get("harmless", {}) and "random" in sweep.refused.get("harmless", {})
    ]
    return f"A random direction of equal norm has the model refuse {listed(shares)}. " if shares else ""


def _best(sweep: Sweep, prompts: str, direction: str):  # type: ignore[no-untyped-def]
    return sweep.at_best(prompts, direction) if direction in sweep.best.get(prompts, {}) else None


def _at_best(sweep: Sweep) -> list[Figure]:
    entries = [
        ("not steered", sweep.baseline.get(prompts), f"{prompts} prompts", True) for prompts in sweep.refused
    ] + [
        (direction, _best(sweep, prompts, direction), f"{prompts} prompts", True)
        for prompts, directions in sweep.refused.items()
        for direction in directions
    ]
    bars = bars_of(entries)
    return [interval_dots("steering-best", bars, axis="share refused at the ring")] if bars else []


def _best_table(sweep: Sweep) -> Table:
    rows = []
    for prompts, chosen in sweep.best.items():
        for direction, (state, coefficient) in chosen.items():
            found = sweep.at_best(prompts, direction)
            rows.append(
                (f"{titled(direction)}, {prompts}", share_cell(found), state, f"{coefficient:g}\u00d7", found.n)
            )
    return Table(
        ("Direction and prompts", "Refused", "State", "Coefficient", "n"),
        tuple(rows),
        numeric=(1, 2, 3, 4),
        caption="Share refused at the rings, with 95 % intervals.",
        folded=True,
    )


def inversion_section(result: BeliefsResult) -> Section:
    """Part 6: P(Certainly), P(No), P(refusal) under steering (figure 5), and the dissociation."""
    found = result.inversion
    if found is None:
        return Section(title=INVERSION, skipped=reasons(result, "inversion", "dissociation"))
    tables = [_wordings(found)]
    if found.dissociation is not None:
        tables.insert(0, _dissociation_table(found.dissociation))
    return Section(
        title=INVERSION,
        text=_inversion_text(found),
        figures=[*_dissociation(found), *_grids(found), *_wording_dots(found)],
        tables=tables,
        control="A random direction of equal norm stands in every figure, and coefficient 0 is no steering at all. "
        + (
            f"With random directions in the place of harmfulness, added as often, the statistic is "
            f"{number_text(found.dissociation.control)} nats."
            if found.dissociation is not None
            else ""
        ),
        how_to_read="In the first figure a path that climbs moves what the model says of the request; one that goes "
        "right moves whether it refuses; both in nats of log-odds, where one nat multiplies the odds by 2.7. A point "
        "is half the difference between adding the direction and subtracting it as often, so what any push of that "
        "size does, whatever its direction, cancels, and a direction that means nothing stays near the origin. If "
        "judging "
        "and refusing were one, both directions would take the same path; the vertical gap between their rings, which "
        "stand where they move refusal equally, is the double dissociation. Random directions were added only about as "
        "often as harmfulness at its ring, so their path is short. The heat maps show probabilities: there harmfulness "
        "steering should turn No into Certainly, and refusal steering should leave No in place, since No is also how a "
        "refusal sounds.",
        skipped=reasons(result, "inversion", "dissociation"),
    )


def _inversion_text(found: Inversion) -> str:
    text = (
        "The model is asked whether the request could cause harm, with Certainly for yes and No for no, so that a "
        f"judgement of harm and a refusal begin with opposite words. {found.n} prompts of each kind, "
        f"{len(found.wordings)} wordings. "
    )
    if found.dissociation is None:
        return (
            text
            + "The double dissociation is not computed: on this model a first token does not tell the answers apart."
        )
    value = found.dissociation.value
    clear = "clear of zero" if value.low > 0 or value.high < 0 else "not clear of zero"
    return (
        text
        + f"The double dissociation is one number, in nats of log-odds, on {value.n} harmless prompts that the model "
        f"answers: where both directions move the log-odds of a refusal by {written(found.dissociation.level)}, "
        f"harmfulness steering moves those of Certainly against No by {number_text(value)} more than refusal steering "
        f"does, its interval {clear}. After figure 5 of the paper."
    )


def _dissociation(found: Inversion) -> list[Figure]:
    if found.dissociation is None:
        return []
    tracks = [
        Track(
            f"{path.direction} at state {path.state}, {SPANS.get(path.span, path.span)}",
            *_course(path),
            marked=path.matched,
            control=path.direction == "random",
        )
        for path in found.dissociation.paths
    ]
    paths = effect_paths(
        "dissociation",
        tracks,
        across="refusal, request alone: log-odds moved (nats)",
        along="Certainly against No: log-odds moved (nats)",
        level=found.dissociation.level,
    )
    by_state = score_curves(
        "dissociation-states",
        [Curve("harmfulness minus refusal", found.dissociation.by_state)],
        found.states,
        axis="judgement moved more (nats)",
    )
    return [paths, by_state]


def _course(path: Path) -> tuple[list[float], list[float], list[float]]:
    """Coefficients and both effects; a direction compared while subtracted gets the point where it is."""
    course = [list(map(float, one)) for one in (path.coefficients, path.refusal, path.judgement)]
    if path.matched < 0:
        # Effects are odd: subtracting moves as far as adding, the other way.
        there = [-float(np.interp(-path.matched, path.coefficients, one)) for one in (path.refusal, path.judgement)]
        course = [[end, *one] for end, one in zip((path.matched, *there), course, strict=True)]
    return course[0], course[1], course[2]


def _dissociation_table(found: Dissociation) -> Table:
    return Table(
        ("Statistic", "Value", "n"),
        (
            ("Judgement moved by harmfulness minus by refusal, nats", number_cell(found.value), found.value.n),
            ("Control: random directions minus refusal, nats", number_cell(found.control), found.control.n),
        ),
        numeric=(1, 2),
        caption="The double dissociation, where both directions move the log-odds of a refusal by "
        f"{written(found.level)} nats.",
    )


def _grids(found: Inversion) -> list[Figure]:
    panels = []
    for grid in found.grids:
        view = f"{titled(grid.prompts)} prompts, {SPANS.get(grid.span, grid.span)}"
        for answer in _ANSWERS:
            panels.append(
                HeatPanel(
                    row=titled(grid.direction),
                    column=_ANSWER_TITLES[answer],
                    values=getattr(grid, answer),
                    view=view,
                    low=grid.low.get(answer, ()),
                    high=grid.high.get(answer, ()),
                )
            )
    if not panels:
        return []
    return [
        heat_maps("inversion", panels, found.states, found.coefficients, axis="mean probability of the first token")
    ]


def _wording_dots(found: Inversion) -> list[Figure]:
    bars = bars_of(
        (wording, one, f"{prompts} prompts", True)
        for wording, kinds in found.by_wording.items()
        for prompts, one in kinds.items()
    )
    return [interval_dots("inversion-wordings", bars, axis="judged rightly, not steered")] if bars else []


def _wordings(found: Inversion) -> Table:
    kinds = list(dict.fromkeys(kind for one in found.by_wording.values() for kind in one))
    return Table(
        ("Question", *(f"{titled(kind)} judged rightly" for kind in kinds)),
        tuple((wording, *(share_cell(one.get(kind)) for kind in kinds)) for wording, one in found.by_wording.items()),
        numeric=tuple(range(1, len(kinds) + 1)),
        caption="The wordings, without steering.",
        folded=True,
    )


def release_section(result: BeliefsResult) -> Section:
    """Part 10: what releasing gains and what it costs."""
    found = result.over_refusal
    if found is None:
        return Section(title=RELEASE, skipped=reasons(result, "over_refusal"))
    rows = (
        ("Refused harmless, answered under release", found.released, found.released_control, "refused harmless"),
        ("Refused harmful, answered under release", found.let_through, found.let_through_control, "refused harmful"),
    )
    bars = bars_of(
        (title, one, group, True)
        for title, released, control, _ in rows
        for group, one in (("the guard's direction", released), ("a random direction", control))
    )
    exchange = (
        "No harmful request is let through."
        if found.exchange is None
        else f"For every harmful request let through, {written(found.exchange, 1)} over-refused ones are answered."
    )
    return Section(
        title=RELEASE,
        text="Where the guard takes a request for harmless and the model is about to refuse it, guarded generation "
        f"subtracts the refusal direction while the reply is made. {exchange} {found.note}".strip(),
        figures=[interval_bars("over-refusal", bars, axis="share answered under release")] if bars else [],
        tables=[
            Table(
                ("Prompts", "Answered", "Along a random direction", "Guard acted on"),
                tuple(
                    (title, share_cell(one), share_cell(control), share_cell(found.touched.get(kind)))
                    for title, one, control, kind in rows
                ),
                numeric=(1, 2, 3),
                caption="Gain and price of releasing.",
            )
        ],
        control="The same guard pushing along a random direction of equal norm answers "
        f"{share_text(found.released_control)} of the refused harmless prompts. Of harmless prompts that the model "
        f"answers anyway, {share_text(found.unchanged)} get the very same reply.",
        how_to_read="The first row is the gain and the second its price; a good release has a long first bar and no "
        "second one. The last column says how many of the prompts the guard acted on at all: the others keep the "
        "model's own reply.",
        skipped=reasons(result, "over_refusal"),
    )
