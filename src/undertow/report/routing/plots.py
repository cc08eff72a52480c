"""Lines over any horizontal axis: doses, states, sizes of a set of heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from undertow.measure.statistics import Estimate
from undertow.report.figure import (
    COLOURS,
    NEUTRAL,
    Figure,
    Numbers,
    blank,
    escaped,
    faint,
    plain_number,
    plain_plot,
    require_plotly,
)
from undertow.report.routing.common import estimate_numbers, with_title
from undertow.report.tables import ReportError, interval, written

_FEW = 24
_DASHES = ("dash", "dot", "dashdot")


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
        name: what it is of.
        x, y: its points.
        low, high: its band; empty for none.
        control: whether it is a control, drawn dashed and grey.
        view: of which view of the figure it is a part.
        hollow: which points are drawn hollow.
        notes: what the pointer says of each point besides.
    """

    name: str
    x: Numbers = field(repr=False)
    y: Numbers = field(repr=False)
    low: Numbers = field(default=(), repr=False)
    high: Numbers = field(default=(), repr=False)
    control: bool = False
    view: str = ""
    hollow: Sequence[bool] = field(default=(), repr=False)
    notes: Sequence[str] = field(default=(), repr=False)


@dataclass(frozen=True)
class Mark:
    """A place on the horizontal axis with its interval, drawn as a line from bottom to top.

    Attributes:
        name: what it is.
        at: the place.
        view: of which view it is a part.
    """

    name: str
    at: Estimate
    view: str = ""


def lines(
    name: str,
    title: str,
    drawn: Sequence[Line],
    *,
    across: str,
    along: str,
    share: bool = False,
    marks: Sequence[Mark] = (),
    ticks: Mapping[float, str] | None = None,
    levels: Sequence[float] = (),
) -> Figure:
    """Return lines with bands over any horizontal axis; views to choose among where lines name several.

    Args:
        name: name of the figure.
        title: what is seen.
        drawn: the lines; the same name has the same colour in every view.
        across, along: the axes.
        share: whether the vertical axis runs from 0 to 100 %.
        marks: places on the horizontal axis.
        ticks: places on the horizontal axis and what is written there.
        levels: heights to mark by a dotted line.

    Raises:
        ReportError: there is no line, one has lists of unequal length, or plotly is missing.
    """
    objects = require_plotly()
    if not drawn or any(not len(one.x) == len(one.y) or len(one.low) not in (0, len(one.x)) for one in drawn):
        raise ReportError(f"Every line of {name} needs as many heights as places, and there must be a line.")
    views = list(dict.fromkeys(one.view for one in drawn))
    names = list(dict.fromkeys(one.name for one in drawn if not one.control))
    controls = list(dict.fromkeys(one.name for one in drawn if one.control))
    shown: dict[str, list[int]] = {view: [] for view in views}
    plot = blank(objects, height=400)

    def add(trace: Any, view: str) -> None:
        trace.visible = view == views[0]
        shown[view].append(len(plot.data))
        plot.add_trace(trace)

    for one in drawn:
        colour = NEUTRAL if one.control else COLOURS[names.index(one.name) % (len(COLOURS) - 1)]
        dash = _DASHES[controls.index(one.name) % len(_DASHES)] if one.control else "solid"
        if len(one.low) and len(one.high):
            add(_band(objects, one, colour), one.view)
        add(_curve(objects, one, colour, dash, share), one.view)
    top = 1.0 if share else max((float(value) for one in drawn for value in one.y if math.isfinite(value)), default=1.0)
    for mark in marks:
        if mark.view in views and math.isfinite(mark.at.value):
            for trace in _mark(objects, mark, top):
                add(trace, mark.view)
    for level in levels:
        plot.add_hline(y=float(level), line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    plot.update_xaxes(title_text=across, showgrid=False)
    plot.update_yaxes(title_text=along)
    if share:
        plot.update_yaxes(range=[-0.03, 1.03], tickformat=".0%")
    if ticks:
        plot.update_xaxes(tickvals=list(ticks), ticktext=[escaped(text) for text in ticks.values()])
    figure = Figure(
        name=name,
        plot=plain_plot(plot),
        data={
            "across": across,
            "along": along,
            "lines": [_line_numbers(one) for one in drawn],
            "marks": [{"name": one.name, "view": one.view, **estimate_numbers(one.at)} for one in marks],
        },
        description=f"Lines of {along} against {across} for {', '.join([*names, *controls])}.",
        views={view: tuple(traces) for view, traces in shown.items()} if len(views) > 1 else {},
    )
    return with_title(figure, title)


def _curve(objects: Any, one: Line, colour: str, dash: str, share: bool) -> Any:
    notes = [escaped(note) for note in one.notes]
    symbols = ["circle-open" if hollow else "circle" for hollow in one.hollow] or "circle"
    return objects.Scatter(
        x=[plain_number(value) for value in one.x],
        y=[plain_number(value) for value in one.y],
        mode="lines+markers",
        name=one.name,
        legendgroup=one.name,
        text=notes or None,
        line={"color": colour, "width": 2.2, "dash": dash},
        marker={"color": colour, "symbol": symbols, "size": 7 if one.hollow else 5 if len(one.x) <= _FEW else 3},
        hovertemplate=("%{text}: " if notes else "%{x:g}: ")
        + ("%{y:.1%}" if share else "%{y:.3f}")
        + f"<extra>{escaped(one.name)}</extra>",
    )


def _band(objects: Any, one: Line, colour: str) -> Any:
    edges = [
        (float(place), float(low), float(high))
        for place, low, high in zip(one.x, one.low, one.high, strict=True)
        if math.isfinite(low) and math.isfinite(high)
    ]
    return objects.Scatter(
        x=[*(place for place, _, _ in edges), *(place for place, _, _ in reversed(edges))],
        y=[*(high for _, _, high in edges), *(low for _, low, _ in reversed(edges))],
        mode="lines",
        fill="toself",
        fillcolor=faint(colour),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=one.name,
    )


def _mark(objects: Any, mark: Mark, top: float) -> list[Any]:
    found = []
    if math.isfinite(mark.at.low) and math.isfinite(mark.at.high):
        low, high = mark.at.low, mark.at.high
        found.append(
            objects.Scatter(
                x=[low, high, high, low], y=[0, 0, top, top], mode="lines", fill="toself", fillcolor=faint(COLOURS[4]),
                line={"width": 0}, hoverinfo="skip", showlegend=False,
            )
        )  # fmt: skip
    text = f"{escaped(mark.name)}: {written(mark.at.value)} ({interval(mark.at.low, mark.at.high)})"
    found.append(
        objects.Scatter(
            x=[mark.at.value] * 2, y=[0, top], mode="lines", name=mark.name,
            line={"color": COLOURS[4], "width": 1.8, "dash": "dot"}, hovertemplate=f"{text}<extra></extra>",
        )
    )  # fmt: skip
    return found


def _line_numbers(one: Line) -> dict[str, Any]:
    found: dict[str, Any] = {"name": one.name, "view": one.view, "control": one.control}
    return found | {key: [plain_number(value) for value in getattr(one, key)] for key in ("x", "y", "low", "high")}
