"""Maps over all heads of a model: blocks upwards, heads across."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from undertow.report.figure import (
    COLOURS,
    DIVERGING,
    SYMBOLS,
    Figure,
    Numbers,
    blank,
    escaped,
    plain_number,
    plain_plot,
    require_plotly,
)
from undertow.report.routing.common import head_name, with_title
from undertow.report.routing.points import ROLES
from undertow.report.tables import ReportError, interval, written
from undertow.studies.routing.readings import Head

_BAR, _BELOW, _LABEL, _GAP, _BESIDE = 52, 86, 24, 22, 8
_TALLEST = 420
_DENSE = 40


@dataclass(frozen=True)
class HeadPanel:
    """One map.

    Attributes:
        title: what the colour is.
        heads: the heads that are known; others stay empty.
        values: one number a head.
        low, high: ends of its interval; empty for none.
        view: of which view of the figure it is a part.
    """

    title: str
    heads: Sequence[Head] = field(repr=False)
    values: Numbers = field(repr=False)
    low: Numbers = field(default=(), repr=False)
    high: Numbers = field(default=(), repr=False)
    view: str = ""


def head_maps(
    name: str, title: str, panels: Sequence[HeadPanel], marks: Mapping[str, Sequence[Head]] | None = None
) -> Figure:
    """Return one map a panel, all maps of a view on one scale around zero; some heads ringed.

    Args:
        name: name of the figure.
        title: what is seen.
        panels: the maps; side by side where blocks have at most 8 heads, else above each other.
        marks: role -> the heads to ring in every map.

    Raises:
        ReportError: there is no panel, one has not one value a head, or plotly is missing.
    """
    objects = require_plotly()
    if not panels or any(len(one.heads) != len(one.values) or not len(one.heads) for one in panels):
        raise ReportError(f"Every map of {name} needs one number a head, and there must be one.")
    titles, views = (list(dict.fromkeys(getattr(one, part) for one in panels)) for part in ("title", "view"))
    blocks = sorted({block for one in panels for block, _ in one.heads})
    numbers = sorted({number for one in panels for _, number in one.heads})
    beside = len(numbers) <= _BESIDE
    cells = min((22 if beside else 12) * max(len(blocks), 3), _TALLEST)
    tall = 1 if beside else len(titles)
    area = tall * (_LABEL + cells) + (tall - 1) * _GAP
    plot = blank(objects, height=_BAR + _BELOW + area)
    plot.update_layout(margin={"b": _BELOW, "l": 8, "r": 12})
    for place, words in enumerate(titles):
        _axes(plot, place, words, len(titles), beside, cells, area, blocks, numbers)
    shown: dict[str, list[int]] = {view: [] for view in views}
    for view in views:
        members = [one for one in panels if one.view == view]
        scale = max((abs(float(value)) for one in members for value in one.values if math.isfinite(value)), default=1.0)
        for index, one in enumerate(members):
            trace = _map(objects, one, titles.index(one.title), blocks, numbers, scale or 1.0)
            if index == 0:
                trace.update(showscale=True, colorbar=_bar(area))
            trace.visible = view == views[0]
            shown[view].append(len(plot.data))
            plot.add_trace(trace)
    for role, heads in (marks or {}).items():
        known = [head for head in heads if head[0] in blocks and head[1] in numbers]
        for place in range(len(titles) if known else 0):
            plot.add_trace(_rings(objects, role, known, place, blocks, numbers))
    plot.update_layout(
        showlegend=any((marks or {}).values()), legend={"x": 0, "y": -52 / area, "yanchor": "top", "yref": "paper"}
    )
    figure = Figure(
        name=name,
        plot=plain_plot(plot),
        data={
            "panels": [_numbers(one) for one in panels],
            "marks": {role: [list(head) for head in heads] for role, heads in (marks or {}).items()},
        },
        description=f"Maps over {len(blocks)} blocks and {len(numbers)} heads a block: {', '.join(titles)}.",
        views={view: tuple(traces) for view, traces in shown.items()} if len(views) > 1 else {},
    )
    return with_title(figure, title, room=_BAR)


def _axes(
    plot: Any,
    place: int,
    words: str,
    count: int,
    beside: bool,
    cells: int,
    area: int,
    blocks: Sequence[int],
    numbers: Sequence[int],
) -> None:
    suffix = "" if place == 0 else str(place + 1)
    width = (1 - 0.05 * (count - 1)) / count
    left = place * (width + 0.05) if beside else 0.0
    top = 1 - ((0 if beside else place * (_LABEL + cells + _GAP)) + _LABEL) / area
    last = beside or place == count - 1
    bare = {"automargin": True, "zeroline": False, "showgrid": False, "ticks": "", "title_standoff": 6}
    plot.update_layout(
        {
            f"xaxis{suffix}": {
                **bare, **_ticks(numbers), "domain": [left, left + width] if beside else [0, 1], "anchor": f"y{suffix}",
                "title_text": "head" if last else "", "showticklabels": last,
            },
            f"yaxis{suffix}": {
                **bare, **_ticks(blocks), "domain": [top - cells / area, top], "anchor": f"x{suffix}",
                "title_text": "block" if not beside or place == 0 else "", "showticklabels": not beside or place == 0,
            },
        }
    )  # fmt: skip
    plot.add_annotation(
        x=left, y=top, xref="paper", yref="paper", xanchor="left", yanchor="bottom", yshift=3,
        text=f"<b>{escaped(words)}</b>", showarrow=False, font={"size": 12},
    )  # fmt: skip


def _ticks(values: Sequence[int]) -> dict[str, Any]:
    step = -(-len(values) // 9)
    return {
        "tickvals": list(range(0, len(values), step)),
        "ticktext": [str(value) for value in values[::step]],
        "range": [-0.5, len(values) - 0.5],
    }


def _map(objects: Any, one: HeadPanel, place: int, blocks: Sequence[int], numbers: Sequence[int], scale: float) -> Any:
    suffix = "" if place == 0 else str(place + 1)
    values = np.full((len(blocks), len(numbers)), math.nan)
    texts = [["" for _ in numbers] for _ in blocks]
    for index, head in enumerate(one.heads):
        row, column = blocks.index(head[0]), numbers.index(head[1])
        values[row, column] = one.values[index]
        ends = f" ({interval(float(one.low[index]), float(one.high[index]))})" if len(one.low) else ""
        texts[row][column] = f"{head_name(head)}: {written(float(one.values[index]))}{ends}"
    gap = 1 if max(len(blocks), len(numbers)) <= _DENSE else 0
    return objects.Heatmap(
        z=[[plain_number(value) for value in row] for row in values],
        x=list(range(len(numbers))),
        y=list(range(len(blocks))),
        text=texts,
        zmin=-scale,
        zmax=scale,
        colorscale=DIVERGING,
        showscale=False,
        xgap=gap,
        ygap=gap,
        hoverongaps=False,
        hovertemplate=f"%{{text}}<extra>{escaped(one.title)}</extra>",
        xaxis=f"x{suffix}",
        yaxis=f"y{suffix}",
    )


def _bar(area: int) -> dict[str, Any]:
    return {
        "orientation": "h", "thickness": 9, "len": 0.5, "lenmode": "fraction", "x": 0, "xanchor": "left", "xpad": 0,
        "y": 1 + 6 / area, "yanchor": "bottom", "ypad": 0, "outlinewidth": 0, "nticks": 5,
    }  # fmt: skip


def _rings(
    objects: Any,
    role: str,
    heads: Sequence[Head],
    place: int,
    blocks: Sequence[int],
    numbers: Sequence[int],
) -> Any:
    suffix = "" if place == 0 else str(place + 1)
    colour, symbol = ROLES.get(role, (COLOURS[2], SYMBOLS[0]))
    return objects.Scatter(
        x=[numbers.index(number) for _, number in heads],
        y=[blocks.index(block) for block, _ in heads],
        mode="markers",
        name=role,
        legendgroup=role,
        showlegend=place == 0,
        marker={
            "symbol": f"{symbol}-open",
            "size": 12,
            "color": colour,
            "line": {"width": 2.4},
        },
        text=[head_name(head) for head in heads],
        hovertemplate=f"%{{text}}<extra>{escaped(role)}</extra>",
        xaxis=f"x{suffix}",
        yaxis=f"y{suffix}",
    )


def _numbers(one: HeadPanel) -> dict[str, Any]:
    found: dict[str, Any] = {"title": one.title, "view": one.view, "heads": [list(head) for head in one.heads]}
    for key in ("values", "low", "high"):
        if len(getattr(one, key)):
            found[key] = [plain_number(value) for value in getattr(one, key)]
    return found
