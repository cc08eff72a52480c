from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.demonstrated import demonstrated
from undertow.studies.demo import run as module
from undertow.studies.demo.run import run_demo as write_demo


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The measuring replaced by a small earlier run; what was asked for is noted."""
    seen: dict[str, Any] = {}
    earlier = demonstrated()[0]

    def measure(model: Any, **options: Any) -> Any:
        seen.update(options, model=model)
        return earlier

    monkeypatch.setattr(module, "measure_demo", measure)
    return seen


def test_writes_prints_and_passes_its_flags_on(run: Any, asked: dict[str, Any], tmp_path: Path):
    assert write_demo is module.run_demo
    done = run("demo", "-o", tmp_path / "out", "--seed", 7, "--prompts", 50, "--no-open")
    assert done.code == 0
    assert (asked["seed"], asked["n"], asked["model"].name) == (7, 50, "organism:aligned")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"findings.json", "report.html", "guard"}
    assert "guard.jailbroken_recall" in done.out
    assert "report.html" in done.out


def test_json_and_nothing_else(run: Any, asked: dict[str, Any], tmp_path: Path):
    done = run("demo", "-o", tmp_path / "out", "--json")
    assert done.code == 0
    assert {finding["id"] for finding in done.json["findings"]} >= {"guard.jailbroken_recall"}
    assert done.json["run"]["model"] == "organism:aligned"


def test_an_existing_output_is_refused(run: Any, asked: dict[str, Any], tmp_path: Path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "keep.txt").write_text("mine")
    done = run("demo", "-o", target)
    assert done.code == 2
    assert "--overwrite" in done.err
    assert not asked
    assert [path.name for path in target.iterdir()] == ["keep.txt"]
    assert run("demo", "-o", target, "--overwrite", "--no-open").code == 0
    assert (target / "keep.txt").read_text() == "mine"


def test_the_browser_is_opened_only_when_asked(
    run: Any, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    run("demo", "-o", tmp_path / "one")
    assert opened == []
    run("demo", "-o", tmp_path / "two", "--open")
    assert opened == [(tmp_path / "two" / "report.html").as_uri()]
