"""The estimate for a billion prompts against sums done by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cost import EIGHT
from benchmarks.plan import Assumptions, Host, Plan, text_of

ROOT = Path(__file__).parents[2]
HOST = Host(rendering=0.0005, reading=0.00005, merging=0.0001, row_bytes=160.0)


def test_sums_by_hand() -> None:
    plan = Plan(Assumptions(), HOST)
    block = 4096 * (2 * 4096 + 2 * 1024 + 3 * 12_288)
    operations = 18 * (2 * block * 128 + 4 * 4096 * 128**2)
    assert plan.operations == operations == EIGHT.forward(128, 0) // 2
    seconds = operations / (0.4 * 989e12) + 0.0005
    assert plan.seconds == pytest.approx(seconds)
    assert plan.hours == pytest.approx(1e9 * seconds / 3600)
    losses = plan.hours / 5000
    assert plan.dollars == pytest.approx(2.5 * (plan.hours + losses * (64 * seconds + 120) / 3600))
    assert plan.days == pytest.approx(plan.dollars / 2.5 / 64 / 24)
    assert plan.most_workers == int(seconds * 1700)
    assert Plan(Assumptions(carried=1e9), HOST).most_workers == int(seconds / 0.0001)


def test_every_figure_of_the_text_follows_its_assumption() -> None:
    text = text_of(Plan(Assumptions(prompts=1_000, gpus=2, price=3.0, state=36), HOST))
    assert "1,000 x" in text and "on 2 GPUs" in text and "$3.00" in text and "16 parts" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    as_above, deepest = rows[0], rows[1]
    assert as_above[1:] == deepest[1:], "all blocks run already"
    longer = Plan(Assumptions(tokens=512), HOST)
    assert f"{1 / longer.seconds:,.0f}" in text_of(Plan(Assumptions(), HOST))


def test_the_script_writes_its_block_and_nothing_else(tmp_path: Path) -> None:
    case = {"host_seconds": 0.0005, "read_seconds": 0.00005, "merge_seconds": 0.0001, "bytes_a_row": 160.0}
    (tmp_path / "engines.json").write_text(json.dumps({"cases": [case, case, case]}))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- plan: here -->\nold\n<!-- end of plan -->\nafter\n")
    command = [sys.executable, str(ROOT / "benchmarks/plan.py"), str(tmp_path / "engines.json"), "--write", str(page)]
    subprocess.run([*command, "--gpus", "8"], check=True, capture_output=True, cwd=tmp_path)
    expected = text_of(Plan(Assumptions(gpus=8), HOST))
    assert page.read_text() == f"before\n<!-- plan: here -->\n{expected}\n<!-- end of plan -->\nafter\n"
