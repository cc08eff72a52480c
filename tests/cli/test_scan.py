from __future__ import annotations

import json
import shutil
import weakref
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.builders import tiny_chat
from tests.cli.conftest import Ground, Run
from tests.engines.standin import standing_in
from tests.guard.export.made import random_guard
from undertow import load
from undertow.cli.guards import open_guard
from undertow.guard import LatentGuard, ScanResult
from undertow.guard.export import export_classifier
from undertow.guard.scan import scan
from undertow.prompts import PromptSet


def test_rows_are_the_guards_verdicts(ground: Ground, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    outcome = run("scan", ground.guard, ground.both, "-o", output, "--limit", 90, "--include-prompts", "--json")
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    prompts = PromptSet.read(ground.both)[:90]
    verdicts = LatentGuard.from_pretrained(ground.guard, model=load(ground.model))(prompts)
    assert [row["prompt"] for row in rows] == prompts.texts
    assert [row["flagged"] for row in rows] == [verdict.flagged for verdict in verdicts]
    scores = [verdict.harmfulness for verdict in verdicts]
    assert [row["harmfulness"] for row in rows] == pytest.approx(scores, abs=1e-3)
    assert outcome.json["rows"] == 90 and outcome.json["resumed"] == 0
    assert outcome.json["quadrants"] == dict(Counter(row["quadrant"] for row in rows))
    assert outcome.json["flagged"] == sum(row["flagged"] for row in rows)


def test_the_table_counts_by_quadrant(ground: Ground, run: Run, tmp_path: Path) -> None:
    outcome = run("scan", ground.guard, ground.both, "-o", tmp_path / "out.jsonl", "--limit", 70)
    assert outcome.code == 0 and "70 prompts" in outcome.out
    for name in ("harmful, refused", "harmful, about to be answered", "harmless, answered", "flagged as harmful"):
        assert name in outcome.out


def test_a_finished_scan_stays_and_an_unfinished_one_goes_on(ground: Ground, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    arguments = ("scan", ground.guard, ground.both, "-o", output, "--limit", 150, "--json")
    assert run(*arguments).code == 0
    whole = output.read_bytes()
    assert run(*arguments).json["resumed"] == 150
    manifest = tmp_path / "out.jsonl.scan.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"finished": False}))
    output.write_bytes(b"".join(whole.splitlines(keepends=True)[:77]) + b'{"row": 77, "torn')
    again = run(*arguments, "--batch-size", 7)
    assert again.code == 0 and 0 < again.json["resumed"] <= 77
    assert output.read_bytes() == whole


def test_parquet_holds_the_same_rows(ground: Ground, run: Run, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("out.jsonl", "out.parquet"):
        assert run("scan", ground.guard, ground.both, "-o", tmp_path / name, "--limit", 70).code == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == rows


def test_another_scan_in_the_same_place_needs_overwrite(ground: Ground, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert run("scan", ground.guard, ground.harmful, "-o", output, "--limit", 5).code == 0
    before = output.read_bytes()
    refused = run("scan", ground.guard, ground.harmless, "-o", output, "--limit", 5)
    assert refused.code == 2 and output.read_bytes() == before
    assert run("scan", ground.guard, ground.harmless, "-o", output, "--limit", 5, "--overwrite").code == 0
    assert output.read_bytes() != before


def test_force_accepts_another_model_and_says_so(ground: Ground, run: Run, tmp_path: Path) -> None:
    guard = tmp_path / "guard"
    shutil.copytree(ground.guard, guard)
    values = json.loads((guard / "guard.json").read_text())
    values["model"]["identity"]["template_hash"] = "0" * 24
    (guard / "guard.json").write_text(json.dumps(values))
    arguments = ("scan", guard, ground.both, "-o", tmp_path / "out.jsonl", "--limit", 5, "--json")
    refused = run(*arguments)
    assert refused.code == 2 and "chat template" in refused.err
    forced = run(*arguments, "--force")
    assert forced.code == 0 and "chat template" in forced.json["warnings"][0]


def test_the_model_can_be_named(ground: Ground, run: Run, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(ground.model, moved)
    outcome = run(
        "scan", ground.guard, ground.both, "-o", tmp_path / "out.jsonl", "--limit", 5, "--model", moved, "--json",
        "--device", "cpu", "--dtype", "float32",
    )  # fmt: skip
    assert outcome.code == 0 and outcome.json["warnings"] == []


def test_a_server_is_asked(ground: Ground, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    arguments = ("scan", "-", ground.both, "-o", output, "--limit", 50, "--engine", "openai", "--base-url")
    with standing_in() as server:
        server.key = "secret"
        refused = run(*arguments, server.url)
        assert refused.code == 2 and "refuses the key" in refused.err and not output.exists()
        outcome = run(*arguments, server.url, "--api-key", "secret", "--json")
        assert outcome.code == 0, outcome.err
        table = run(*arguments, server.url, "--api-key", "secret")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["harmfulness"] for row in rows] == [len(prompt.text) for prompt in PromptSet.read(ground.both)[:50]]
    assert outcome.json["guard"] == f"server:{'f' * 64}" and outcome.json["rows"] == 50
    assert "50 of these rows were there already" in table.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--engine", "spark"), "'spark' is not one of"),
        (("--workers", 2), "--workers is for --engine ray"),
        (("--ray-address", "auto", "--engine", "openai"), "--ray-address is for --engine ray"),
        (("--base-url", "http://127.0.0.1:1"), "--base-url is for --engine openai"),
        (("--api-key", "x", "--engine", "ray"), "--api-key is for --engine openai"),
        (("--batch-size", 8, "--engine", "ray"), "--batch-size is not for --engine ray"),
        (("--engine", "openai"), "add --base-url"),
        (("--engine", "openai", "--base-url", "http://127.0.0.1:1"), "write - in its place"),
        (("--engine", "openai", "--base-url", "http://127.0.0.1:1", "--force"), "--force says how a model is loaded"),
        (("--engine", "vllm", "--trust-remote-code"), "--trust-remote-code says how a model is loaded"),
        (("--engine", "vllm", "--no-thinking"), "--no-thinking says how a model is loaded"),
        (("--engine", "vllm", "--device", "auto"), "--device says how a model is loaded"),
    ],
)
def test_flags_that_an_engine_has_no_use_for_are_refused(
    ground: Ground, run: Run, tmp_path: Path, flags: tuple, words: str
) -> None:
    outcome = run("scan", ground.guard, ground.both, "-o", tmp_path / "out.jsonl", *flags)
    assert outcome.code == 2 and words in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [("out.csv", "ends in neither"), ("missing/out.jsonl", "does not exist"), ("", "ends in neither")],
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_read_or_loaded(
    ground: Ground, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    for work in ("open_guard", "read_through"):
        monkeypatch.setattr(f"undertow.cli.scan.{work}", lambda *_, **__: pytest.fail("too late"))
    outcome = run("scan", ground.guard, ground.both, "-o", tmp_path / name)
    assert outcome.code == 2 and words in outcome.err


def test_rays_driver_lets_go_of_the_guard_and_workers_are_told_whole_paths(
    ground: Ground, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, output = tmp_path / "guard", tmp_path / "out.jsonl"
    shutil.copytree(ground.guard, guard)
    values = json.loads((guard / "guard.json").read_text())
    values["model"]["name"] = values["model"]["identity"]["name"] = ground.model.name
    (guard / "guard.json").write_text(json.dumps(values))
    opened: list[weakref.ref[LatentGuard]] = []

    def watched(*arguments: Any, **options: Any) -> LatentGuard:
        found = open_guard(*arguments, **options)
        opened.append(weakref.ref(found))
        return found

    def on_a_worker(guard: Any, source: Any, output: Any, **options: Any) -> ScanResult:
        assert [reference() for reference in opened] == [None], "the driver still holds the guard"
        monkeypatch.chdir(tmp_path)
        own = options["open_guard"]()
        assert (guard.fingerprint, guard.has_refusal) == (own.fingerprint, own.refusal is not None)
        return scan(own, source, output, limit=options["limit"], progress=False)

    monkeypatch.setattr("undertow.cli.scan.open_guard", watched)
    monkeypatch.setattr("undertow.engines.ray.scan_with_ray", on_a_worker)
    monkeypatch.chdir(ground.model.parent)
    outcome = run("scan", guard, ground.both, "-o", output, "--engine", "ray", "--limit", 70, "--json")
    assert outcome.code == 0, outcome.err
    assert len(output.read_bytes().splitlines()) == 70 and outcome.json["rows"] == 70


def test_without_ray_nothing_is_loaded(
    ground: Ground, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertow.engines.ray.find_spec", lambda name: None)
    monkeypatch.setattr("undertow.cli.scan.open_guard", lambda *_, **__: pytest.fail("too late"))
    outcome = run("scan", ground.guard, ground.both, "-o", tmp_path / "out.jsonl", "--engine", "ray")
    assert outcome.code == 2 and "install undertow[ray]" in outcome.err


def test_a_guard_of_the_server_needs_a_server(ground: Ground, run: Run, tmp_path: Path) -> None:
    outcome = run("scan", "-", ground.both, "-o", tmp_path / "out.jsonl")
    assert outcome.code == 2 and "--engine openai" in outcome.err


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_nothing_is_begun(ground: Ground, run: Run, tmp_path: Path) -> None:
    export = export_classifier(random_guard(tiny_chat("llama")), tmp_path / "export", progress=False).path
    outcome = run("scan", export, ground.both, "-o", tmp_path / "out.jsonl", "--engine", "vllm")
    assert outcome.code == 2 and "needs vllm" in outcome.err
    assert list(tmp_path.iterdir()) == [export], "no note of a version that is not there"


def test_vllm_reads_exports_only(ground: Ground, run: Run, tmp_path: Path) -> None:
    outcome = run("scan", ground.guard, ground.both, "-o", tmp_path / "out.jsonl", "--engine", "vllm")
    assert outcome.code == 2 and len(outcome.err.strip().splitlines()) == 1
