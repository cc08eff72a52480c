"""The study on one screen: what the command prints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from undertow.measure.statistics import Estimate
from undertow.studies.beliefs.result import FOUR_KINDS, BeliefsResult

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

LINES = 40
RATE = 0.02
_FRAME = 5
_WIDTH = 80
_MARKS = {"reproduced": ("\u2713", "green"), "not reproduced": ("\u2717", "red"), "not tested": ("\u25cb", "dim")}


def summary_tables(result: BeliefsResult) -> list[RenderableType]:
    """The four kinds with the sides they fall on, the guards, the attacks, the findings: at most about 40 lines."""
    found = [part for part in (_kinds(result), _guards(result), _attacks(result)) if part is not None]
    used = sum(_FRAME + part.row_count for part in found)
    skipped = _skipped(result)
    room = LINES - used - _FRAME - len(skipped)
    return [*found, *([_findings(result, max(room, 10))] if result.findings else []), *skipped]


def per_cent(found: Estimate | None, interval: bool = False) -> str:
    """A share in per cent, with its interval where asked."""
    if found is None or not math.isfinite(found.value):
        return ""
    text = f"{100 * found.value:.1f} %"
    return f"{text} ({100 * found.low:.1f} to {100 * found.high:.1f})" if interval else text


def _kinds(result: BeliefsResult) -> Table:
    sorting, separation = result.sorting, result.separation
    table = _table(f"What {result.identity.name} does, and on which side its states lie")
    table.add_column("test prompts")
    table.add_column("n", justify="right")
    if separation is not None:
        table.add_column("harmful side, t_inst", justify="right")
        table.add_column("refused side, t_post", justify="right")
    for kind, _, _ in FOUR_KINDS:
        row = [kind, f"{sorting.counts.get(kind, 0):,}"]
        if separation is not None:
            row += [per_cent(separation.sides.get(one, {}).get(kind), True) for one in ("t_inst", "t_post")]
        table.add_row(*row)
    return table


def _guards(result: BeliefsResult) -> Table | None:
    guards = result.guards
    if guards is None:
        return None
    table = _table("Who sees what the model gets wrong, at 2 % false positives (own threshold: *)")
    table.add_column("judge")
    for heading in ("accepted harmful, flagged", "refused harmless, spared"):
        table.add_column(heading, justify="right")
    for row in guards.rows:
        at_rate = RATE in row.recall
        cells = (
            (row.recall.get(RATE), row.spared.get(RATE))
            if at_rate
            else (row.accuracy.get("accepted harmful"), row.accuracy.get("refused harmless"))
        )
        table.add_row(
            row.title + ("" if at_rate else " *"),
            *(per_cent(cell, True) for cell in cells),
            style="bold" if row.key == guards.best else "dim" if row.role == "control" else None,
        )
    return table


def _attacks(result: BeliefsResult) -> Table | None:
    if not result.attacks:
        return None
    table = _table("Attacked weights: before, after, and after a harmless change")
    table.add_column("attack")
    for heading in ("bare harmful refused", "flagged by the best guard", "drop (95 % interval)"):
        table.add_column(heading, justify="right")
    for attack in result.attacks:
        controls = [] if attack.control is None else [attack.control]
        bare = [one.refused.get("bare harmful") for one in (attack.comparison, *controls)]
        recall = [one.best.recall["all"] for one in (attack.comparison, *controls)]
        before = bare[0].before if bare[0] is not None else None
        drop = attack.comparison.drop
        table.add_row(
            attack.key,
            ", ".join(per_cent(one) for one in (before, *(one.after for one in bare if one is not None))),
            ", ".join(per_cent(one) for one in (recall[0].before, *(one.after for one in recall))),
            "{:.1f} ({:.1f} to {:.1f})".format(*(round(100 * number, 1) + 0.0 for number in drop[:3])),
        )
    return table


def _findings(result: BeliefsResult, most: int) -> Table:
    """Findings that a rule judges first; at most so many rows, the rest are counted."""
    ordered = sorted(result.findings, key=lambda one: one.verdict == "not tested")
    shown = ordered if len(ordered) <= most else ordered[: most - 1]
    verdicts = [finding.verdict for finding in result.findings]
    table = _table(
        f"Findings: {verdicts.count('reproduced')} reproduced, {verdicts.count('not reproduced')} not reproduced, "
        f"{verdicts.count('not tested')} not tested"
    )
    table.add_column("")
    table.add_column("finding", no_wrap=True, overflow="ellipsis")
    for heading in ("value", "95 % interval", "n", "control"):
        table.add_column(heading, justify="right", no_wrap=True)
    for finding in shown:
        mark, style = _MARKS[finding.verdict]
        table.add_row(
            f"[{style}]{mark}[/]",
            finding.id,
            "" if finding.value is None else f"{finding.value:.3f}",
            "" if finding.low is None else f"{finding.low:.3f} to {finding.high:.3f}",
            str(finding.n),
            "" if finding.control is None else f"{finding.control:.3f}",
        )
    if len(shown) < len(ordered):
        table.add_row("", f"and {len(ordered) - len(shown)} more in findings.json", style="dim")
    return table


def _skipped(result: BeliefsResult) -> list[RenderableType]:
    if not result.skipped:
        return []
    from rich.text import Text

    names = ", ".join(name.replace("_", " ") for name in result.skipped)
    return [Text(f"Not measured: {names}; the report says why.", style="yellow")]


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        min_width=_WIDTH,
    )
