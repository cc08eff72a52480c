"""Heat maps over states and coefficients, side by side, with a choice of views where there are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from undertow.report.figure import (
    COLOURS,
    SEQUENTIAL,
    Figure,
    Grid,
    blank,
    escaped,
    plain_number,
    plain_plot,
    require_plotly,
)
from undertow.report.tables import ReportError

_TOP, _BOTTOM, _LABEL, _CELL, _GAP = 84, 54, 24, 19, 10
_MOST_LABELS = 7


@dataclass(frozen=True)
class HeatPanel:
    """One heat map among several.

    Attributes:
        row: Which row of panels it stands in, by title, such as a direction.
        column: Which column, by title, such as what was measured.
        values: (states, coefficients).
        view: Of which view of the figure it is a part; "" where there is only one.
        mark: The (state, coefficient) to mark, such as the one chosen on other prompts.
        low, high: (states, coefficients) ends of the intervals; kept in the data, not drawn.
    """

    row: str
    column: str
    values: Grid = field(repr=False)
    view: str = ""
    mark: tuple[int, float] | None = None
    low: Grid = field(default=(), repr=False)
    high: Grid = field(default=(), repr=False)


def heat_maps(
    name: str,
    panels: Sequence[HeatPanel],
    states: Sequence[int],
    coefficients: Sequence[float],
    *,
    axis: str,
    mark: str = "chosen on other prompts",
) -> Figure:
    """Return shares or probabilities over states and coefficients; all panels on one scale from 0 to 1.

    Args:
        name: Name of the figure.
        panels: The heat maps; rows and columns appear in order of first mention.
        states: The states, across each panel.
        coefficients: The coefficients, upwards in each panel.
        axis: What the colour is.
        mark: What a marked cell is, for the pointer.

    Raises:
        ReportError: If there is no panel, one does not fit the states and coefficients, or plotly is missing.
    """
    objects = require_plotly()
    shape = (len(states), len(coefficients))
    if not panels or any(np.shape(panel.values) != shape for panel in panels):
        raise ReportError(f"Every heat map needs {shape[0]} states x {shape[1]} coefficients, and there must be one.")
    rows, columns, views = (
        list(dict.fromkeys(getattr(panel, part) for panel in panels)) for part in ("row", "column", "view")
    )
    cells = _CELL * max(len(coefficients), 2)
    area = len(rows) * (_LABEL + cells + _GAP)
    plot = blank(objects, height=_TOP + _BOTTOM + area)
    plot.update_layout(margin={"t": _TOP, "b": _BOTTOM})
    width = (1 - 0.04 * (len(columns) - 1)) / len(columns)
    for place, row in enumerate(rows):
        top = 1 - (place * (_LABEL + cells + _GAP) + _LABEL) / area
        for other, _ in enumerate(columns):
            number = place * len(columns) + other + 1
            _axis_pair(
                plot,
                number,
                across=[other * (width + 0.04), other * (width + 0.04) + width],
                along=[top - cells / area, top],
                states=states,
                coefficients=coefficients,
                left=other == 0,
                last=place == len(rows) - 1,
            )
        _annotate(plot, row, x=0.0, y=top, shift=2)
    if len(columns) > 1:
        for other, column in enumerate(columns):
            _annotate(plot, f"<b>{escaped(column)}</b>", x=other * (width + 0.04), y=1.0, shift=4, plain=False)
    # The title of a colour bar is centred over it, and so cut off where the page is narrow.
    _annotate(plot, axis, x=0.0, y=1.0, shift=62)
    shown: dict[str, list[int]] = {view: [] for view in views}
    for panel in panels:
        number = rows.index(panel.row) * len(columns) + columns.index(panel.column) + 1
        for trace in _traces(objects, panel, number, states, coefficients, mark):
            trace.visible = panel.view == views[0]
            shown[panel.view].append(len(plot.data))
            plot.add_trace(trace)
    plot.update_layout(
        showlegend=False,
        coloraxis={
            "colorscale": SEQUENTIAL,
            "cmin": 0,
            "cmax": 1,
            "colorbar": {
                "orientation": "h", "thickness": 9, "len": 0.5, "lenmode": "fraction", "x": 0, "xanchor": "left",
                "xpad": 0, "y": 1 + 30 / area, "yanchor": "bottom", "ypad": 0, "outlinewidth": 0,
                "tickformat": ".0%", "tickvals": [0, 0.5, 1],
            },
        },
    )  # fmt: skip
    return Figure(
        name=name,
        plot=plain_plot(plot),
        data={
            "axis": axis,
            "states": [int(state) for state in states],
            "coefficients": [float(coefficient) for coefficient in coefficients],
            "panels": [_numbers(panel) for panel in panels],
        },
        description=f"Heat maps of the {axis} over {len(states)} states and {len(coefficients)} coefficients, "
        f"for {', '.join(rows)}.",
        views={view: tuple(traces) for view, traces in shown.items()} if len(views) > 1 else {},
    )


def _axis_pair(
    plot: Any,
    number: int,
    *,
    across: list[float],
    along: list[float],
    states: Sequence[int],
    coefficients: Sequence[float],
    left: bool,
    last: bool,
) -> None:
    step = -(-len(states) // _MOST_LABELS)
    suffix = "" if number == 1 else str(number)
    bare = {"automargin": True, "zeroline": False, "showgrid": False, "ticks": "", "title_standoff": 14}
    plot.update_layout(
        {
            f"xaxis{suffix}": {
                **bare,
                "domain": across,
                "anchor": f"y{suffix}",
                "tickvals": list(range(0, len(states), step)),
                "ticktext": [str(state) for state in states[::step]],
                "showticklabels": last,
                "title_text": "state" if last else "",
                "range": [-0.5, len(states) - 0.5],
            },
            f"yaxis{suffix}": {
                **bare,
                "domain": along,
                "anchor": f"x{suffix}",
                "tickvals": list(range(len(coefficients))),
                "ticktext": [f"{coefficient:g}\u00d7" for coefficient in coefficients],
                "showticklabels": left,
                "range": [-0.5, len(coefficients) - 0.5],
            },
        }
    )


def _annotate(plot: Any, text: str, *, x: float, y: float, shift: int, plain: bool = True) -> None:
    plot.add_annotation(
        x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", yshift=shift,
        text=escaped(text) if plain else text, showarrow=False, font={"size": 12},
    )  # fmt: skip


def _traces(
    objects: Any, panel: HeatPanel, number: int, states: Sequence[int], coefficients: Sequence[float], mark: str
) -> list[Any]:
    suffix = "" if number == 1 else str(number)
    axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
    texts = [[f"state {state}, {coefficient:g}\u00d7" for state in states] for coefficient in coefficients]
    found = [
        objects.Heatmap(
            z=[[plain_number(value) for value in row] for row in np.asarray(panel.values, dtype=float).T],
            x=list(range(len(states))),
            y=list(range(len(coefficients))),
            text=texts,
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{text}: %{z:.1%}"
            f"<extra>{escaped(panel.row)}{', ' if panel.column else ''}{escaped(panel.column)}</extra>",
            **axes,
        )
    ]
    if panel.mark is not None and panel.mark[0] in states and panel.mark[1] in coefficients:
        found.append(
            objects.Scatter(
                x=[list(states).index(panel.mark[0])],
                y=[list(coefficients).index(panel.mark[1])],
                mode="markers",
                marker={"symbol": "circle-open", "size": 11, "color": COLOURS[2], "line": {"width": 2.4}},
                hovertemplate=f"{escaped(mark)}<extra></extra>",
                **axes,
            )
        )
    return found


def _numbers(panel: HeatPanel) -> dict[str, Any]:
    found: dict[str, Any] = {"row": panel.row, "column": panel.column, "view": panel.view}
    for key in ("values", "low", "high"):
        table = getattr(panel, key)
        if len(table):
            found[key] = [[plain_number(value) for value in row] for row in np.asarray(table, dtype=float)]
    if panel.mark is not None:
        found["mark"] = {"state": int(panel.mark[0]), "coefficient": float(panel.mark[1])}
    return found
