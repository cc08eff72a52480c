"""What the parts of the page share: names of heads, titles over figures, reasons for what is missing."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from undertow.measure.statistics import Estimate
from undertow.report.cells import bars_of as bars_of
from undertow.report.cells import finite as finite
from undertow.report.cells import listed as listed
from undertow.report.cells import number_cell as number_cell
from undertow.report.cells import number_text as number_text
from undertow.report.cells import reasons as reasons
from undertow.report.cells import share_cell as share_cell
from undertow.report.cells import share_text as share_text
from undertow.report.cells import titled as titled
from undertow.report.figure import Figure, Numbers, escaped, plain_number
from undertow.report.tables import ABSENT, written
from undertow.studies.routing.readings import Circuit, Head
from undertow.studies.routing.result import RoutingResult

TITLE_WIDTH = 46
_LINE, _SIZE = 18, 13


def head_name(head: Head) -> str:
    """`3.0` for head 0 of block 3."""
    return f"{head[0]}.{head[1]}"


def heads_named(heads: Iterable[Head], *, opening: bool = False) -> str:
    """`head 3.0`, `heads 3.0 and 5.1`, for a sentence; with a capital letter where it opens one."""
    known = list(heads)
    word = "head" if len(known) == 1 else "heads"
    return f"{word.capitalize() if opening else word} {head_names(known)}"


def head_names(heads: Iterable[Head]) -> str:
    """`3.0, 5.1 and 5.3`; a dash for none."""
    return listed(map(head_name, heads)) or ABSENT


def role_of(circuit: Circuit, head: Head) -> str:
    """ "gate", "amplifier", "direct" or ""."""
    roles = {"gate": circuit.gates, "amplifier": circuit.amplifiers, "direct": circuit.direct}
    return next((role for role, heads in roles.items() if head in heads), "")


def measure_of(readout: str) -> tuple[str, str]:
    """What is read and its unit, out of `Screening.readout`."""
    name, _, unit = readout.rpartition(", in ")
    return (name, unit) if name else (readout, "its unit")


def probability_text(p: float | None) -> str:
    """A p value for a table, `< 0.001` at its smallest."""
    known = written(p)
    return known if known == ABSENT or p is None or p >= 0.001 else "< 0.001"


def estimate_at(place: int, value: Numbers, low: Numbers, high: Numbers, n: int) -> Estimate:
    """One of many estimates that are kept as lists."""
    return Estimate(float(value[place]), float(low[place]), float(high[place]), n)


def estimate_numbers(found: Estimate) -> dict[str, Any]:
    """A number with its interval and n, as JSON can hold it."""
    ends = {key: plain_number(getattr(found, key)) for key in ("value", "low", "high")}
    return {**ends, "n": int(found.n)}


def missing(result: RoutingResult, part: str) -> str:
    """Why a part without a result has none, in any case a sentence."""
    return reasons(result, part) or "This part was not measured, and the run does not say why."


def with_title(figure: Figure, title: str, *, room: int = 0) -> Figure:
    """The figure with a title above it, over its legend where it has one, broken for a narrow screen.

    Args:
        figure: any figure of the house.
        title: what is seen, with unit, n, interval and control.
        room: pixels that the figure already uses above its axes; such a figure has no legend there.
    """
    lines = textwrap.wrap(title, TITLE_WIDTH, break_on_hyphens=False)
    text = "<br>".join(map(escaped, lines))
    layout: dict[str, Any] = {**figure.plot["layout"]}
    data: list[dict[str, Any]] = [{**trace} for trace in figure.plot["data"]]
    above = _LINE * len(lines)
    font = {"size": _SIZE}
    if room:
        layout["margin"] = {**layout.get("margin", {}), "t": above + room + 10}
        line = {
            "text": text, "x": 0, "xref": "paper", "xanchor": "left", "align": "left", "y": 1, "yref": "paper",
            "yanchor": "bottom", "yshift": room, "showarrow": False, "font": font,
        }  # fmt: skip
        layout["annotations"] = [*layout.get("annotations", ()), line]
    else:
        # As the legend's title it makes way for wide tick labels, and the legend's own rows for it.
        legend = {**layout.get("legend", {}), "title": {"text": text, "side": "top", "font": font}}
        layout |= {"legend": legend, "showlegend": True}
        if not any(trace.get("showlegend", True) and trace.get("visible", True) for trace in data):
            data[0]["showlegend"] = True
    layout["height"] = int(layout.get("height", 420)) + above
    return replace(
        figure,
        plot={**figure.plot, "data": data, "layout": layout},
        data={"title": title, **figure.data},
        description=f"{title} {figure.description}",
    )
