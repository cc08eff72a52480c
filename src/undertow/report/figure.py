"""A figure with the numbers behind it, and what all figures share: palette, plain layout, escaping."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from undertow.report.tables import ReportError

if TYPE_CHECKING:
    import plotly.graph_objects as graph_objects

Numbers = Sequence[float] | npt.NDArray[Any]
Grid = Sequence[Sequence[float]] | npt.NDArray[Any]

# After Okabe and Ito, shifted in lightness so that each stands out on white and on near black.
COLOURS = ("#2f7fc2", "#159a77", "#d9622b", "#b0629f", "#b98a10", "#4aa8d8", "#8b8f97")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "x")
NEUTRAL = "#8b8f97"
# See-through at the empty end, so that one scale serves a light page and a dark one.
SEQUENTIAL = [[0.0, "rgba(47,127,194,0.07)"], [1.0, "rgba(47,127,194,0.95)"]]
DIVERGING = [[0.0, "rgba(217,98,43,0.8)"], [0.5, "rgba(139,143,151,0.08)"], [1.0, "rgba(47,127,194,0.8)"]]
QUADRANT_COLOURS = {
    "harmful, refused": "#2f7fc2",
    "harmful, about to be answered": "#d9622b",
    "harmless, answered": "#159a77",
    "harmless, about to be refused": "#b98a10",
}


@dataclass(frozen=True)
class Figure:
    """A figure with the numbers behind it.

    Attributes:
        name: Short name, unique within a report; the key of its numbers in `findings.json`.
        plot: The figure as plotly JSON (`data`, `layout`).
        data: The numbers shown, as plain JSON.
        description: What it shows, in words, for readers who cannot see it.
        views: Title of a view -> the traces that it shows, where the reader chooses among several; the first is shown
            at the start. Traces that no view names are always shown.
    """

    name: str
    plot: dict[str, Any]
    data: dict[str, Any]
    description: str
    views: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def require_plotly() -> Any:
    """Return plotly's module of graph objects.

    Raises:
        ReportError: If plotly is not installed.
    """
    try:
        import plotly.graph_objects
    except ImportError:
        raise ReportError("Figures need plotly: install it with pip install undertow[report].") from None
    return plotly.graph_objects


def figure_of(name: str, plot: graph_objects.Figure, data: Mapping[str, Any], description: str) -> Figure:
    """Return a study's own plotly figure as a report's: backgrounds and text colours are left to the page."""
    plot.update_layout(template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
    return Figure(name=name, plot=plain_plot(plot), data=dict(data), description=description)


def blank(objects: Any, height: int) -> Any:
    """Return an empty plotly figure of that height, transparent, its legend above, its colours left to the page."""
    plot = objects.Figure()
    plot.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 26, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 13},
        hovermode="closest",
        hoverlabel={"align": "left"},
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "itemsizing": "constant",
            "traceorder": "normal",
        },
    )
    plot.update_xaxes(automargin=True, zeroline=False, ticks="", title_standoff=10)
    plot.update_yaxes(automargin=True, zeroline=False, ticks="", title_standoff=8)
    return plot


def plain_plot(plot: Any) -> dict[str, Any]:
    """Return a plotly figure as plain JSON."""
    found: dict[str, Any] = json.loads(plot.to_json())
    found["layout"].pop("template", None)
    return found


def plain_number(value: Any) -> float | None:
    """Return a number as JSON can hold it: what is not finite becomes None."""
    number = float(value)
    return number if math.isfinite(number) else None


def padded(values: Sequence[float], threshold: float) -> list[float]:
    """Return an axis range that shows all values and the threshold, with room at both ends."""
    low, high = min(*map(float, values), threshold), max(*map(float, values), threshold)
    room = (high - low or 1.0) * 0.14
    return [low - room, high + room]


def escaped(text: str) -> str:
    """Escape for plotly's own small markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def wrapped(text: str, width: int) -> str:
    """Return escaped text broken into lines for plotly."""
    return "<br>".join(escaped(line) for line in textwrap.wrap(text, width)) or escaped(text)


def faint(colour: str) -> str:
    """Return a colour, `#rrggbb`, as the see-through fill of a band."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"
