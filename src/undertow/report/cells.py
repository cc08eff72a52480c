"""What the pages of studies share: cells, bars and curves out of estimates, and reasons for what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

from undertow.measure.statistics import Band, Estimate
from undertow.report.figures import Curve
from undertow.report.intervals import Bar
from undertow.report.tables import ABSENT, Cell, interval, percent, percent_interval, written


def finite(found: Estimate | None) -> Estimate | None:
    """The estimate, if it and its interval are numbers."""
    if found is None or not all(math.isfinite(number) for number in found[:3]):
        return None
    return found


def share_cell(found: Estimate | None) -> Cell:
    """A share in per cent with its interval beneath."""
    if (known := finite(found)) is None:
        return Cell(ABSENT)
    return Cell(percent(known.value), note=percent_interval(known.low, known.high))


def number_cell(found: Estimate | None) -> Cell:
    """A number with its interval beneath."""
    if (known := finite(found)) is None:
        return Cell(ABSENT)
    return Cell(written(known.value), note=interval(known.low, known.high))


def share_text(found: Estimate | None) -> str:
    """A share in per cent, for a sentence."""
    return ABSENT if (known := finite(found)) is None else percent(known.value)


def number_text(found: Estimate | None) -> str:
    """A number with its interval, for a sentence."""
    if (known := finite(found)) is None:
        return ABSENT
    return f"{written(known.value)} ({interval(known.low, known.high)})"


def bars_of(entries: Iterable[tuple[str, Estimate | None, str, bool]]) -> list[Bar]:
    """Bars of (name, estimate, group, emphasis); what was not measured is left out."""
    return [
        Bar(name, float(known.value), float(known.low), float(known.high), int(known.n), group, emphasis)
        for name, found, group, emphasis in entries
        if (known := finite(found)) is not None
    ]


def curve_of(band: Band, name: str = "") -> Curve:
    """A band as a curve."""
    return Curve(name or f"{band.name} ({band.n})", band.mean, band.low, band.high, band.control)


class Skipping(Protocol):
    """A study's result that says which parts are missing."""

    @property
    def skipped(self) -> Mapping[str, str]:
        """Part -> why."""
        ...


def reasons(result: Skipping, *parts: str) -> str:
    """Why these parts, or what belongs to them, were not measured; empty where they were."""
    found = [
        reason
        for name, reason in result.skipped.items()
        if any(name == part or name.startswith(tuple(part + mark for mark in ".,_:")) for part in parts)
    ]
    return "\n\n".join(found)


def titled(text: str) -> str:
    """The text with a capital letter, underscores as spaces."""
    plain = text.replace("_", " ")
    return plain[:1].upper() + plain[1:]


def listed(names: Iterable[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    parts = list(names)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}" if parts else ""
