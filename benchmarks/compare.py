"""Measure every tool on every task, each in a process of its own: ``python benchmarks/compare.py --json FILE``.

Every tool's time is divided by the bare pass timed by turns in the same process. The whole list is gone through
several times, so that a slow spell of the machine does not fall on one tool. Peak memory comes from a further process
in which every large block is given back to the system at once, so that the peak is what lives and not what malloc kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import ENVIRONMENTS, failure, interpreter, stamp

PEERS = Path(__file__).resolve().parent / "peers"
sys.path.insert(0, str(PEERS))
from harness import EXACT, TASKS, TOLERANCE  # noqa: E402
from measure import tool_named  # noqa: E402

OWN = ("bare", "undertow", "transformers", "loop")
TOOLS = (*OWN, *ENVIRONMENTS)
LIMIT = 900


@dataclass
class Row:
    """One tool, one way of using it, one task.

    Attributes:
        failed: why there is no figure.
        peak: bytes above the loaded model.
        difference: from plain transformers.
        ratios, own, beside, undertow: paired ratios to the bare pass, to the tool's own plain generation, of the tool
            to Undertow and of Undertow to the bare pass in the same process.
    """

    task: str
    tool: str
    variant: str
    note: str
    failed: str | None = None
    peak: int | None = None
    difference: float | None = None
    ratios: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    undertow: list[float] = field(default_factory=list)

    def take(self, result: dict[str, Any]) -> None:
        """Add what one process found."""
        if "failed" in result:
            self.failed = self.failed or result["failed"]
            return
        self.difference = max(self.difference or 0.0, result["difference"])
        if self.difference > TOLERANCE:
            self.failed = f"differs from transformers by {self.difference:.1e}"
        for name in ("ratios", "own", "beside", "undertow"):
            getattr(self, name).extend(result.get(name, []))


def rows_of(tools: list[str], tasks: list[str]) -> Iterator[Row]:
    """Every row of the tables, before anything is measured."""
    for task in tasks:
        for name in tools:
            tool = tool_named(name)
            if task in tool.ABSENT:
                yield Row(task, name, "", "", failed=tool.ABSENT[task])
                continue
            for variant in tool.VARIANTS[task]:
                missing = None
                if name in ENVIRONMENTS and not stamp(name).is_file():
                    missing = f"not installed: {failure(name) or 'run make bench-peers'}"
                yield Row(task, name, variant, tool.NOTES.get(task, ""), failed=missing)


def process(row: Row, arguments: argparse.Namespace, repeats: int) -> dict[str, Any]:
    """Run one measurement; repeats 0 measures memory."""
    python = interpreter(row.tool) if row.tool in ENVIRONMENTS else Path(sys.executable)
    extra = EXACT if repeats == 0 else {}
    # The tools are given a folder; whatever asks the Hub all the same should fail at once.
    surroundings = {**os.environ, **extra, "OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "result.json"
        command = [str(python), str(PEERS / "measure.py"), row.tool, row.task, str(arguments.material)]
        command += ["--variant", row.variant, "--threads", str(arguments.threads), "--repeats", str(repeats)]
        command += ["--json", str(written)]
        if arguments.beside and row.tool in ENVIRONMENTS and ENVIRONMENTS[row.tool].beside and repeats:
            command.append("--beside")
        try:
            done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {LIMIT} s"}
        if not written.is_file():
            return {"failed": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:160]}
        found: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        return found


def versions(tools: list[str]) -> dict[str, str]:
    """What is installed in every environment."""
    found = {}
    for name in tools:
        python = interpreter(name) if name in ENVIRONMENTS else Path(sys.executable)
        packages = ["torch", "transformers", *([name] if name in ENVIRONMENTS else [])]
        code = f"import importlib.metadata as m; print(', '.join(f'{{p}} {{m.version(p)}}' for p in {packages}))"
        done = (
            subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
            if (python.exists())
            else None
        )
        found[name] = done.stdout.strip() if done and done.returncode == 0 else "not installed"
    return found


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--material", type=Path, default=Path("build/benchmarks/material"))
    flags.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS)
    flags.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    flags.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    flags.add_argument("--rounds", type=int, default=1)
    flags.add_argument("--repeats", type=int, default=4)
    flags.add_argument("--beside", action="store_true", help="time Undertow in every peer's process too")
    flags.add_argument("--keep-memory", action="store_true", help="take peak memory from the file of an earlier run")
    flags.add_argument("--add", action="store_true", help="with --keep-memory: add repeats to that run's")
    flags.add_argument("--json", type=Path, required=True)
    arguments = flags.parse_args()
    rows = list(rows_of(arguments.tools, arguments.tasks))
    figures = {
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "repeats": arguments.repeats,
        "machine": platform.machine(),
        "versions": versions(arguments.tools),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    others: list[dict[str, Any]] = []
    if arguments.keep_memory:
        before = json.loads(arguments.json.read_text(encoding="utf-8"))
        known = {(row["task"], row["tool"], row["variant"]): row for row in before["rows"]}
        for row in rows:
            found = known.pop((row.task, row.tool, row.variant))
            row.peak, row.difference, row.failed = found["peak"], found["difference"], row.failed or found["failed"]
            if arguments.add:
                row.ratios, row.own = found["ratios"], found["own"]
        if arguments.add:
            others = list(known.values())
            figures["versions"] = before["versions"]
    for current in range(1 if arguments.keep_memory else 0, arguments.rounds + 1):
        for row in rows:
            if row.failed:
                continue
            result = process(row, arguments, arguments.repeats if current else 0)
            row.take(result)
            if current == 0:
                row.peak = result.get("peak")
            ratios = sorted(row.ratios)
            shown = row.failed or (f"{ratios[len(ratios) // 2]:.3f}" if ratios else f"{(row.peak or 0) / 1e6:.1f} MB")
            print(f"{row.task:<12} {row.tool:<17} {row.variant:<36} {shown}", flush=True)
            described = {**figures, "rows": [*(vars(row) for row in rows), *others]}
            arguments.json.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
