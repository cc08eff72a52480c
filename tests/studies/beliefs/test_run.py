from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.report.beliefs.made import full_result
from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.measure.finding import read_findings_file
from undertow.measure.judge import SubstringJudge
from undertow.prompts.wrapping import STUDY_FAMILIES
from undertow.report.beliefs.page import beliefs_page
from undertow.studies.beliefs import material, suffix_library
from undertow.studies.beliefs.context import Panel
from undertow.studies.beliefs.result import BeliefsResult
from undertow.studies.beliefs.run import measure_beliefs, run_beliefs

MEASURES = {
    "sorting": "sorting.measure_sorting",
    "separation": "separation.measure_separation",
    "belief_map": "separation.measure_belief_map",
    "directions": "directions.measure_directions",
    "sweep": "sweep.measure_sweep",
    "inversion": "inversion.measure_inversion",
    "jailbreaks": "jailbreaks.measure_jailbreaks",
    "guards": "guards.measure_guards",
    "attacks": "attacks.measure_attacks",
    "over_refusal": "over_refusal.measure_over_refusal",
}
ROOM = "undertow.studies.beliefs"
NO_ATTACKS = "There is no attack today because the test says so."


@dataclass(frozen=True)
class Ran:
    result: BeliefsResult
    folder: Path
    seconds: float


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """One small study, real but for its attacks, which are impossible."""
    folder = tmp_path_factory.mktemp("study") / "deep" / "beliefs"
    threads = torch.get_num_threads()

    def impossible(context: Any) -> Any:
        raise UndertowError(NO_ATTACKS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{ROOM}.material.prepare", partial(material.prepare, most=12))
        patch.setattr(f"{ROOM}.attacks.measure_attacks", impossible)
        for name in ("inversion", "dissociation", "sweep"):
            patch.setattr(f"{ROOM}.{name}.swept_states", lambda layers: (2, 3))
        patch.setattr(f"{ROOM}.dissociation.RESAMPLES", 100)
        patch.setattr(f"{ROOM}.dissociation.RANDOM_DIRECTIONS", 3)
        patch.setattr(f"{ROOM}.dissociation.COEFFICIENTS", (0.0, 1.0, 2.0))
        for name, values in (("inversion", (0.0, 2.0)), ("sweep", (1.0,))):
            patch.setattr(f"{ROOM}.{name}.COEFFICIENTS", values)
        torch.set_num_threads(1)
        begun = time.perf_counter()
        chat = small_context().chat
        found = run_beliefs(chat, folder, most=24, seed=3, progress=False, page=beliefs_page)
        torch.set_num_threads(threads)
        yield Ran(found, folder, time.perf_counter() - begun)


def test_both_files_are_written_and_say_what_was_found(ran: Ran) -> None:
    assert sorted(path.name for path in ran.folder.iterdir()) == ["findings.json", "report.html"]
    written = read_findings_file(ran.folder / "findings.json")
    assert tuple(written.findings) == ran.result.findings and len(written.findings) > 20
    assert written.rules == {name: rule.sentence for name, rule in ran.result.rules.items()}
    for finding in written.findings:
        rule = ran.result.rules.get(finding.id)
        expected = "not tested" if rule is None else rule.verdict(finding.value, finding.low, finding.high)
        assert finding.verdict == expected
    page = beliefs_page(ran.result)
    assert set(written.figures) == {figure.name for figure in page.figures} and len(written.figures) > 20
    html = (ran.folder / "report.html").read_text(encoding="utf-8")
    assert html.lower().startswith("<!doctype html>") and "beliefs.double_dissociation" in html


def test_nine_parts_are_measured_and_the_tenth_says_why_not(ran: Ran) -> None:
    assert dict(ran.result.skipped) == {"attacks": NO_ATTACKS}
    assert ran.result.attacks == ()
    assert all(getattr(ran.result, name) is not None for name in MEASURES if name != "attacks")
    assert ran.result.inversion is not None and ran.result.inversion.dissociation is not None
    written = json.loads((ran.folder / "findings.json").read_text(encoding="utf-8"))
    assert written["run"]["skipped"] == {"attacks": NO_ATTACKS}
    assert NO_ATTACKS in (ran.folder / "report.html").read_text(encoding="utf-8")


def test_the_run_is_recorded(ran: Ran) -> None:
    about = ran.result.run
    assert (about["seed"], about["judge"], about["dtype"]) == (3, "substring", "float32")
    assert about["model"] == ran.result.identity.name and about["prompts"] == "the built-in prompts"
    # 24 bare prompts of each class in each half; half of the fit ones are wrapped too, the test ones in every family.
    assert about["fit_prompts"] == 24 * 2 * 3 / 2
    assert about["test_prompts"] == 24 * 2 * (1 + len(STUDY_FAMILIES))
    assert sum(ran.result.sorting.counts.values()) == about["test_prompts"]
    assert set(about["seconds_by_part"]) == {"replies and states", *MEASURES}
    assert sum(about["seconds_by_part"].values()) <= about["seconds"] + 1 <= ran.seconds + 2
    json.dumps(about, allow_nan=False)


def test_few_prompts_of_a_kind_are_said_to_be_few(ran: Ran) -> None:
    few = {name: count for name, count in ran.result.sorting.counts.items() if count < 30}
    assert len(ran.result.notes) == len(few.keys() & {"accepted harmful", "refused harmless"})
    if "refused harmless" in few:
        assert any(f"only {few['refused harmless']} harmless prompts that the model refuses" in one
                   for one in ran.result.notes)  # fmt: skip


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every part is made up, the context is the small one, and what was called is noted."""
    calls: list[str] = []
    made = full_result()

    def part(name: str) -> Any:
        def measure(context: Any, **options: Any) -> Any:
            calls.append(name)
            return getattr(made, name)

        return measure

    def prepare(chat: Any, material: Any, **options: Any) -> Any:
        calls.append("prepare")
        return replace(small_context(), judge=options["judge"] or SubstringJudge(), seed=options["seed"])

    monkeypatch.setattr(f"{ROOM}.material.prepare", prepare)
    for name, place in MEASURES.items():
        monkeypatch.setattr(f"{ROOM}.{place}", part(name))
    return calls


def test_parts_are_measured_once_in_the_order_of_the_report(called: list[str]) -> None:
    found = measure_beliefs(small_context().chat, progress=False)
    assert called == ["prepare", *MEASURES]
    assert all(getattr(found, name) is getattr(full_result(), name) for name in MEASURES)
    assert found.skipped == {} and found.findings and found.finding("beliefs.finetuning.refused") is not None


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "sorting"])
def test_a_part_that_is_impossible_leaves_its_sentence(
    name: str, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def impossible(context: Any, **_: Any) -> Any:
        raise UndertowError(f"No {name} here.")

    monkeypatch.setattr(f"{ROOM}.{MEASURES[name]}", impossible)
    found = measure_beliefs(small_context().chat, progress=False)
    assert found.skipped == {name: f"No {name} here."} and not getattr(found, name)
    assert len(called) == len(MEASURES)


def test_without_sorting_there_is_no_study(called: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def impossible(context: Any) -> Any:
        raise UndertowError("Nothing can be sorted.")

    monkeypatch.setattr(f"{ROOM}.{MEASURES['sorting']}", impossible)
    with pytest.raises(UndertowError, match=r"^Nothing can be sorted\.$"):
        run_beliefs(small_context().chat, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_other_errors_are_not_hidden(called: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(context: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(f"{ROOM}.{MEASURES['sweep']}", broken)
    with pytest.raises(ZeroDivisionError):
        measure_beliefs(small_context().chat, progress=False)


@pytest.mark.parametrize("name", ["findings.json", "report.html"])
def test_what_exists_is_refused_before_anything_is_measured(name: str, called: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UndertowError, match="exists already"):
        run_beliefs(small_context().chat, tmp_path, progress=False, page=beliefs_page)
    assert called == [] and [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    run_beliefs(small_context().chat, tmp_path, progress=False, page=beliefs_page, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["findings.json", "report.html"]
    assert (tmp_path / name).read_text() != "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(called: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UndertowError, match="exists already"):
        run_beliefs(small_context().chat, tmp_path / "out", progress=False, overwrite=True)
    assert called == []


def test_a_report_that_fails_leaves_nothing_behind(called: list[str], tmp_path: Path) -> None:
    def page(result: BeliefsResult) -> Any:
        raise UndertowError("There is no ink.")

    with pytest.raises(UndertowError, match="no ink"):
        run_beliefs(small_context().chat, tmp_path / "out", progress=False, page=page)
    assert not (tmp_path / "out").exists()


def test_without_a_page_only_findings_are_written(called: list[str], tmp_path: Path) -> None:
    run_beliefs(small_context().chat, tmp_path / "out", progress=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["findings.json"]
    assert read_findings_file(tmp_path / "out" / "findings.json").figures == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"harmful": ["Some request."]}, "together"),
        ({"judge": "mildred"}, "There is no judge 'mildred'"),
        ({"baselines": ["mildred:one"]}, "There is no outside guard 'mildred:one'"),
        ({"harmful": ["One."], "harmless": ["Two."]}, "needs 20"),
        ({"jailbreaks": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_loaded(
    options: dict[str, Any], says: str, called: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("undertow.model.load", lambda name: called.append(f"load {name}"))
    with pytest.raises(UndertowError, match=says) as refusal:
        run_beliefs("some/model", tmp_path / "out", progress=False, **options)
    assert "\n" not in str(refusal.value) and called == [] and not (tmp_path / "out").exists()


def test_a_search_without_its_library_is_refused_first(
    called: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(suffix_library, "LIBRARY", "no_such_library_at_all")
    with pytest.raises(UndertowError, match="no_such_library_at_all"):
        run_beliefs("some/model", tmp_path / "out", gcg=1, progress=False)
    assert called == [] and not (tmp_path / "out").exists()


def test_the_search_runs_only_when_asked_for(called: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    made = full_result().jailbreaks
    assert made is not None

    def jailbreaks(context: Any, suffixes: Any = None) -> Any:
        asked.append(suffixes)
        return replace(made, suffixes=None)

    monkeypatch.setattr(f"{ROOM}.{MEASURES['jailbreaks']}", jailbreaks)
    monkeypatch.setattr(f"{ROOM}.suffix_search.search_suffixes", lambda context, most: f"{most} searched")
    monkeypatch.setattr(f"{ROOM}.suffix_library.check_suffix_library", lambda: "1.0")
    measure_beliefs(small_context().chat, progress=False)
    measure_beliefs(small_context().chat, gcg=5, progress=False)
    assert asked == [None, "5 searched"]


def test_judges_guards_and_a_model_by_name(called: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names become objects, objects are taken as they are."""
    chat = small_context().chat
    seen: dict[str, Any] = {}

    def guards(context: Any, baselines: Any) -> Any:
        seen["baselines"] = list(baselines)
        return full_result().guards

    monkeypatch.setattr(f"{ROOM}.{MEASURES['guards']}", guards)
    monkeypatch.setattr("undertow.model.load", lambda name: seen.setdefault("loaded", name) and chat)
    monkeypatch.setattr("undertow.measure.moderator.moderator_named", lambda text: f"the guard {text}")
    judge = SubstringJudge()
    object.__setattr__(judge, "name", "mine")
    other: Any = object()
    found = measure_beliefs("some/model", judge=judge, baselines=["a:b", other], seed=9, progress=False)
    assert seen == {"loaded": "some/model", "baselines": ["the guard a:b", other]}
    assert found.run["judge"] == "mine" and found.run["seed"] == 9
    assert measure_beliefs(chat, judge="substring", progress=False).run["judge"] == "substring"


def test_what_limits_the_whole_is_noted(called: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    context = small_context()
    harmless = context.test.rows(harmful=False, refused=False)
    rows = np.concatenate([harmless, context.test.rows(harmful=True, refused=False)[:7]])
    few = replace(context, openings=None, test=Panel(context.test.observed.part(rows), np.full(len(rows), -1)))
    monkeypatch.setattr(f"{ROOM}.material.prepare", lambda *_, **__: few)
    first, second, third = measure_beliefs(context.chat, progress=False).notes
    assert "double dissociation" in first
    assert "only 7 harmful prompts that the model answers" in second
    assert "only 0 harmless prompts that the model refuses" in third
