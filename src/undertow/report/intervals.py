"""Measured numbers side by side with their 95 % intervals, as dots or as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from undertow.report.figure import (
    COLOURS,
    NEUTRAL,
    SYMBOLS,
    Figure,
    blank,
    escaped,
    plain_plot,
    require_plotly,
    wrapped,
)
from undertow.report.tables import ReportError, interval, percent, percent_interval, written


@dataclass(frozen=True)
class Bar:
    """One measured share, or another number, in a comparison.

    Attributes:
        name: What was measured, such as a guard's rule.
        value: The share, 0 to 1.
        low: Lower end of its interval.
        high: Upper end of its interval.
        n: Number of prompts.
        group: Group it is compared within, such as a kind of prompt.
        emphasis: Whether it is ours, drawn filled; baselines are drawn hollow.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    group: str = ""
    emphasis: bool = False


def interval_dots(
    name: str,
    bars: Sequence[Bar],
    *,
    axis: str,
    share: bool = True,
    reference: float | None = None,
    filled: bool = False,
) -> Figure:
    """Return numbers with their intervals, one line a name; one colour and symbol a group.

    Args:
        name: Name of the figure.
        bars: The numbers; the same names are drawn on the same line, group beside group.
        axis: What the horizontal axis is.
        share: Whether they are shares, drawn from 0 to 100 %; otherwise the axis fits them.
        reference: A value to mark, such as a promised figure or zero.
        filled: Whether all are drawn filled; otherwise only those with emphasis.

    Raises:
        ReportError: If there are no numbers, one is not finite, or plotly is missing.
    """
    objects = require_plotly()
    _check(bars)
    groups, names = _order(bars)
    plot = blank(objects, height=120 + len(names) * (26 + 22 * _most(bars, names)))
    for index, group in enumerate(groups):
        members = [bar for bar in bars if bar.group == group]
        colour, symbol = COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)]
        plot.add_trace(
            objects.Scatter(
                x=[bar.value for bar in members],
                y=[_place(bar, bars, names, groups) for bar in members],
                mode="markers",
                cliponaxis=False,
                name=group or axis,
                showlegend=len(groups) > 1,
                marker={
                    "color": colour,
                    "symbol": [symbol if filled or bar.emphasis else f"{symbol}-open" for bar in members],
                    "size": 11,
                    "line": {"width": 2, "color": colour},
                },
                error_x=_error(members, colour),
                customdata=[_said(bar, share) for bar in members],
                hovertemplate="%{customdata[0]}: %{customdata[1]} (%{customdata[2]}), n = %{customdata[3]}"
                f"<extra>{escaped(group)}</extra>",
            )
        )
    if reference is not None:
        plot.add_vline(x=reference, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    _axes(plot, names, axis, share)
    if not share:
        plot.update_xaxes(range=_room(bars, reference))
    return Figure(name, plain_plot(plot), _data(axis, bars), _described(axis, names))


def interval_bars(name: str, bars: Sequence[Bar], *, axis: str, share: bool = True) -> Figure:
    """Return numbers as horizontal bars with their intervals; one colour a group.

    Args:
        name: Name of the figure.
        bars: The numbers; groups of one name are drawn beside each other.
        axis: What the horizontal axis is.
        share: Whether they are shares, drawn from 0 to 100 %.

    Raises:
        ReportError: If there are no numbers, one is not finite, or plotly is missing.
    """
    objects = require_plotly()
    _check(bars)
    groups, names = _order(bars)
    most = _most(bars, names)
    plot = blank(objects, height=110 + len(names) * (10 + 24 * most))
    for index, group in enumerate(groups):
        members = [bar for bar in bars if bar.group == group]
        plot.add_trace(
            objects.Bar(
                x=[bar.value for bar in members],
                y=[_place(bar, bars, names, groups) for bar in members],
                width=0.62 / most,
                orientation="h",
                name=group or axis,
                showlegend=len(groups) > 1,
                marker={"color": COLOURS[index % len(COLOURS)], "opacity": 0.85, "line": {"width": 0}},
                error_x=_error(members, NEUTRAL),
                customdata=[_said(bar, share) for bar in members],
                hovertemplate="%{customdata[0]}: %{customdata[1]} (%{customdata[2]}), n = %{customdata[3]}"
                f"<extra>{escaped(group)}</extra>",
            )
        )
    plot.update_layout(barmode="overlay")
    _axes(plot, names, axis, share)
    return Figure(name, plain_plot(plot), _data(axis, bars), _described(axis, names))


def _check(bars: Sequence[Bar]) -> None:
    if not bars:
        raise ReportError("A comparison needs at least one measured number.")
    for bar in bars:
        if not all(math.isfinite(number) for number in (bar.value, bar.low, bar.high)):
            raise ReportError(f"{bar.name} has a value or an interval that is not finite.")


def _order(bars: Sequence[Bar]) -> tuple[list[str], list[str]]:
    return list(dict.fromkeys(bar.group for bar in bars)), list(dict.fromkeys(bar.name for bar in bars))


def _most(bars: Sequence[Bar], names: Sequence[str]) -> int:
    return max(sum(bar.name == name for bar in bars) for name in names)


def _place(bar: Bar, bars: Sequence[Bar], names: Sequence[str], groups: Sequence[str]) -> float:
    """Positions are numbers, so that groups of one name stand beside each other rather than on top."""
    present = [group for group in groups if any(one.name == bar.name and one.group == group for one in bars)]
    shift = (present.index(bar.group) - (len(present) - 1) / 2) * 0.62 / max(_most(bars, names), 2)
    return names.index(bar.name) + shift


def _room(bars: Sequence[Bar], reference: float | None) -> list[float]:
    """An axis range with all intervals and the reference in it, and some room at both ends."""
    ends = [end for bar in bars for end in (bar.value, bar.low, bar.high)] + ([] if reference is None else [reference])
    room = (max(ends) - min(ends) or 1.0) * 0.06
    return [min(ends) - room, max(ends) + room]


def _error(members: Sequence[Bar], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(bar.high - bar.value, 0.0) for bar in members],
        "arrayminus": [max(bar.value - bar.low, 0.0) for bar in members],
        "thickness": 1.6,
        "width": 4,
        "color": colour,
    }


def _said(bar: Bar, share: bool) -> list[Any]:
    if share:
        return [escaped(bar.name), percent(bar.value), percent_interval(bar.low, bar.high), bar.n]
    return [escaped(bar.name), written(bar.value), interval(bar.low, bar.high), bar.n]


def _axes(plot: Any, names: Sequence[str], axis: str, share: bool) -> None:
    plot.update_xaxes(title_text=axis, zeroline=not share)
    if share:
        plot.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    plot.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[wrapped(one, 20) for one in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )


def _data(axis: str, bars: Sequence[Bar]) -> dict[str, Any]:
    shown = ("name", "group", "value", "low", "high", "n")
    return {"axis": axis, "bars": [{key: getattr(bar, key) for key in shown} for bar in bars]}


def _described(axis: str, names: Sequence[str]) -> str:
    return f"{axis[:1].upper()}{axis[1:]} of {', '.join(names)}, with 95 % intervals."
