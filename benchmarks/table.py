"""Write docs/benchmarks.md from what the benchmarks left: ``python benchmarks/table.py FOLDER docs/benchmarks.md``."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from environments import ENVIRONMENTS

HEAD = """# Benchmarks

Written by `make bench`. Every ratio compares two things timed by turns in the same process, medians first. What capture
and screening cost at 8B and 72B is [counted on a page of its own](cost.md).
"""

TITLES = {
    "capture": "Capture of two positions at all 13 states, 16 prompts of 32 to 128 tokens",
    "steering": "Steering: one vector at state 6 on every token, 8 prompts, 32 tokens generated",
    "interchange": "All 96 heads interchanged at t_post, 128 tokens, logits of the last token read",
    "guard": "Guard verdict: a cosine score at one state, 8 prompts of 128 tokens one by one",
}

EXPLAINED = {
    "capture": (
        "The bare pass is the decoder on the same padded batches, with nothing read and no unembedding. Every tool "
        "that takes batches is given the same ones, sorted by length, and the positions; Undertow starts from text."
    ),
    "steering": (
        "The bare pass is transformers' own greedy `generate` of the same batch; the difference is the share of "
        "generated tokens that differ. *Own* divides by what the tool's own generation takes without steering."
    ),
    "interchange": "The bare pass is one forward pass of the prompt. The donor's heads are given to every tool.",
    "guard": "The bare pass is the decoder on each prompt in turn.",
}

PROMISED = (
    "Medians; the bound is on the median. Repeats may have been added to single rows (`compare.py --add`), and their "
    "number stands in each table: where the spread is wide, a median near a bound settles little. Of several ways in "
    "which a tool does a task, its fastest is compared."
)

NAMES = {"bare": "bare pass", "undertow": "**Undertow**", "loop": "the paper's loop"}


def spread(ratio: dict[str, float]) -> str:
    """Median with its range."""
    return f"{ratio['median']:.3f} | {ratio['low']:.3f} to {ratio['high']:.3f}"


def figure(ratios: list[float]) -> str:
    """A median, with as many digits as it deserves."""
    middle = statistics.median(ratios)
    return f"{middle:.3f}" if middle < 10 else f"{middle:.1f}"


def ranged(ratios: list[float]) -> str:
    """Least and greatest."""
    digits = 3 if statistics.median(ratios) < 10 else 1
    return f"{min(ratios):.{digits}f} to {max(ratios):.{digits}f}"


def best(rows: list[dict[str, Any]], task: str, tool: str) -> dict[str, Any] | None:
    """The fastest way of a tool to do a task."""
    found = [row for row in rows if row["task"] == task and row["tool"] == tool and row["ratios"] and not row["failed"]]
    return min(found, key=lambda row: statistics.median(row["ratios"])) if found else None


def fastest_peer(rows: list[dict[str, Any]], task: str) -> dict[str, Any] | None:
    """The fastest row that is neither Undertow nor the bare pass."""
    tools = {row["tool"] for row in rows} - {"bare", "undertow"}
    found = [row for row in (best(rows, task, tool) for tool in tools) if row is not None]
    return min(found, key=lambda row: statistics.median(row["ratios"])) if found else None


def label(row: dict[str, Any]) -> str:
    """Tool with its way."""
    name = NAMES.get(row["tool"], row["tool"])
    return f"{name}, {row['variant']}" if row["variant"] else name


def task_section(rows: list[dict[str, Any]], task: str) -> list[str]:
    """One task's table."""
    chosen = [row for row in rows if row["task"] == task]
    own = task == "steering"
    beside = any(row["beside"] for row in chosen)
    columns = ["tool", "times the bare pass", "spread", "repeats"]
    columns += ["own"] * own + ["times Undertow in its process"] * beside
    columns += ["peak memory", "difference", "note"]
    lines = [f"## {TITLES[task]}", "", EXPLAINED[task], "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in chosen:
        if row["failed"] and not row["ratios"]:
            cells = [label(row), "-", "-", "-", *["-"] * own, *["-"] * beside, "-", "-", row["failed"]]
        elif row["failed"]:
            cells = [
                label(row),
                "-",
                "-",
                "-",
                *["-"] * own,
                *["-"] * beside,
                "-",
                f"{row['difference']:.1e}",
                row["failed"],
            ]
        else:
            peak = f"{row['peak'] / 1e6:.1f} MB" if row["peak"] is not None else "-"
            cells = [label(row), figure(row["ratios"]), ranged(row["ratios"]), str(len(row["ratios"]))]
            cells += [figure(row["own"]) if row["own"] else "-"] * own
            cells += [figure(row["beside"]) if row["beside"] else "-"] * beside
            exact = f"{row['difference']:.1e}" if row["difference"] else "0"
            cells += [peak, "-" if row["tool"] == "bare" else exact, row["note"]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def targets(rows: list[dict[str, Any]], others: dict[str, dict[str, Any]]) -> list[str]:
    """What was promised, what was found, and whether it holds."""
    lines = ["## What was promised", "", PROMISED, "", "| what | bound | found | holds |", "|---|---|---|---|"]

    def line(what: str, bound: str, found: str, holds: bool) -> None:
        lines.append(f"| {what} | {bound} | {found} | {'yes' if holds else '**no**'} |")

    for task, what, bound in (("capture", "capture against the bare pass", 1.03), ("steering", "", 1.03)):
        ours = best(rows, task, "undertow")
        if ours is None:
            continue
        found = statistics.median(ours["ratios"])
        shown = f"{found:.3f}x ({ranged(ours['ratios'])}, {len(ours['ratios'])} repeats)"
        line(what or "steering against transformers' generate", f"{bound}x", shown, found <= bound)
        if ours["own"]:
            found = statistics.median(ours["own"])
            line("steering against Undertow's own plain generation", f"{bound}x", f"{found:.3f}x", found <= bound)
    ours, peer = best(rows, "capture", "undertow"), fastest_peer(rows, "capture")
    if ours is not None and peer is not None:
        itself = best(rows, "capture", "bare")
        noise = max(abs(value - 1) for value in itself["ratios"]) if itself else 0.0
        ahead = statistics.median(ours["ratios"]) - statistics.median(peer["ratios"])
        line(
            f"capture: the fastest peer is {label(peer)}, {figure(peer['ratios'])}x",
            "no peer ahead beyond the noise",
            f"{ahead:+.3f}x, noise {noise:.3f}x",
            ahead <= noise,
        )
        for variant, rivals in (("", "batched"), ("one prompt at a time", "the paper's loop")):
            mine = [
                row["peak"]
                for row in rows
                if (row["task"], row["tool"], row["variant"]) == ("capture", "undertow", variant)
            ]
            theirs = [
                row["peak"]
                for row in rows
                if row["task"] == "capture"
                and row["tool"] not in ("bare", "undertow")
                and row["peak"]
                and (row["tool"] == "loop") == bool(variant)
            ]
            if mine and mine[0] and theirs:
                line(
                    f"capture: peak memory against {rivals}" + (" peers" if not variant else ""),
                    f"below {min(theirs) / 1e6:.1f} MB",
                    f"{mine[0] / 1e6:.1f} MB",
                    mine[0] < min(theirs),
                )
    ours, peer = best(rows, "interchange", "undertow"), fastest_peer(rows, "interchange")
    if ours is not None and peer is not None:
        gain = statistics.median(peer["ratios"]) / statistics.median(ours["ratios"])
        line(f"interchange against the fastest peer, {label(peer)}", "20 times", f"{gain:.1f} times", gain >= 20)
        line("interchange exact", "1e-5", f"{ours['difference']:.1e}", ours["difference"] <= 1e-5)
    if "flat" in others:
        own = [row for row in others["flat"]["rows"] if not row["keeps_words"]][-1]
        share = own["growth"] * own["prompts"] / own["result"]
        line(
            f"memory of capture over {own['prompts']:,} prompts: growth beside the result, the tokenizer's cache off",
            "1 % of the result",
            f"{share:.2%}",
            share <= 0.01,
        )
    if "startup" in others:
        shown = others["startup"]["rows"][-1]
        line("`undertow --help`", f"{others['startup']['bound']} s", f"{shown['median']:.3f} s", shown["median"] < 0.3)
    return lines if len(lines) > 6 else []


def peers(figures: dict[str, Any]) -> list[str]:
    """How the tools were run, and the tables of all tasks."""
    lines = [
        "## Tools",
        "",
        f"Random 12-layer Llama (42 million parameters, float32), {figures['threads']} threads of "
        f"{figures['machine']}. "
        "Every tool runs in an environment of its own (`benchmarks/environments.py`), used as its documentation says "
        "(`benchmarks/peers/with_*.py`), and loads the same folder. Its result is held against values computed with "
        "plain transformers before its time counts; what differs by more than 1e-5 has no time. Peak memory is "
        "resident memory above the loaded model, in a further process that gives freed blocks straight back to the "
        "system.",
        "",
        "| tool | versions | pin |",
        "|---|---|---|",
    ]
    for name, installed in figures["versions"].items():
        pin = ENVIRONMENTS[name].reason if name in ENVIRONMENTS else "Undertow's own environment"
        lines.append(f"| {NAMES.get(name, name)} | {installed} | {pin} |")
    for task in TITLES:
        if any(row["task"] == task for row in figures["rows"]):
            lines += ["", *task_section(figures["rows"], task)]
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


def replay_rows(rows: list[dict[str, Any]]) -> list[str]:
    """A table of replay against the loop."""
    lines = [
        "| tokens T | heads R | speed-up | spread | bound R T / (T - 1 + R) | of bound | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gain = row["speed_up"]
        lines.append(
            f"| {row['T']} | {row['R']} | {gain['median']:.1f} | {gain['low']:.1f} to {gain['high']:.1f} | "
            f"{row['bound']:.1f} | {gain['median'] / row['bound']:.2f} | {row['difference']:.1e} |"
        )
    return lines


def replay(figures: dict[str, Any]) -> list[str]:
    """Section on replay over prompt lengths."""
    return [
        "## Scaling: all heads interchanged at t_post, replay against one forward pass a head, by prompt length",
        "",
        f"{figures['threads']} threads, {figures['repeats']} repeats.",
        "",
        *replay_rows(figures["rows"]),
    ]


def routing(figures: dict[str, Any]) -> list[str]:
    """Section on the routing study's screening."""
    row = figures["rows"][0]
    return [
        "## Routing study: screening of all heads, replay against one forward pass a head and prompt",
        "",
        f"`{figures['model']}`, {row['pairs']} pairs of {row['T']:.1f} tokens a prompt, {figures['threads']} threads, "
        f"{figures['repeats']} repeats; the loop is plain transformers with one hook.",
        "",
        *replay_rows([{**row, "T": f"{row['T']:.1f}"}]),
    ]


def scaling(figures: dict[str, Any]) -> list[str]:
    """Section on the curves of capture and on the number of heads."""
    lines = [
        "## Scaling: capture by prompts, tokens and layers",
        "",
        f"Against the bare pass of the same batches ({figures['tokens_per_batch']} tokens at most), and against a loop "
        f"over single prompts with output_hidden_states. {figures['repeats']} repeats; lengths vary by a quarter.",
        "",
        "| prompts | tokens | layers | times the bare pass | spread | times as fast as the loop | spread |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("prompts", "tokens", "layers"):
        for row in figures["curves"][name]:
            lines.append(
                f"| {row['prompts']} | {row['tokens']} | {row['layers']} | {spread(row['to_bare'])} | "
                f"{spread(row['speed_up'])} |"
            )
    lines += ["", "## Scaling: replay by heads, equal width", "", *replay_rows(figures["curves"]["heads"])]
    return lines


def flat(figures: dict[str, Any]) -> list[str]:
    """Section on memory over many prompts."""
    lines = [
        "## Memory of capture over many prompts",
        "",
        f"A random Llama of {figures['layers']} layers and width {figures['width']}, all states, two positions, every "
        "count in a process of its own. The result is the states and the prompts they belong to; the rest is what a "
        "batch and a window of 2,048 rendered prompts need. The tokenizers library keeps the words it has split, "
        "which is measured apart.",
        "",
        "| tokenizer's cache | prompts | peak above the model | result | the rest | growth, bytes a prompt |",
        "|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        sizes = " | ".join(f"{row[name] / 1e6:.1f} MB" for name in ("peak", "result", "rest"))
        kept = "kept" if row["keeps_words"] else "off"
        lines.append(f"| {kept} | {row['prompts']:,} | {sizes} | {row['growth']:.0f} |")
    return lines


def startup(figures: dict[str, Any]) -> list[str]:
    """Section on start-up."""
    lines = ["## Start-up", "", "| command | seconds | spread |", "|---|---|---|"]
    for row in figures["rows"]:
        lines.append(f"| `{row['name']}` | {row['median']:.3f} | {row['low']:.3f} to {row['high']:.3f} |")
    return lines


def main() -> None:
    folder = Path(sys.argv[1])
    found: dict[str, dict[str, Any]] = {}
    for name in ("peers", "own", "scaling", "replay", "routing", "guard", "flat", "startup"):
        path = folder / f"{name}.json"
        if path.is_file():
            found[name] = json.loads(path.read_text(encoding="utf-8"))
    tools = found.get("peers") or found.get("own")
    parts = [HEAD]
    promised = targets(tools["rows"] if tools else [], found)
    if promised:
        parts.append("\n".join(promised) + "\n")
    if tools:
        parts.append("\n".join(peers(tools)) + "\n")
    for section in (scaling, replay, routing, guard, flat, startup):
        if section.__name__ in found:
            parts.append("\n".join(section(found[section.__name__])) + "\n")
    Path(sys.argv[2]).write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
