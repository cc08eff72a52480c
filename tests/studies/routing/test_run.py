"""The frame of the study: order, what is skipped and said, what is written; its parts are made up here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.builders import tiny_chat
from tests.routed import small_context
from undertow.errors import UndertowError
from undertow.measure.judge import SubstringJudge
from undertow.model.batching import TokenBudget
from undertow.prompts.ciphers import SubstitutionCipher
from undertow.studies.routing import preparing, run
from undertow.studies.routing.preparing import Settings, batches_of, prepare_run, second_contexts
from undertow.studies.routing.run import measure_routing, notes, plan_routing, run_routing

ROOM = "undertow.studies.routing"
MEASURES = {
    "pairs": "material.summarise_pairs",
    "screening": "screening.measure_screening",
    "circuit": "circuit.measure_circuit",
    "bands": "bands.measure_bands",
    "ablation": "ablation.measure_ablation",
    "modulation": "modulation.measure_modulation",
    "commitment": "commitment.measure_commitment",
    "ciphers": "ciphers.measure_ciphers",
    "comparison": "comparison.compare_circuits",
    "built": "built.measure_built",
}
CIRCUIT = SimpleNamespace(gates=((3, 0),), amplifiers=((5, 0),), rows=(), name="circuit")


class Page:
    """A page that shows what it was given."""

    def __init__(self, result: Any) -> None:
        self.text = " ".join(result.skipped.values())

    def html(self) -> str:
        return f"<!doctype html><p>{self.text}</p>"

    def figure_data(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every part is made up, the context is the small one; calls are noted as (part, positional, named)."""
    calls: list[Any] = []

    def part(name: str) -> Any:
        def measure(*given: Any, **options: Any) -> Any:
            calls.append((name, given, options))
            return CIRCUIT if name == "circuit" else f"made {name}"

        return measure

    for name, place in MEASURES.items():
        monkeypatch.setattr(f"{ROOM}.{place}", part(name))
    monkeypatch.setattr(f"{ROOM}.findings.findings_of", lambda result: result)
    monkeypatch.setattr(run, "context_of", lambda ready: replace(small_context(), memory={}))
    return calls


def names(calls: list[Any]) -> list[str]:
    return [name for name, _, _ in calls]


def test_parts_are_measured_in_order_and_given_what_they_need(called: list[Any]) -> None:
    chat = small_context().chat
    found = measure_routing(chat, pairs_most=16, compare_with=chat, builds=3, seed=5, progress=False)
    screenings = ["screening"] * 4
    parts = ["bands", "ablation", "modulation", "commitment", "ciphers", "screening", "circuit", "comparison", "built"]
    assert names(called) == ["pairs", *screenings, "circuit", "screening", *parts]
    full_span = called[len(screenings) + 2]
    assert full_span[1][1] == "full span" and full_span[2]["heads"][:2] == ((3, 0), (5, 0))
    assert len(full_span[2]["heads"]) == 4 and not set(full_span[2]["heads"][2:]) & {(3, 0), (5, 0)}
    assert len(found.screenings) == 5 and found.circuit is CIRCUIT and found.skipped == {}
    assert (found.bands, found.built, found.comparison) == ("made bands", "made built", "made comparison")
    given = {name: (rest, options) for name, rest, options in called}
    assert called[1][1:] == ((called[1][1][0],), {}) and called[2][1][1] == "tail"
    assert {one[2]["readout"].name.split()[0] for one in called[3:5]} == {"loss", "projection"}
    assert given["bands"][0][1] == "made screening"
    assert given["ablation"][0][1:] == ("made screening", CIRCUIT, "made bands")
    assert given["modulation"][0][1] is CIRCUIT
    assert given["ciphers"][0][1:3] == (CIRCUIT, "made bands")
    assert isinstance(given["ciphers"][0][3], SubstitutionCipher) and given["ciphers"][1]["name"] == "tidal"
    assert given["built"] == ((), {"builds": 3, "seed": 5, "progress": False})
    assert given["comparison"][0][0][1:] == ("made screening", CIRCUIT)
    assert set(found.run["seconds_by_part"]) >= {"replies and states", "screening, tail", *list(MEASURES)[2:]}
    assert found.run["cipher"] == "tidal" and found.run["compared_with"] == "organism:aligned"
    json.dumps(found.run, allow_nan=False)


