"""Two effects of one intervention against each other, as its strength grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from undertow.report.figure import (
    COLOURS,
    NEUTRAL,
    SYMBOLS,
    Figure,
    Numbers,
    blank,
    escaped,
    plain_number,
    plain_plot,
    require_plotly,
)
from undertow.report.tables import ReportError


@dataclass(frozen=True)
class Track:
    """One intervention.

    Attributes:
        name: Such as a direction.
        strengths: Its strengths, ascending.
        across, along: Its two effects at each strength.
        marked: The strength to mark; None for none.
        control: Whether it is a control, drawn dashed and grey.
    """

    name: str
    strengths: Sequence[float]
    across: Numbers = field(repr=False)
    along: Numbers = field(repr=False)
    marked: float | None = None
    control: bool = False


def effect_paths(
    name: str,
    tracks: Sequence[Track],
    *,
    across: str,
    along: str,
    level: float | None = None,
    mark: str = "compared here",
) -> Figure:
    """Return one line an intervention, one point a strength, the marked strength ringed.

    Args:
        name: Name of the figure.
        tracks: The interventions.
        across, along: What the horizontal and the vertical axis are.
        level: A horizontal effect to mark by a line.
        mark: What a ring is, for the legend.

    Raises:
        ReportError: If there is no track, one has lists of unequal length, or plotly is missing.
    """
    objects = require_plotly()
    if not tracks or any(not len(one.strengths) == len(one.across) == len(one.along) for one in tracks):
        raise ReportError("Every path needs two effects for each of its strengths, and there must be one.")
    plot = blank(objects, height=430)
    position = 0
    for one in tracks:
        colour = NEUTRAL if one.control else COLOURS[position % (len(COLOURS) - 1)]
        symbol = SYMBOLS[-1] if one.control else SYMBOLS[position % len(SYMBOLS)]
        position += 0 if one.control else 1
        xs, ys = ([plain_number(value) for value in values] for values in (one.across, one.along))
        plot.add_trace(
            objects.Scatter(
                x=xs,
                y=ys,
                mode="lines+markers",
                name=one.name,
                line={"color": colour, "width": 2, "dash": "dash" if one.control else "solid"},
                marker={"color": colour, "symbol": symbol, "size": 7},
                text=[f"{strength:g}\u00d7" for strength in one.strengths],
                hovertemplate=f"%{{text}}: {escaped(across)} %{{x:.3f}}, {escaped(along)} %{{y:.3f}}"
                f"<extra>{escaped(one.name)}</extra>",
            )
        )
        if one.marked is not None:
            # The strength compared at may lie between two that were measured.
            ring = [float(np.interp(one.marked, one.strengths, values)) for values in (one.across, one.along)]
            plot.add_trace(
                objects.Scatter(
                    x=[ring[0]],
                    y=[ring[1]],
                    mode="markers",
                    name=mark,
                    showlegend=False,
                    marker={"symbol": "circle-open", "size": 17, "color": colour, "line": {"width": 2.4}},
                    hoverinfo="skip",
                )
            )
    plot.add_hline(y=0.0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    if level is not None:
        plot.add_vline(x=float(level), line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    plot.update_xaxes(title_text=across)
    plot.update_yaxes(title_text=along)
    return Figure(
        name=name,
        plot=plain_plot(plot),
        data={
            "across": across,
            "along": along,
            "level": None if level is None else float(level),
            "tracks": [
                {
                    "name": one.name,
                    "strengths": [float(value) for value in one.strengths],
                    "across": [plain_number(value) for value in one.across],
                    "along": [plain_number(value) for value in one.along],
                    "marked": None if one.marked is None else float(one.marked),
                }
                for one in tracks
            ],
        },
        description=f"Lines of {along} against {across} for {', '.join(one.name for one in tracks)}.",
    )
