from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from undertow.studies.routing import run as real

ROOM = "undertow.studies.routing"
PAIRS = "sensitive,control\n" + "".join(f"bad {n},good {n}\n" for n in range(20))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The measuring, the tables and the page replaced; what was asked for is noted."""
    seen: dict[str, Any] = {}
    result = SimpleNamespace(findings=(), skipped={"built": "No builds."}, run={"seconds": 2.0}, secret="harmful text")

    def run_routing(model: Any, output: Path, **options: Any) -> Any:
        seen.update(options, model=model)
        Path(output).mkdir(parents=True, exist_ok=True)
        (Path(output) / "report.html").write_text(options["page"](result).text)
        return result

    def page(result: Any, show_prompts: bool = False) -> Any:
        return SimpleNamespace(text=result.secret if show_prompts else "truncated", figures=[1, 2])

    for name, parts in {
        f"{ROOM}.run": {"run_routing": run_routing, "plan_routing": real.plan_routing},
        f"{ROOM}.tables": {"summary_tables": lambda result: ["the summary"]},
        "undertow.report.routing.page": {"routing_page": page},
    }.items():
        fake = ModuleType(name)
        for key, value in parts.items():
            setattr(fake, key, value)
        monkeypatch.setitem(sys.modules, name, fake)
    return seen


def test_it_prints_one_screen_and_passes_its_flags_on(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(PAIRS)
    done = run(
        "study", "routing", "organism:aligned", "-o", tmp_path / "out", "--pairs", tmp_path / "pairs.csv", "--seed", 7,
        "--readout", "projection", "--refusal-token", "No", "--refusal-token", "Sorry", "--answer-token", "Yes",
        "--judge", "substring", "--cipher", "none", "--builds", 4, "--pairs-most", 18, "--branches", 9,
        "--permutations", 200, "--reply-tokens", 5,
    )  # fmt: skip
    assert done.code == 0, done.err
    passed = {key: value for key, value in asked.items() if key not in ("model", "page", "announce")}
    assert passed == {
        "pairs": tmp_path / "pairs.csv", "pairs_most": 18, "readout": "projection", "refusal_tokens": ("No", "Sorry"),
        "answer_tokens": ("Yes",), "judge": "substring", "cipher": "none", "compare_with": None, "builds": 4, "seed": 7,
        "reply_tokens": 5, "branches": 9, "memory": None, "permutations": 200, "overwrite": False, "progress": True,
    }  # fmt: skip
    assert asked["model"].name == "organism:aligned"
    assert "the summary" in done.out and "report.html" in done.out and "2 s" in done.out


def test_the_default_model_is_the_studys(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    assert run("study", "routing", "-o", tmp_path / "out", "--memory", 2, "--json").code == 0
    assert asked["model"].name == real.DEFAULT_MODEL and asked["memory"] == 2e9 and asked["progress"] is False
    assert asked["pairs"] is None and asked["builds"] is None and asked["cipher"] == "default"


def test_a_second_model_is_opened_first(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    done = run("study", "routing", "-o", tmp_path / "out", "--compare-with", "organism:aligned")
    assert done.code == 0 and asked["compare_with"].name == "organism:aligned"


def test_json_and_nothing_else(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    done = run("study", "routing", "-o", tmp_path / "out", "--json")
    assert done.code == 0 and done.json["findings"] == [] and done.json["skipped"] == {"built": "No builds."}
    assert "plan" not in done.json and done.json["figures"] == []


def test_a_large_models_plan_comes_before_its_results(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    from undertow.studies.routing.plan import plan
    from undertow.studies.routing.sizes import SHAPES

    fake: Any = sys.modules[f"{ROOM}.run"]
    inner = fake.run_routing

    def announcing(model: Any, output: Path, **options: Any) -> Any:
        options["announce"](plan(SHAPES[0], 120, mean_tokens=50))
        return inner(model, output, **options)

    fake.run_routing = announcing
    done = run("study", "routing", "-o", tmp_path / "one")
    assert done.code == 0 and done.out.index("What the study runs") < done.out.index("the summary")
    assert run("study", "routing", "-o", tmp_path / "two", "--json").json["plan"]["model"] == "8B"


def test_the_plan_measures_and_writes_nothing(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("Something was measured.")

    monkeypatch.setattr(f"{ROOM}.context.observe_replies", never)
    monkeypatch.chdir(tmp_path)
    done = run("study", "routing", "--plan", "--pairs-most", 16, "--builds", 0)
    assert done.code == 0, done.err
    for words in ("organism", "8B", "72B", "screening", "peak on the device", "assumed: 200 TFLOP/s"):
        assert words in done.out
    plans = run("study", "routing", "--plan", "--pairs-most", 16, "--tflops", 3, "--json").json["plans"]
    assert [one["model"] for one in plans] == ["organism:bilingual", "8B", "72B"]
    assert all(one["speed"]["flops"] == 3e12 for one in plans) and plans[2]["flop"] > plans[1]["flop"] > 1e14
    assert list(tmp_path.iterdir()) == []


def test_prompts_are_shown_only_when_asked_for(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    for flags, shown in (((), False), (("--show-prompts",), True)):
        assert run("study", "routing", "-o", tmp_path / str(shown), *flags).code == 0
        assert ("harmful" in (tmp_path / str(shown) / "report.html").read_text()) is shown


def test_figures_are_written_beside_the_report(
    run: Any, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def draw(report: Any, folder: Path, form: str) -> list[Path]:
        drawn.append((len(report.figures), folder, form))
        return [folder / "screening.svg"]

    monkeypatch.setattr("undertow.report.export.check_export", lambda form: None)
    monkeypatch.setattr("undertow.report.export.export_figures", draw)
    done = run("study", "routing", "-o", tmp_path / "out", "--figures", "svg")
    assert done.code == 0 and drawn == [(2, tmp_path / "out" / "figures", "svg")]
    assert "1 figures in" in " ".join(done.out.split())


def test_the_help_lists_both_studies(run: Any) -> None:
    done = run("study")
    assert done.code == 0 and "beliefs" in done.out and "routing" in done.out
    assert "--plan" in run("study", "routing", "--help").out


REFUSED = [
    (("nobody/nothing",), "--pairs FILE"),
    (("--readout", "mood"), "no readout 'mood'"),
    (("--refusal-token", "No"), "both refusals and answers"),
    (("--judge", "mildred"), "There is no judge 'mildred'"),
    (("--cipher", "rotated"), "no cipher 'rotated'"),
    (("--cipher", "nowhere.json"), "nowhere.json"),
    (("--pairs", "nowhere.csv"), "nowhere.csv"),
    (("--compare-with", "organism:mildred"), "no built-in organism 'mildred'"),
    (("--compare-with", "no/such/folder"), "no model folder"),
    (("--builds", "1"), "at least 2"),
    (("--builds", "-1"), "--builds"),
    (("--pairs-most", "15"), "--pairs-most"),
    (("--branches", "0"), "--branches"),
    (("--memory", "0"), "above 0"),
    (("--memory", "nan"), "above 0"),
    (("--memory", "0.001"), "do not hold organism:bilingual"),
    (("--memory", "1", "--branches", "3"), "not both"),
    (("--permutations", "99"), "--permutations"),
    (("--tflops", "0", "--plan"), "above 0"),
    (("--figures", "gif"), "png or svg"),
    (("--device", "warp"), "no device 'warp'"),
]


@pytest.mark.parametrize(("flags", "says"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_bad_input_ends_in_one_sentence_with_nothing_written_or_measured(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], says: str
) -> None:
    """The real study, as far as it gets: no reply is made before everything is known to work."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("The model was run.")

    fake = ModuleType("undertow.report.routing.page")
    fake.routing_page = never  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "undertow.report.routing.page", fake)
    monkeypatch.setattr(f"{ROOM}.context.observe_replies", never)
    monkeypatch.chdir(tmp_path)
    done = run("study", "routing", "-o", tmp_path / "out", *flags)
    assert done.code == 2 and says in " ".join(done.err.split()), done.err
    assert done.out == "" and "Traceback" not in done.err and done.err.strip().count("\n") == 0, done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("question,answer\na,b\n", "no column 'sensitive'"),
        ("sensitive,control\nsame,same\n", "same text"),
        ("sensitive,control\na,b\n", "needs at least 16"),
    ],
)
def test_pairs_that_are_none_are_refused(run: Any, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    done = run("study", "routing", "nobody/nothing", "-o", tmp_path / "out", "--pairs", tmp_path / "pairs.csv")
    assert done.code == 2 and says in " ".join(done.err.split()) and done.err.strip().count("\n") == 0, done.err
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_refused_before_anything_runs(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "keep.txt").write_text("mine")
    done = run("study", "routing", "-o", tmp_path / "out")
    assert done.code == 2 and "--overwrite" in done.err and not asked
    assert run("study", "routing", "-o", tmp_path / "out", "--overwrite").code == 0