def test_what_was_not_asked_for_says_how_to_ask(called: list[Any]) -> None:
    found = measure_routing(small_context().chat, pairs_most=16, cipher="none", builds=0, progress=False)
    assert set(found.skipped) == {"ciphers", "comparison", "built"}
    for part, flag in (("ciphers", "--cipher"), ("comparison", "--compare-with"), ("built", "--builds")):
        assert flag in found.skipped[part] and getattr(found, part) is None and part not in names(called)


@pytest.mark.parametrize("part", ["bands", "ablation", "modulation", "commitment", "ciphers", "built"])
def test_a_part_that_is_impossible_leaves_its_sentence(
    part: str, called: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def impossible(*_: Any, **__: Any) -> Any:
        raise UndertowError(f"No {part} here.")

    monkeypatch.setattr(f"{ROOM}.{MEASURES[part]}", impossible)
    found = measure_routing(small_context().chat, pairs_most=16, builds=2, progress=False)
    assert found.skipped[part] == f"No {part} here." and getattr(found, part) is None
    assert ("ablation" in names(called)) is (part != "ablation")
    if part == "bands":
        assert next(given for name, given, _ in called if name == "ablation")[3] is None


@pytest.mark.parametrize("part", ["screening", "circuit"])
def test_without_screening_or_circuit_there_is_no_study(
    part: str, called: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def impossible(*_: Any, **__: Any) -> Any:
        raise UndertowError("Nothing can be read.")

    monkeypatch.setattr(f"{ROOM}.{MEASURES[part]}", impossible)
    with pytest.raises(UndertowError, match=r"^Nothing can be read\.$"):
        run_routing(small_context().chat, tmp_path / "out", pairs_most=16, builds=0, progress=False, page=Page)
    assert not (tmp_path / "out").exists()


def test_other_errors_are_not_hidden(called: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(f"{ROOM}.{MEASURES['bands']}", broken)
    with pytest.raises(ZeroDivisionError):
        measure_routing(small_context().chat, pairs_most=16, builds=0, progress=False)


def test_the_files_are_written_whole_or_not_at_all(called: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    options: dict[str, Any] = {"pairs_most": 16, "builds": 0, "progress": False}
    found = run_routing(small_context().chat, out, page=Page, **options)
    assert sorted(path.name for path in out.iterdir()) == ["findings.json", "report.html"]
    written = json.loads((out / "findings.json").read_text())
    assert written["run"]["skipped"] == dict(found.skipped) and written["run"]["seconds"] >= 0
    assert "--builds" in (out / "report.html").read_text()
    called.clear()
    with pytest.raises(UndertowError, match="exists already"):
        run_routing(small_context().chat, out, page=Page, **options)
    assert called == []
    (out / "findings.json").write_text("mine")
    run_routing(small_context().chat, out, page=Page, overwrite=True, **options)
    assert (out / "findings.json").read_text() != "mine"

    def no_ink(result: Any) -> Any:
        raise UndertowError("There is no ink.")

    with pytest.raises(UndertowError, match="no ink"):
        run_routing(small_context().chat, tmp_path / "none", page=no_ink, **options)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("some/model", {}, "--pairs FILE"),
        ("organism:aligned", {"readout": "mood"}, "no readout 'mood'"),
        ("organism:aligned", {"refusal_tokens": ["No"]}, "both refusals and answers"),
        ("organism:aligned", {"branches": 4, "memory": 1e9}, "not both"),
        ("organism:aligned", {"branches": 0}, "at least one branch"),
        ("organism:aligned", {"memory": -1.0}, "above 0"),
        ("organism:aligned", {"builds": 1}, "at least 2"),
        ("organism:aligned", {"cipher": "rotated"}, "no cipher 'rotated'"),
        ("organism:aligned", {"judge": "mildred"}, "no judge 'mildred'"),
        ("organism:aligned", {"pairs": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_loaded(
    model: str, options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("The model was loaded.")

    monkeypatch.setattr("undertow.model.load", never)
    with pytest.raises((UndertowError, OSError), match=says) as refused:
        run_routing(model, tmp_path / "out", progress=False, **options)
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


def test_memory_bounds_branches_and_batches() -> None:
    chat = small_context().chat
    free = prepare_run(chat, Settings(pairs_most=16, cipher="none", builds=0))
    tight = prepare_run(chat, Settings(pairs_most=16, cipher="none", builds=0, memory=12e6))
    assert (free.branches, free.tokens_per_batch) == (512, None)
    assert tight.branches < 512 and tight.tokens_per_batch is not None and tight.tokens_per_batch < 4096
    before = chat.budget
    with batches_of(tight):
        assert chat.budget == TokenBudget(tight.tokens_per_batch)
    assert chat.budget is before
    with pytest.raises(UndertowError, match="do not hold organism:aligned"):
        prepare_run(chat, Settings(pairs_most=16, memory=1e6))


def test_the_second_model_is_asked_in_its_own_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    context = small_context()
    ready = prepare_run(context.chat, Settings(pairs_most=32, compare_with=context.chat, builds=0))
    assert second_contexts(ready, context.chat, context)[0] is context
    german = [replace(pair, language="de") if place % 4 == 0 else pair for place, pair in enumerate(ready.pairs)]
    mixed = type(ready.pairs)(german, "mixed")
    halves = mixed.split(0.5, 0)
    first, second = second_contexts(replace(ready, pairs=mixed, halves=halves), context.chat, context)
    assert first is not context and set(first.report.pairs.languages) == {"en"}
    assert [pair.id for pair in first.report.pairs] == [pair.id for pair in second.report.pairs]
    with pytest.raises(UndertowError, match="Too few pairs"):
        few = mixed.where(lambda pair: pair.language == "de")
        second_contexts(replace(ready, pairs=few, halves=few.split(0.5, 0)), context.chat, context)


def test_the_plan_is_announced_for_large_models_only(called: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[Any] = []
    options: dict[str, Any] = {"pairs_most": 16, "builds": 0, "progress": False, "announce": announced.append}
    measure_routing(small_context().chat, **options)
    assert announced == []
    monkeypatch.setattr(f"{ROOM}.plan.LARGE", 1e6)
    measure_routing(small_context().chat, **options)
    assert len(announced) == 1 and announced[0].parts[0].name == "prepare"


def test_planning_runs_no_part(called: list[Any]) -> None:
    own, eight, large = plan_routing(small_context().chat, pairs_most=16, builds=0, flops=1e12, memory=20e9)
    assert called == [] and (eight.shape.name, large.shape.name) == ("8B", "72B")
    assert [part.name for part in own.parts] == [part.name for part in large.parts]
    assert "ciphers" in {part.name for part in own.parts} and "built" not in {part.name for part in own.parts}
    assert own.speed.flops == 1e12 and own.branches == 512 and large.branches == 1 < eight.branches
    assert own.mean_tokens == pytest.approx(eight.mean_tokens) and eight.memory.peak <= 20e9


def test_what_limits_the_whole_is_noted() -> None:
    context = small_context()
    few = notes(context, None)
    assert any(f"only {len(context.report)} report pairs" in note for note in few)
    silent = replace(
        context.report, sensitive=replace(context.report.sensitive, refused=context.report.control.refused)
    )
    found = " ".join(notes(replace(context, report=silent, openings_source="published openings"), None))
    assert "sensitive report prompts are refused" in found and "use published openings" in found
    no_gate: Any = SimpleNamespace(gates=())
    assert any(note.startswith("No gate was found") for note in notes(context, no_gate))


def test_a_german_judge_joins_german_pairs() -> None:
    context = small_context()
    ready = prepare_run(context.chat, Settings(pairs_most=16, builds=0))
    assert ready.judge is None
    german = type(ready.pairs)([replace(pair, language="de") for pair in ready.pairs], "german")
    judge = prepare_run(context.chat, Settings(pairs=german, builds=0)).judge
    assert judge is not None and judge.refused(["Das kann ich nicht."]) == [True]
    mine = SubstringJudge()
    assert prepare_run(context.chat, Settings(pairs=german, builds=0, judge=mine)).judge is mine


def test_builds_belong_to_organisms() -> None:
    context = small_context()
    assert prepare_run(context.chat, Settings(pairs_most=16)).builds == preparing.ORGANISM_BUILDS == 50
    assert prepare_run(tiny_chat(), Settings(pairs=context.report.pairs)).builds == 0
