"""Points and rows of heads: what the house's figures of states and prompts do not draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from undertow.measure.statistics import Estimate
from undertow.report.figure import (
    COLOURS,
    NEUTRAL,
    SYMBOLS,
    Figure,
    blank,
    escaped,
    faint,
    plain_number,
    plain_plot,
    require_plotly,
    wrapped,
)
from undertow.report.routing.common import estimate_numbers, with_title
from undertow.report.tables import ReportError, interval, written

ROLES = {
    "gate": (COLOURS[2], SYMBOLS[0]),
    "amplifier": (COLOURS[1], SYMBOLS[1]),
    "direct": (COLOURS[4], SYMBOLS[2]),
    "moved": (COLOURS[3], SYMBOLS[3]),
}
"""Role of a head -> its colour and symbol, the same in all figures."""


@dataclass(frozen=True)
class Point:
    """One point of a scatter.

    Attributes:
        name: such as a head.
        x, y: its place, with intervals where they are finite.
        group: one colour and symbol a group.
        named: whether its name is written beside it.
        view: of which view it is a part.
    """

    name: str
    x: Estimate
    y: Estimate
    group: str = ""
    named: bool = False
    view: str = ""


@dataclass(frozen=True)
class Row:
    """One measured number beside its control.

    Attributes:
        name: such as a head.
        value: the number.
        group: one colour a group.
        control: its control; None for none.
        null: (low, middle, high) of a null distribution; None for none.
    """

    name: str
    value: Estimate
    group: str = ""
    control: float | None = None
    null: tuple[float, float, float] | None = None


def scatter(
    name: str,
    title: str,
    points: Sequence[Point],
    *,
    across: str,
    along: str,
    identity: bool = False,
) -> Figure:
    """Return points with their intervals; one colour and symbol a group, names beside those that ask for one.

    Args:
        name: name of the figure.
        title: what is seen.
        points: the points; one whose place is not finite is left out.
        across, along: the axes.
        identity: whether to draw the line of equal values.

    Raises:
        ReportError: no point has a place, or plotly is missing.
    """
    objects = require_plotly()
    kept = [one for one in points if math.isfinite(one.x.value) and math.isfinite(one.y.value)]
    if not kept:
        raise ReportError(f"The scatter {name} needs at least one point with two finite numbers.")
    views, groups = (list(dict.fromkeys(getattr(one, part) for one in kept)) for part in ("view", "group"))
    shown: dict[str, list[int]] = {view: [] for view in views}
    plot = blank(objects, height=430)
    for view in views:
        for group in groups:
            members = [one for one in kept if one.view == view and one.group == group]
            if members:
                shown[view].append(len(plot.data))
                plot.add_trace(_dots(objects, members, group, across, along))
                plot.data[-1].visible = view == views[0]
        if identity:
            ends = [value for one in kept if one.view == view for value in (one.x.value, one.y.value)]
            shown[view].append(len(plot.data))
            plot.add_trace(
                objects.Scatter(
                    x=[min(ends), max(ends)], y=[min(ends), max(ends)], mode="lines", name="equal", showlegend=False,
                    visible=view == views[0], hoverinfo="skip", line={"color": NEUTRAL, "width": 1, "dash": "dot"},
                )
            )  # fmt: skip
    plot.update_xaxes(title_text=across, range=_room(one.x for one in kept), zeroline=True)
    plot.update_yaxes(title_text=along, range=_room(one.y for one in kept), zeroline=True)
    figure = Figure(
        name=name,
        plot=plain_plot(plot),
        data={
            "across": across,
            "along": along,
            "points": [
                {
                    "name": one.name,
                    "group": one.group,
                    "view": one.view,
                    "x": estimate_numbers(one.x),
                    "y": estimate_numbers(one.y),
                }
                for one in kept
            ],
        },
        description=f"Scatter of {len(kept)} points: {along} against {across}.",
        views={view: tuple(traces) for view, traces in shown.items()} if len(views) > 1 else {},
    )
    return with_title(figure, title)


def rows_with_control(
    name: str, title: str, rows: Sequence[Row], *, axis: str, control: str = "", null: str = ""
) -> Figure:
    """Return numbers with intervals, a line each, over the range of a null and beside a control.

    Args:
        name: name of the figure.
        title: what is seen.
        rows: the numbers, from the top; one that is not finite is left out.
        axis: the horizontal axis.
        control, null: what these are, for the legend.

    Raises:
        ReportError: no number is finite, or plotly is missing.
    """
    objects = require_plotly()
    kept = [row for row in rows if math.isfinite(row.value.value)]
    if not kept:
        raise ReportError(f"The figure {name} needs at least one finite number.")
    plot = blank(objects, height=100 + 25 * len(kept))
    nulls = [(place, row.null) for place, row in enumerate(kept) if row.null is not None]
    if nulls:
        xs: list[float | None] = []
        ys: list[float | None] = []
        for place, (low, _, high) in nulls:
            xs += [plain_number(low), plain_number(high), None]
            ys += [place, place, None]
        plot.add_trace(
            objects.Scatter(
                x=xs, y=ys, mode="lines", name=null, line={"color": "rgba(139,143,151,0.4)", "width": 10},
                hovertemplate=f"%{{x:.3f}}<extra>{escaped(null)}</extra>",
            )
        )  # fmt: skip
    groups = list(dict.fromkeys(row.group for row in kept))
    for group in groups:
        members = [(place, row) for place, row in enumerate(kept) if row.group == group]
        colour, symbol = ROLES.get(group, (COLOURS[0], SYMBOLS[0]))
        plot.add_trace(
            objects.Scatter(
                x=[row.value.value for _, row in members],
                y=[place for place, _ in members],
                mode="markers",
                name=group or axis,
                cliponaxis=False,
                marker={"color": colour, "symbol": symbol, "size": 10},
                error_x=_error([row.value for _, row in members], colour),
                customdata=[
                    [escaped(row.name), written(row.value.value), interval(row.value.low, row.value.high), row.value.n]
                    for _, row in members
                ],
                hovertemplate="%{customdata[0]}: %{customdata[1]} (%{customdata[2]}), n = %{customdata[3]}"
                f"<extra>{escaped(group)}</extra>",
            )
        )
    controls = [(place, row.control) for place, row in enumerate(kept) if row.control is not None]
    if controls:
        plot.add_trace(
            objects.Scatter(
                x=[plain_number(value) for _, value in controls],
                y=[place for place, _ in controls],
                mode="markers",
                name=control,
                marker={"color": NEUTRAL, "symbol": "line-ns-open", "size": 12, "line": {"width": 2.4}},
                hovertemplate=f"%{{x:.3f}}<extra>{escaped(control)}</extra>",
            )
        )
    plot.add_vline(x=0.0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    plot.update_xaxes(title_text=axis)
    plot.update_yaxes(
        tickvals=list(range(len(kept))),
        ticktext=[wrapped(row.name, 22) for row in kept],
        range=[len(kept) - 0.4, -0.6],
        showgrid=False,
    )
    figure = Figure(
        name=name,
        plot=plain_plot(plot),
        data={
            "axis": axis,
            "rows": [
                {
                    "name": row.name,
                    "group": row.group,
                    **estimate_numbers(row.value),
                    "control": None if row.control is None else plain_number(row.control),
                    "null": None if row.null is None else [plain_number(value) for value in row.null],
                }
                for row in kept
            ],
        },
        description=f"{axis} of {', '.join(row.name for row in kept)}, with 95 % intervals.",
    )
    return with_title(figure, title)


def _dots(objects: Any, members: Sequence[Point], group: str, across: str, along: str) -> Any:
    colour, symbol = ROLES.get(group, (COLOURS[0] if group else NEUTRAL, SYMBOLS[0]))
    crowded = len(members) > 60
    error = {} if crowded else {"error_x": _error([one.x for one in members], faint(colour).replace("0.16", "0.5"))}
    if not crowded:
        error["error_y"] = _error([one.y for one in members], faint(colour).replace("0.16", "0.5"))
    return objects.Scatter(
        x=[one.x.value for one in members],
        y=[one.y.value for one in members],
        mode="markers+text" if any(one.named for one in members) else "markers",
        name=f"{group or 'other heads'} ({len(members)})",
        text=[escaped(one.name) if one.named else "" for one in members],
        textposition="top right",
        textfont={"size": 11, "color": colour},
        cliponaxis=False,
        marker={"color": colour, "symbol": symbol, "size": 9 if group else 6, "opacity": 0.85},
        customdata=[[escaped(one.name)] for one in members],
        hovertemplate=f"%{{customdata[0]}}: {escaped(across)} %{{x:.3f}}, {escaped(along)} %{{y:.3f}}<extra></extra>",
        **error,
    )


def _error(found: Sequence[Estimate], colour: str) -> dict[str, Any]:
    def reach(first: float, second: float) -> float:
        return max(first - second, 0.0) if math.isfinite(first) and math.isfinite(second) else 0.0

    return {
        "type": "data",
        "symmetric": False,
        "array": [reach(one.high, one.value) for one in found],
        "arrayminus": [reach(one.value, one.low) for one in found],
        "thickness": 1.4,
        "width": 0,
        "color": colour,
    }


def _room(found: Iterable[Estimate]) -> list[float]:
    ends = [0.0, *(end for one in found for end in one[:3] if math.isfinite(end))]
    room = (max(ends) - min(ends) or 1.0) * 0.09
    return [min(ends) - room, max(ends) + room]
