"""The plan on one screen, and as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from undertow.studies.routing.plan import Plan

if TYPE_CHECKING:
    from rich.console import RenderableType

_PREFIXES = ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k"))
_MEMORY = {
    "weights": "weights",
    "prefix": "keys and values of the shared prefix",
    "tree": "branches of one pass",
    "mask": "their mask",
    "logits": "their logits",
    "batch": "a batch of prompts",
    "peak": "peak on the device",
    "host": "kept beside it: states and heads",
    "kept": "one replay's result, were all tokens kept",
}


def quantity(number: float, unit: str = "") -> str:
    """A number with a decimal prefix and three digits."""
    for power, prefix in _PREFIXES:
        if number >= 10**power:
            return f"{number / 10**power:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}".strip()


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever reads best."""
    if not math.isfinite(seconds):
        return ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def plan_tables(plans: Sequence[Plan]) -> list[RenderableType]:
    """Tokens, operations and time of every part, and memory, of each model side by side.

    Args:
        plans: of the same parts; a column or two each.
    """
    from rich import box
    from rich.table import Table

    first = plans[0]
    parts = Table(
        title=f"What the study runs: {sum(first.pairs)} pairs, {first.mean_tokens:.0f} tokens a prompt",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    parts.add_column("part")
    for plan in plans:
        name = plan.shape.name
        parts.add_column(f"{name}\ntokens", justify="right")
        parts.add_column("\noperations", justify="right")
        parts.add_column("\ntime", justify="right")
    for place, part in enumerate(first.parts):
        rows = [plan.parts[place] for plan in plans]
        cells = [(quantity(row.tokens), quantity(row.flop, "FLOP"), duration(row.seconds)) for row in rows]
        parts.add_row(part.name, *(cell for row in cells for cell in row))
    totals = [(quantity(plan.tokens), quantity(plan.flop, "FLOP"), duration(plan.seconds)) for plan in plans]
    parts.add_row("all", *(cell for row in totals for cell in row), style="bold")
    memory = Table(title="Memory", box=box.SIMPLE_HEAD, title_justify="left")
    memory.add_column("")
    for plan in plans:
        memory.add_column(plan.shape.name, justify="right")
    memory.add_row("branches a pass", *(f"{plan.branches:,}" for plan in plans))
    memory.add_row("tokens a batch", *(f"{plan.tokens_per_batch:,}" for plan in plans))
    for key, words in _MEMORY.items():
        cells_of = [quantity(getattr(plan.memory, key), "B") for plan in plans]
        memory.add_row(words, *cells_of, style="bold" if key == "peak" else None)
    lines = [f"Speed of {plan.shape.name}: {plan.speed.source}." for plan in plans]
    lines.append("Counted before replies and gates are known; the built circuits are models of their own and left out.")
    return [parts, memory, "\n".join(lines)]


def plain_plan(plan: Plan) -> dict[str, Any]:
    """Plain values for JSON."""
    return {
        "model": plan.shape.name,
        "parameters": plan.shape.parameters,
        "pairs": list(plan.pairs),
        "mean_tokens": plan.mean_tokens,
        "branches": plan.branches,
        "tokens_per_batch": plan.tokens_per_batch,
        "speed": asdict(plan.speed),
        "parts": [asdict(part) for part in plan.parts],
        "tokens": plan.tokens,
        "flop": plan.flop,
        "seconds": plan.seconds,
        "memory": asdict(plan.memory) | {"peak": plan.memory.peak},
    }
