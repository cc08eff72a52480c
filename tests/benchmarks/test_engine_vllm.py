"""The comparison with vLLM: its two ways without it agree, a difference is found, and its table is written."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import engine_vllm
from tests.builders import PROMPTS, tiny_chat
from tests.guard.export.made import random_guard
from undertow.guard.export import export_classifier

ARGUMENTS = Namespace(repeats=1, threads=1)


@pytest.mark.parametrize(("shift", "holds"), [(0.0, True), (5e-5, True), (2e-4, False)])
def test_a_difference_in_one_probability_is_found(
    shift: float, holds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = random_guard(tiny_chat("llama"))
    export = export_classifier(guard, tmp_path / "out", progress=False).path
    texts = PROMPTS * 8

    def stand_in(python: Path, folder: Path, given: list[str], repeats: int, threads: int) -> dict[str, Any]:
        found = engine_vllm.with_transformers(folder, given, repeats)
        found["probabilities"][3] += shift
        return found | {"version": "0.0"}

    monkeypatch.setattr(engine_vllm, "with_vllm", stand_in)
    row = engine_vllm.compare("tiny", Path("python"), export, guard, texts, ARGUMENTS)
    assert row["holds"] is holds and row["vllm"]["difference"] == pytest.approx(shift, abs=1e-9)
    assert row["undertow"]["difference"] < 1e-5 and row["transformers"]["of_transformers"] == 1
    assert row["prompts"] == 40 and all(row[way]["prompts_a_second"] > 0 for way in ("undertow", "vllm"))


def test_the_table_goes_between_the_marks(tmp_path: Path) -> None:
    found = {"difference": 6.6e-7, "prompts_a_second": 1234.5, "of_transformers": 1.5}
    row = {"name": "a model", "prompts": 500, "tokens": 18.2, "version": "1.2"}
    text = engine_vllm.table([row | dict.fromkeys(("transformers", "undertow", "vllm"), found)], 1)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- vllm: how -->\nold\n<!-- end of vllm -->\nafter\n")
    engine_vllm.write_table(page, text)
    written = page.read_text()
    assert "old" not in written and written.startswith("before\n<!-- vllm: how -->\n| model |")
    assert "| a model, 500 prompts of 18 tokens | vLLM 1.2, the export | 1,234 | 1.50x | 6.6e-07 |" in written
    assert "1 thread, from text to score, one engine at a time." in written and written.endswith(
        "<!-- end of vllm -->\nafter\n"
    )
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="no marks"):
        engine_vllm.write_table(page, text)


def test_prompts_are_spread_over_the_built_in_set() -> None:
    texts = engine_vllm.built_in(500)
    assert len(set(texts)) == 500 and len(engine_vllm.built_in(10_000)) == 768
