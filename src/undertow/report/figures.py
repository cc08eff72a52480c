"""The figures that every study draws: belief map, quadrants, comparison of guards, scores over the states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from undertow.report.figure import (
    COLOURS,
    NEUTRAL,
    QUADRANT_COLOURS,
    SYMBOLS,
    Figure,
    Numbers,
    blank,
    escaped,
    faint,
    figure_of,
    padded,
    plain_number,
    plain_plot,
    require_plotly,
    wrapped,
)
from undertow.report.intervals import Bar, interval_dots
from undertow.report.tables import ReportError, percent

__all__ = ["Bar", "Curve", "Figure", "belief_map", "figure_of", "guard_comparison", "quadrant_bars", "score_curves"]


@dataclass(frozen=True)
class Curve:
    """A score for every state.

    Attributes:
        name: What the curve is of, such as a kind of prompt.
        values: One number a state.
        low: Lower ends of the band; empty for none.
        high: Upper ends of the band.
        control: Whether it is a control, drawn dashed and grey.
    """

    name: str
    values: Numbers
    low: Numbers = field(default=())
    high: Numbers = field(default=())
    control: bool = False


def belief_map(
    name: str,
    kinds: Sequence[str],
    harmfulness: Sequence[float],
    refusal: Sequence[float],
    *,
    labels: Sequence[str] | None = None,
    harmful_threshold: float = 0.0,
    refusal_threshold: float = 0.0,
    most_points: int = 2000,
    views: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Return every prompt at (belief of harmfulness, belief of refusal), one colour and symbol a kind.

    Source: Zhao et al. (arXiv 2507.11878), figure 3.

    Args:
        name: Name of the figure.
        kinds: The kind of each prompt.
        harmfulness: Belief of harmfulness of each prompt, at t_inst.
        refusal: Belief of refusal of each prompt, at t_post.
        labels: What the pointer shows of each prompt; truncate harmful ones before.
        harmful_threshold: Where the harmful half begins.
        refusal_threshold: Where the refused half begins.
        most_points: At most this many are drawn, evenly spaced within each kind; all of them stay in the data.
        views: Title of a view -> the kinds that it shows, where the reader is to choose among several.

    Raises:
        ReportError: If a view names an unknown kind, the lists differ in length or are empty, or plotly is missing.
    """
    objects = require_plotly()
    if not kinds or not len(kinds) == len(harmfulness) == len(refusal) == len(labels or kinds):
        raise ReportError("A belief map needs a kind and two beliefs for each of its prompts, and at least one prompt.")
    plot = blank(objects, height=500)
    order = list(dict.fromkeys(kinds))
    if any(kind not in order for members in (views or {}).values() for kind in members):
        raise ReportError("A view of a belief map names a kind that none of its prompts is of.")
    shown = {view: tuple(order.index(kind) for kind in members) for view, members in (views or {}).items()}
    first = next(iter(shown.values()), tuple(range(len(order))))
    # Within every view the colours begin anew, so that they differ there and mean the same in each.
    places = {index: rank for view in reversed(shown.values()) for rank, index in enumerate(view)}
    share = min(1.0, most_points / len(kinds))
    for index, kind in enumerate(order):
        rows = [row for row, found in enumerate(kinds) if found == kind]
        place = places.get(index, index)
        step = max(1, round(1 / share))
        drawn = rows[::step]
        plot.add_trace(
            objects.Scatter(
                x=[float(harmfulness[row]) for row in drawn],
                y=[float(refusal[row]) for row in drawn],
                text=[wrapped(labels[row], 44) for row in drawn] if labels else None,
                mode="markers",
                visible=index in first,
                name=f"{kind} ({len(rows)})",
                marker={
                    "color": COLOURS[place % len(COLOURS)],
                    "symbol": SYMBOLS[(place + place // len(COLOURS)) % len(SYMBOLS)],
                    "size": 7,
                    "opacity": 0.7,
                    "line": {"width": 0},
                },
                hovertemplate=("%{text}<br>" if labels else "") + "harmfulness %{x:.3f}, refusal %{y:.3f}"
                f"<extra>{escaped(kind)}</extra>",
            )
        )
    plot.add_vline(x=harmful_threshold, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    plot.add_hline(y=refusal_threshold, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    corners = (
        (0.0, 1.0, "left", "top", "thinks it harmless,<br>will refuse"),
        (1.0, 1.0, "right", "top", "thinks it harmful,<br>will refuse"),
        (0.0, 0.0, "left", "bottom", "thinks it harmless,<br>will answer"),
        (1.0, 0.0, "right", "bottom", "thinks it harmful,<br>will answer"),
    )
    for x, y, across, along, text in corners:
        plot.add_annotation(
            x=x, y=y, xref="paper", yref="paper", xanchor=across, yanchor=along, align=across,
            text=text, showarrow=False, font={"size": 11}, opacity=0.75,
        )  # fmt: skip
    plot.update_xaxes(title_text="belief of harmfulness (t_inst)", range=padded(harmfulness, harmful_threshold))
    plot.update_yaxes(title_text="belief of refusal (t_post)", range=padded(refusal, refusal_threshold))
    points = {
        kind: {
            "harmfulness": [float(harmfulness[row]) for row, found in enumerate(kinds) if found == kind],
            "refusal": [float(refusal[row]) for row, found in enumerate(kinds) if found == kind],
        }
        for kind in order
    }
    thresholds = {"harmfulness": float(harmful_threshold), "refusal": float(refusal_threshold)}
    return Figure(
        name=name,
        plot=plain_plot(plot),
        data={"points": points, "thresholds": thresholds},
        description=f"Scatter of {len(kinds)} prompts by belief of harmfulness and belief of refusal, "
        f"of the kinds {', '.join(order)}.",
        views=shown if len(shown) > 1 else {},
    )


def quadrant_bars(name: str, counts: Mapping[str, Mapping[str, int]], quadrants: Sequence[str]) -> Figure:
    """Return for each kind of prompt which share falls into each quadrant, as one bar of parts.

    Args:
        name: Name of the figure.
        counts: For each kind, the number of prompts in each quadrant.
        quadrants: The quadrants, in the order of the parts.

    Raises:
        ReportError: If there are no counts, or plotly is missing.
    """
    objects = require_plotly()
    if not counts:
        raise ReportError("A figure of quadrants needs the counts of at least one kind of prompt.")
    kinds = list(counts)
    totals = {kind: max(sum(counts[kind].values()), 1) for kind in kinds}
    plot = blank(objects, height=120 + 44 * len(kinds))
    for index, quadrant in enumerate(quadrants):
        shares = [counts[kind].get(quadrant, 0) / totals[kind] for kind in kinds]
        plot.add_trace(
            objects.Bar(
                y=[wrapped(kind, 18) for kind in kinds],
                x=shares,
                name=quadrant,
                orientation="h",
                marker={"color": QUADRANT_COLOURS.get(quadrant, COLOURS[index % len(COLOURS)]), "line": {"width": 0}},
                customdata=[[counts[kind].get(quadrant, 0), sum(counts[kind].values())] for kind in kinds],
                text=[percent(share, 0) if share >= 0.1 else "" for share in shares],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                textfont={"color": "#ffffff"},
                hovertemplate=f"{escaped(quadrant)}: %{{customdata[0]}} of %{{customdata[1]}}<extra></extra>",
            )
        )
    plot.update_layout(barmode="stack", bargap=0.35)
    plot.update_xaxes(range=[0, 1], tickformat=".0%", title_text="share of the prompts")
    plot.update_yaxes(autorange="reversed", showgrid=False)
    return Figure(
        name=name,
        plot=plain_plot(plot),
        data={"counts": {kind: dict(found) for kind, found in counts.items()}},
        description=f"Share of the prompts of each kind ({', '.join(kinds)}) in each of the quadrants.",
    )


def guard_comparison(
    name: str, bars: Sequence[Bar], *, axis: str = "recall at 2 % false positives", reference: float | None = None
) -> Figure:
    """Return measured shares side by side with their 95 % intervals; one colour a group, ours filled, baselines hollow.

    Args:
        name: Name of the figure.
        bars: The shares; the same names are drawn on the same line, group beside group.
        axis: What the horizontal axis is.
        reference: A share to mark, such as a promised figure.

    Raises:
        ReportError: If there are no shares, or plotly is missing.
    """
    return interval_dots(name, bars, axis=axis, reference=reference)


def score_curves(
    name: str,
    curves: Sequence[Curve],
    states: Sequence[int],
    *,
    axis: str = "score s(l)",
    state_axis: str = "state l",
    zero: bool = True,
) -> Figure:
    """Return scores over the states, with bands; controls dashed and grey.

    Source: Zhao et al. (arXiv 2507.11878), figure 2.

    Args:
        name: Name of the figure.
        curves: The curves; each has one value a state.
        states: The states, in the order of the values.
        axis: What the vertical axis is.
        state_axis: What the horizontal axis is.
        zero: Whether to mark zero.

    Raises:
        ReportError: If a curve does not fit the states, there is none, or plotly is missing.
    """
    objects = require_plotly()
    if not curves or any(len(curve.values) != len(states) for curve in curves):
        raise ReportError(f"Every curve over {len(states)} states needs one value a state, and there must be a curve.")
    plot = blank(objects, height=420)
    places = [int(state) for state in states]
    position = 0
    for curve in curves:
        colour = NEUTRAL if curve.control else COLOURS[position % (len(COLOURS) - 1)]
        position += 0 if curve.control else 1
        if len(curve.low) and len(curve.high):
            if len(curve.low) != len(states) or len(curve.high) != len(states):
                raise ReportError(f"The band of {curve.name} needs one value a state.")
            # A state without a finite band, such as one where a direction is zero, is left out of it.
            edges = [
                (place, float(low), float(high))
                for place, low, high in zip(places, curve.low, curve.high, strict=True)
                if math.isfinite(low) and math.isfinite(high)
            ]
            plot.add_trace(
                objects.Scatter(
                    x=[*(place for place, _, _ in edges), *(place for place, _, _ in reversed(edges))],
                    y=[*(high for _, _, high in edges), *(low for _, low, _ in reversed(edges))],
                    mode="lines",
                    fill="toself",
                    fillcolor=faint(colour),
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                    legendgroup=curve.name,
                )
            )
        plot.add_trace(
            objects.Scatter(
                x=places,
                y=[plain_number(value) for value in curve.values],
                mode="lines",
                name=curve.name,
                legendgroup=curve.name,
                line={"color": colour, "width": 2.2, "dash": "dash" if curve.control else "solid"},
                hovertemplate="state %{x}: %{y:.3f}<extra>" + escaped(curve.name) + "</extra>",
            )
        )
    if zero:
        plot.add_hline(y=0.0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    plot.update_xaxes(title_text=state_axis, showgrid=False)
    plot.update_yaxes(title_text=axis)
    return Figure(
        name=name,
        plot=plain_plot(plot),
        data={
            "states": places,
            "curves": {
                curve.name: {
                    "values": [plain_number(value) for value in curve.values],
                    "low": [plain_number(value) for value in curve.low],
                    "high": [plain_number(value) for value in curve.high],
                }
                for curve in curves
            },
        },
        description=f"{axis} over the states for {', '.join(curve.name for curve in curves)}.",
    )
