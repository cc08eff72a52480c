from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.report.beliefs.made import full_result
from undertow.measure.finding import write_findings


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The measuring replaced by a made-up result; what was asked for is noted."""
    seen: dict[str, Any] = {}

    def run_beliefs(model: Any, output: Path, **options: Any) -> Any:
        seen.update(options, model=model)
        result = full_result()
        page = options["page"](result)
        write_findings(Path(output) / "findings.json", result.findings, figures=page.figure_data())
        page.write(Path(output) / "report.html")
        return result

    fake = ModuleType("undertow.studies.beliefs.run")
    fake.run_beliefs = run_beliefs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "undertow.studies.beliefs.run", fake)
    return seen


def test_it_prints_one_screen_and_passes_its_flags_on(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    done = run(
        "study", "beliefs", "organism:aligned", "-o", tmp_path / "out", "--seed", 7, "--prompts", 50,
        "--harmful", "a.csv", "--harmless", "b.csv", "--jailbreaks", "c.csv", "--gcg", 4, "--judge", "substring",
        "--baseline", "kind:one", "--baseline", "kind:two", "--reply-tokens", 24,
    )  # fmt: skip
    assert done.code == 0, done.err
    passed = {key: value for key, value in asked.items() if key not in ("model", "page")}
    assert passed == {
        "harmful": "a.csv", "harmless": "b.csv", "jailbreaks": "c.csv", "judge": "substring",
        "baselines": ("kind:one", "kind:two"), "gcg": 4, "seed": 7, "most": 50, "reply_tokens": 24, "overwrite": False,
        "progress": True,
    }  # fmt: skip
    assert asked["model"].name == "organism:aligned"
    assert "beliefs.double_dissociation" in done.out and "report.html" in done.out
    assert len(done.out.splitlines()) < 50


def test_json_and_nothing_else(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    done = run("study", "beliefs", "-o", tmp_path / "out", "--json")
    assert done.code == 0
    assert {finding["id"] for finding in done.json["findings"]} >= {"beliefs.double_dissociation"}
    assert done.json["figures"] == [] and asked["progress"] is False


def test_an_existing_output_is_refused_before_anything_runs(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "keep.txt").write_text("mine")
    done = run("study", "beliefs", "-o", tmp_path / "out")
    assert done.code == 2 and "--overwrite" in done.err and not asked
    assert run("study", "beliefs", "-o", tmp_path / "out", "--overwrite").code == 0


def test_one_class_alone_is_refused(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    done = run("study", "beliefs", "-o", tmp_path / "out", "--harmful", "a.csv")
    assert done.code == 2 and "--harmless together" in done.err and not asked
    assert not (tmp_path / "out").exists()


def test_figures_that_cannot_be_drawn_are_refused_before_anything_runs(
    run: Any, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("study", "beliefs", "-o", tmp_path / "out", "--figures", "gif")
    assert done.code == 2 and "png or svg" in done.err and not asked
    monkeypatch.setattr("undertow.report.export.find_spec", lambda name: None)
    done = run("study", "beliefs", "-o", tmp_path / "out", "--figures", "png")
    assert done.code == 2 and "undertow[figures]" in done.err and done.err.count("\n") == 1 and not asked


def test_figures_are_written_beside_the_report(
    run: Any, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def draw(report: Any, folder: Path, form: str) -> list[Path]:
        drawn.append((len(report.figures), folder, form))
        return [folder / "belief-map.svg"]

    monkeypatch.setattr("undertow.report.export.check_export", lambda form: None)
    monkeypatch.setattr("undertow.report.export.export_figures", draw)
    done = run("study", "beliefs", "-o", tmp_path / "out", "--figures", "svg")
    assert done.code == 0 and "1 figures in" in " ".join(done.out.split())
    assert drawn[0][0] >= 30 and drawn[0][1:] == (tmp_path / "out" / "figures", "svg")


def test_prompts_are_shown_only_when_asked_for(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    from tests.report.beliefs.made import HARMFUL_TEXT

    for flags, shown in (((), False), (("--show-prompts",), True)):
        assert run("study", "beliefs", "-o", tmp_path / str(shown), *flags).code == 0
        text = (tmp_path / str(shown) / "report.html").read_text(encoding="utf-8")
        assert (HARMFUL_TEXT in text) is shown


def test_without_a_study_the_help_lists_them(run: Any) -> None:
    done = run("study")
    assert done.code == 0 and "beliefs" in done.out
    assert "--json" in run("study", "beliefs", "--help").out


REFUSED = [
    (("--harmful", "a.csv"), "--harmless together"),
    (("--harmless", "a.csv"), "--harmless together"),
    (("--judge", "mildred"), "There is no judge 'mildred'"),
    (("--judge", "endpoint:somewhere"), "There is no judge"),
    (("--baseline", "mildred:one"), "There is no outside guard 'mildred:one'"),
    (("--baseline", "substring"), "There is no outside guard 'substring'"),
    (("--gcg", "1"), "no_such_library"),
    (("--prompts", "19"), "--prompts"),
    (("--harmful", "nowhere.csv", "--harmless", "nowhere.csv"), "nowhere.csv"),
    (("--jailbreaks", "nowhere.csv"), "nowhere.csv"),
]


@pytest.mark.parametrize(("flags", "says"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_bad_input_ends_in_one_sentence_with_nothing_written_or_measured(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], says: str
) -> None:
    """The real study, as far as it gets: no reply is made before everything is known to work."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("The model was run.")

    monkeypatch.setattr("undertow.studies.beliefs.suffix_library.LIBRARY", "no_such_library")
    monkeypatch.setattr("undertow.studies.beliefs.material.observe_replies", never)
    monkeypatch.chdir(tmp_path)
    done = run("study", "beliefs", "-o", tmp_path / "out", *flags)
    assert done.code == 2 and says in " ".join(done.err.split()), done.err
    assert done.out == "" and "Traceback" not in done.err and done.err.strip().count("\n") == 0, done.err
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_breaks_off_writes_nothing(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from undertow.errors import UndertowError

    def reasoning(*_: Any, **__: Any) -> None:
        raise UndertowError("All replies are still reasoning.")

    monkeypatch.setattr("undertow.studies.beliefs.material.prepare", reasoning)
    done = run("study", "beliefs", "-o", tmp_path / "out", "--json")
    assert done.code == 2 and "All replies are still reasoning." in done.err and done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_of_the_output_stays(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for output in ("file", "file/out"):
        done = run("study", "beliefs", "-o", tmp_path / output, "--overwrite")
        assert done.code == 2 and done.err.strip().count("\n") == 0 and not asked
    assert (tmp_path / "file").read_text() == "mine"
