"""Write docs/benchmarks.md from what the benchmarks left: ``python benchmarks/table.py FOLDER docs/benchmarks.md``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = """# Benchmarks

Written by `make bench`; every ratio compares two things timed in turn in the same run, medians first.
"""


def spread(ratio: dict[str, float]) -> str:
    """Median with its range."""
    return f"{ratio['median']:.3f} | {ratio['low']:.3f} to {ratio['high']:.3f}"


def conditions(figures: dict[str, Any]) -> str:
    """What the run ran on."""
    return (
        f"Random 12-layer Llama, float32, {figures['threads']} threads on {figures['machine']}, "
        f"torch {figures['torch']}, {figures['repeats']} repeats."
    )


def capture(figures: dict[str, Any]) -> list[str]:
    """Section on reading states."""
    lines = [
        "## Capture: two positions at all states, against the bare forward pass of the same batches",
        "",
        conditions(figures),
        "",
        "| | times the bare pass | spread |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {spread(ratio)} |" for name, ratio in figures["ratios"].items()]
    return lines


def guard(figures: dict[str, Any]) -> list[str]:
    """Section on guarded generation."""
    lines = [
        "## Guarded against plain generation: time to first token",
        "",
        f"{figures['threads']} threads, {figures['repeats']} repeats; the verdict comes out of the same prefill.",
        "",
        "| | times plain | spread |",
        "|---|---|---|",
    ]
    lines += [f"| {row['name']} | {spread(row['ratio'])} |" for row in figures["rows"]]
    return lines


def replay(figures: dict[str, Any]) -> list[str]:
    """Section on replay."""
    lines = [
        "## All heads interchanged at t_post: replay against one forward pass a head",
        "",
        conditions(figures),
        "",
        "| tokens T | heads R | speed-up | spread | bound R T / (T - 1 + R) | of bound | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        gain = row["speed_up"]
        lines.append(
            f"| {row['T']} | {row['R']} | {gain['median']:.1f} | {gain['low']:.1f} to {gain['high']:.1f} | "
            f"{row['bound']:.1f} | {gain['median'] / row['bound']:.2f} | {row['difference']:.1e} |"
        )
    return lines


def main() -> None:
    folder = Path(sys.argv[1])
    parts = [HEAD]
    for section in (capture, guard, replay):
        figures = json.loads((folder / f"{section.__name__}.json").read_text(encoding="utf-8"))
        parts.append("\n".join(section(figures)) + "\n")
    Path(sys.argv[2]).write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
