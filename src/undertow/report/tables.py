"""Tables of a report, and how its numbers, intervals and prompts are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from undertow.errors import UndertowError
from undertow.measure.finding import Claim, Finding

ABSENT = "\u2013"
VERDICT_SYMBOLS = {"reproduced": "\u2713", "not reproduced": "\u2717", "not tested": "\u25cb"}
_TONES = {"reproduced": "good", "not reproduced": "bad", "not tested": "open"}


class ReportError(UndertowError):
    """A report, table or figure is asked for with parts that do not fit, or a library it needs is missing."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it shows.
        tone: `good`, `bad`, `open` for a verdict's badge; empty for plain text.
        note: A second, smaller line.
    """

    text: str
    tone: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table; on a narrow screen every row becomes a block of its own, its first cell the heading.

    Attributes:
        columns: Headings.
        rows: Rows of texts, numbers or cells, as many as there are headings.
        numeric: Which columns are numbers, aligned right, by index.
        caption: What the table shows.
        folded: Whether the reader has to open it.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    numeric: tuple[int, ...] = ()
    caption: str = ""
    folded: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ReportError(f"A table of {len(self.columns)} columns got a row of {len(row)} cells.")

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows as cells, numbers written out."""
        return [[part if isinstance(part, Cell) else Cell(written(part)) for part in row] for row in self.rows]


def written(value: Any, digits: int = 3) -> str:
    """Return a value as a reader wants it: whole numbers whole, others to `digits` decimals, None as a dash."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        if not math.isfinite(value):
            return ABSENT
        if value != 0.0 and (abs(value) >= 1e5 or abs(value) < 0.5 * 10**-digits):
            return f"{value:.{digits - 1}e}".replace("-", "\u2212")
        return f"{value:.{digits}f}".replace("-", "\u2212")
    return str(value)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in per cent."""
    return ABSENT if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}\u202f%"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return an interval as `low to high`."""
    return ABSENT if low is None or high is None else f"{written(low, digits)} to {written(high, digits)}"


def percent_interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """Return an interval of shares in per cent as `low to high %`."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ABSENT
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f}\u202f%"


def truncated(text: str, *, show: bool = False, limit: int = 48) -> str:
    """Return a prompt on one line, cut after `limit` characters at a word's end unless `show` is set.

    Harmful prompts are truncated in every report unless the reader asks for them.
    """
    line = " ".join(text.split())
    if show or len(line) <= limit:
        return line
    cut = line[:limit]
    return (cut.rsplit(" ", 1)[0] if " " in cut[limit // 2 :] else cut).rstrip(" ,.;:") + " \u2026"


def findings_table(findings: Sequence[Finding], rules: Mapping[str, str | Claim] | None = None) -> Table:
    """Return the table of findings: claim, value, 95 % interval, n, control, reference, verdict with its rule.

    Args:
        findings: The findings, in the order shown.
        rules: For each finding's id, the rule that computed its verdict.
    """
    rows = []
    for finding in findings:
        rule = (rules or {}).get(finding.id, "")
        reference = finding.reference
        rows.append(
            (
                Cell(finding.claim, note=finding.id),
                Cell(written(finding.value)),
                Cell(interval(finding.low, finding.high)),
                Cell(written(finding.n)),
                Cell(written(finding.control)),
                Cell(
                    ABSENT if reference is None else written(reference.value),
                    note=reference.source if reference else "",
                ),
                Cell(
                    f"{VERDICT_SYMBOLS[finding.verdict]} {finding.verdict}",
                    tone=_TONES[finding.verdict],
                    note=rule.sentence if isinstance(rule, Claim) else rule,
                ),
            )
        )
    return Table(
        columns=("Claim", "Value", "95 % interval", "n", "Control", "Reference", "Verdict"),
        rows=tuple(rows),
        numeric=(1, 2, 3, 4, 5),
    )


def quadrant_table(counts: Mapping[str, Mapping[str, int]], quadrants: Sequence[str]) -> Table:
    """Return how many prompts of each kind fall into each quadrant, with their share of the kind.

    Args:
        counts: For each kind of prompt, the number in each quadrant.
        quadrants: The quadrants, in the order of the columns.
    """
    rows = []
    for kind, by_quadrant in counts.items():
        total = sum(by_quadrant.values())
        shares = [
            Cell(written(by_quadrant.get(name, 0)), note=percent(by_quadrant.get(name, 0) / total) if total else "")
            for name in quadrants
        ]
        rows.append((Cell(kind), *shares, Cell(written(total))))
    return Table(
        columns=("Prompts", *(name[:1].upper() + name[1:] for name in quadrants), "All"),
        rows=tuple(rows),
        numeric=tuple(range(1, len(quadrants) + 2)),
    )
