"""The study on one screen: what the command prints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from undertow.measure.statistics import Estimate
from undertow.studies.routing.readings import Head
from undertow.studies.routing.result import RoutingResult

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

LINES = 40
_FRAME = 5
_WIDTH = 80
_HEADS = 5
_LEAST = 8
_MOST_NOTES = 3
_MARKS = {"reproduced": ("\u2713", "green"), "not reproduced": ("\u2717", "red"), "not tested": ("\u25cb", "dim")}


def summary_tables(result: RoutingResult) -> list[RenderableType]:
    """The circuit, built circuits, findings, what was skipped and what limits it: at most about 40 lines."""
    found = [part for part in (_circuit(result), _built(result)) if part is not None]
    ends = [*_skipped(result), *_notes(result)]
    used = sum(_FRAME + part.row_count for part in found)
    # A line of prose may need two on a narrow screen.
    room = LINES - used - _FRAME - 2 * len(ends)
    return [*found, *([_findings(result, max(room, _LEAST))] if result.findings else []), *ends]


def named(heads: tuple[Head, ...]) -> str:
    """`3.0, 5.1`: block and head, both counted from 0."""
    return ", ".join(f"{block}.{head}" for block, head in heads)


def number(found: Estimate | None, digits: int = 2) -> str:
    """A number with its interval in brackets; empty where it was not measured."""
    if found is None or not math.isfinite(found.value):
        return ""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _circuit(result: RoutingResult) -> Table:
    from rich.text import Text

    circuit = result.circuit
    parts = [
        f"{len(heads)} {word if len(heads) == 1 else word + 's'} ({named(heads[:_HEADS])}"
        f"{', ...' if len(heads) > _HEADS else ''})"
        for word, heads in (("gate", circuit.gates), ("amplifier", circuit.amplifiers), ("direct head", circuit.direct))
        if heads
    ]
    outcome = ", ".join(parts) if circuit.gates else ", ".join(["no gate found", *parts])
    table = _table(
        f"{result.identity.name}: {outcome}; {circuit.heads} heads, {result.pairs.report} report pairs, effects in nats"
    )
    table.add_column("head", no_wrap=True, min_width=5)
    table.add_column("role", no_wrap=True)
    for heading in ("necessity, 95 %", "share", "sufficiency", "attribution"):
        table.add_column(heading, justify="right", no_wrap=True)
    ranked = sorted(circuit.notable, key=lambda row: row.role == "")
    for row in ranked[:_HEADS]:
        table.add_row(
            named((row.head,)),
            row.role,
            Text(number(row.necessity)),
            f"{100 * row.share:.0f} %" if math.isfinite(row.share) else "",
            *(f"{one.value:.2f}" if math.isfinite(one.value) else "" for one in (row.sufficiency, row.attribution)),
            style="bold" if row.role == "gate" else None,
        )
    return table


def _built(result: RoutingResult) -> Table | None:
    built = result.built
    if built is None:
        return None
    table = _table(
        f"Built circuits: {built.builds} with a gate, {built.without_gate} without (* told how many heads to name)"
    )
    table.add_column("method", no_wrap=True)
    for heading in ("gate\nrecall", "gate\nprecision", "amplifier\nrecall", "amplifier\nprecision", "false\ngates"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in built.scores:
        cells = (one.gate_recall, one.gate_precision, one.amplifier_recall, one.amplifier_precision)
        table.add_row(
            one.method + (" *" if one.knows_count else ""),
            *(_short(cell) for cell in cells),
            "always" if one.false_gate is None else _short(one.false_gate),
            style=None if one.knows_count else "bold",
        )
    return table


def _findings(result: RoutingResult, most: int) -> Table:
    """Findings that a rule judges first; at most so many rows, the rest are counted."""
    ordered = sorted(result.findings, key=lambda one: one.verdict == "not tested")
    shown = ordered if len(ordered) <= most else ordered[: most - 1]
    verdicts = [finding.verdict for finding in result.findings]
    table = _table(
        f"Findings: {verdicts.count('reproduced')} reproduced, {verdicts.count('not reproduced')} not reproduced, "
        f"{verdicts.count('not tested')} not tested"
    )
    table.add_column("finding", no_wrap=True, overflow="ellipsis")
    for heading in ("value", "95 % interval", "n", "control"):
        table.add_column(heading, justify="right", no_wrap=True)
    for finding in shown:
        mark, style = _MARKS[finding.verdict]
        table.add_row(
            f"[{style}]{mark}[/] {finding.id}",
            _plain(finding.value),
            "" if finding.low is None else f"{_plain(finding.low)} to {_plain(finding.high)}",
            str(finding.n),
            _plain(finding.control),
        )
    if len(shown) < len(ordered):
        table.add_row(f"  and {len(ordered) - len(shown)} more in findings.json", style="dim")
    return table


def _skipped(result: RoutingResult) -> list[RenderableType]:
    if not result.skipped:
        return []
    from rich.text import Text

    names = "; ".join(name.replace("_", " ") for name in result.skipped)
    return [Text(f"Not measured: {names}. The report says why.", style="yellow")]


def _notes(result: RoutingResult) -> list[RenderableType]:
    from rich.text import Text

    return [Text(note, style="yellow") for note in result.notes[:_MOST_NOTES]]


def _plain(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"


def _short(found: Estimate) -> str:
    return f"{100 * found.value:.1f} %" if math.isfinite(found.value) else ""


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(
        # Names of models and pairs are text, not markup.
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        min_width=_WIDTH,
    )
