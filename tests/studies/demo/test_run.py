from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from undertow.errors import UndertowError
from undertow.guard import LatentGuard
from undertow.studies.demo import DemoResult
from undertow.studies.demo import run as module
from undertow.studies.demo.run import check_output, measure_demo, run_demo


class SmallPage:
    def __init__(self, result: DemoResult) -> None:
        self.name = result.guard.identity.name

    def html(self) -> str:
        return f"<p>{self.name}</p>"

    def figure_data(self) -> dict[str, Any]:
        return {"small": {"one": 1}}


@pytest.fixture
def quick(result: DemoResult, monkeypatch: pytest.MonkeyPatch) -> DemoResult:
    """The measuring replaced by what was measured before."""
    monkeypatch.setattr(module, "measure_demo", lambda *arguments, **options: result)
    return result


def test_three_parts_are_written_and_nothing_beside_them(folder: Path):
    assert {path.name for path in folder.iterdir()} == {"findings.json", "report.html", "guard"}
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]
    run = json.loads((folder / "findings.json").read_text())["run"]
    assert run["model"] == "organism:aligned"
    assert run["seconds"] > 0


def test_the_saved_guard_gives_the_same_verdicts(result: DemoResult, folder: Path):
    guard = LatentGuard.from_pretrained(folder / "guard", model=result.guard.model)
    for kind in ("bare", "suffix", "look-alike"):
        verdicts = guard(result.cell(kind).observed.prompts)
        for mine, theirs in zip(result.verdicts[kind], verdicts, strict=True):
            assert mine.harmfulness == pytest.approx(theirs.harmfulness, abs=1e-3)
            assert (mine.flagged, mine.quadrant, mine.id) == (theirs.flagged, theirs.quadrant, theirs.id)


def test_figures_stand_in_the_findings(quick: DemoResult, tmp_path: Path):
    run_demo(output=tmp_path / "new", page=SmallPage, progress=False)
    content = json.loads((tmp_path / "new" / "findings.json").read_text())
    assert content["figures"] == {"small": {"one": 1}}
    assert (tmp_path / "new" / "report.html").read_text() == "<p>organism:aligned</p>"


def test_an_output_is_replaced_only_when_told_and_strangers_stay(quick: DemoResult, tmp_path: Path):
    target = tmp_path / "demo"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UndertowError, match="overwrite"):
        run_demo(output=target, progress=False)
    assert [path.name for path in target.iterdir()] == ["notes.txt"]
    for _ in range(2):
        run_demo(output=target, overwrite=True, progress=False, page=SmallPage)
        assert {path.name for path in target.iterdir()} == {"notes.txt", "findings.json", "report.html", "guard"}
    assert (target / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_what_is_in_the_way_is_refused_before_any_work(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UndertowError, match="is a file"):
        check_output(file, True)
    (tmp_path / "demo" / "guard").mkdir(parents=True)
    (tmp_path / "demo" / "guard" / "dog.txt").write_text("")
    with pytest.raises(UndertowError, match="not a guard"):
        check_output(tmp_path / "demo", True)
    with pytest.raises(UndertowError, match="at least 20"):
        measure_demo(n=3, progress=False)


@pytest.mark.parametrize("broken", ["page", "html", "findings", "guard"])
def test_nothing_is_half_written(quick: DemoResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str):
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("midway")

    page: Any = SmallPage
    if broken == "page":
        page = fail
    elif broken == "html":
        monkeypatch.setattr(SmallPage, "html", fail)
    elif broken == "findings":
        monkeypatch.setattr(module, "write_findings", fail)
    else:
        monkeypatch.setattr(LatentGuard, "save_pretrained", fail)
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "findings.json").write_text("old")
    for target, options in ((tmp_path / "new", {}), (earlier, {"overwrite": True})):
        with pytest.raises(RuntimeError, match="midway"):
            run_demo(output=target, page=page, progress=False, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]
    assert [path.name for path in earlier.iterdir()] == ["findings.json"]
    assert (earlier / "findings.json").read_text() == "old"


def test_a_guard_without_a_direction_is_still_reported(result: DemoResult):
    from undertow.studies.demo.acting import act
    from undertow.studies.demo.findings import findings_of
    from undertow.studies.demo.kinds import fit_prompts

    plain = LatentGuard(result.guard.model, result.guard.identity, result.guard.harmfulness, None)
    acting = act(plain, fit_prompts(20, 0), result.cells, 0)
    assert acting.steering == () and [rate.key for rate in acting.guarded] == ["refuse_stops"]
    again = findings_of(replace(result, acting=acting))
    assert again.finding("guard.steer_stops") is None
    assert again.finding("guard.jailbroken_recall") == result.finding("guard.jailbroken_recall")
