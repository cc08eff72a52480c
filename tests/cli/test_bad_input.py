"""Every bad input ends in exit code 2 and one sentence, with nothing written. One row is one case."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.bad_files import write_bad_files
from tests.cli.conftest import Ground, Run


class Case(NamedTuple):
    """A command line, in which {model}, {bad}, {out} and so on stand for paths, and words that its sentence holds."""

    name: str
    line: str
    says: str


FIT = "fit {model} -o {out}/guard"
STEER = "steer {model} 'bake1 the thing2'"
CENTROIDS = "--harmful {harmful_centroid} --harmless {harmless_centroid}"

CASES = [
    Case("command: unknown", "frobnicate", "No such command 'frobnicate'"),
    Case("command: unknown flag", "--loud", "--loud"),
    Case("check: no model", "check", "MODEL"),
    Case("check: unknown flag", "check {model} --fast", "--fast"),
    Case("check: seed is no number", "check {model} --seed many", "--seed"),
    Case("check: model is not there", "check {bad}/nowhere", "no model folder"),
    Case("check: model not on the Hub", "check nobody/nothing", "cannot be loaded"),
    Case("check: folder without config", "check {bad}/no_config", "no config.json"),
    Case("check: broken config", "check {bad}/bad_config", "cannot be loaded"),
    Case("check: no weights", "check {bad}/no_weights", "cannot be loaded"),
    Case("check: damaged weights", "check {bad}/bad_weights", "cannot be loaded"),
    Case("check: unknown organism", "check organism:mildred", "no built-in organism 'mildred'"),
    Case("check: no chat template", "check {bad}/no_template", "no chat template"),
    Case("check: template repeats", "check {bad}/repeating", "repeats the user's message 2 times"),
    Case("check: template rewrites", "check {bad}/shouting", "drops or rewrites"),
    Case("check: template refuses", "check {bad}/refusing", "Only alternate roles"),
    Case("check: unknown dtype", "check {model} --dtype float7", "float7"),
    Case("check: unknown device", "check {model} --device warp", "no device 'warp'"),
    Case("check: device not here", "check {model} --device cuda:99", "cuda:99"),
    Case("check: no thinking switch", "check {model} --thinking", "no thinking switch"),
    Case("check: empty prompt", "check {model} --show-positions ''", "empty"),
    Case("check: prompt too long", "check {model} --show-positions '{long}'", "at most 64"),
    Case("check: system alone", "check {model} --system x", "--show-positions"),
    Case("fit: no prompts", FIT, "in one way"),
    Case("fit: prompts in two ways", FIT + " --builtin --prompts {both}", "in one way"),
    Case("fit: one class only", FIT + " --harmful {harmful}", "go together"),
    Case("fit: no output", "fit {model} --builtin", "--output"),
    Case("fit: file is not there", FIT + " --prompts {bad}/nowhere.csv", "nowhere.csv"),
    Case("fit: file is a folder", FIT + " --prompts {bad}", "{bad}"),
    Case("fit: empty file", FIT + " --prompts {bad}/empty.csv", "empty.csv"),
    Case("fit: header only", FIT + " --prompts {bad}/header.csv", "no prompts"),
    Case("fit: wrong encoding", FIT + " --prompts {bad}/latin.csv", "latin.csv"),
    Case("fit: no text format", FIT + " --prompts {bad}/picture.xlsx", "picture.xlsx"),
    Case("fit: unknown columns", FIT + " --prompts {bad}/unknown_columns.csv", "--prompt-column"),
    Case("fit: named column absent", FIT + " --prompts {both} --prompt-column gamma", "gamma"),
    Case("fit: column flag with builtin", FIT + " --builtin --label-column x", "for files"),
    Case("fit: contradicting labels", FIT + " --prompts {bad}/contradiction.csv", "line 3"),
    Case("fit: label that is none", FIT + " --prompts {bad}/no_label.csv", "perhaps"),
    Case("fit: no labels", FIT + " --prompts {bad}/unlabelled.jsonl", "--label-column"),
    Case("fit: wrong class", FIT + " --harmful {harmless} --harmless {harmful}", "harmless"),
    Case("fit: shared prompts", FIT + " --harmful {bad}/shared.jsonl --harmless {bad}/harmless.jsonl", "1 prompt"),
    Case("fit: too few", FIT + " --harmful {bad}/few.jsonl --harmless {harmless}", "at least 10"),
    Case("fit: bad line", FIT + " --harmful {bad}/late.jsonl --harmless {harmless}", "line 131"),
    Case("fit: unknown rule", FIT + " --prompts {both} --rule astrology", "astrology"),
    Case("fit: rate out of range", FIT + " --prompts {both} --false-positive-rate 2", "between 0 and 1"),
    Case("fit: output is there", "fit {model} -o {guard} --prompts {both}", "--overwrite"),
    Case("fit: output is a file", "fit {model} -o {bad}/there.jsonl --prompts {both}", "is a file"),
    Case("fit: output within a file", "fit {model} -o {bad}/there.jsonl/guard --prompts {both}", "is a file"),
    Case("scan: guard is not there", "scan {bad}/nowhere {both} -o {out}/o.jsonl", "no guard"),
    Case("scan: guard is empty", "scan {bad}/guard_empty {both} -o {out}/o.jsonl", "guard.json"),
    Case("scan: guard is half", "scan {bad}/guard_half {both} -o {out}/o.jsonl", "guard.safetensors"),
    Case("scan: guard is garbled", "scan {bad}/guard_garbled {both} -o {out}/o.jsonl", "guard.json"),
    Case("scan: guard is damaged", "scan {bad}/guard_damaged {both} -o {out}/o.jsonl", "damaged"),
    Case("scan: guard is newer", "scan {bad}/guard_newer {both} -o {out}/o.jsonl", "99"),
    Case("scan: guard names no model", "scan {bad}/guard_nameless {both} -o {out}/o.jsonl", "model"),
    Case("scan: other weights", "scan {bad}/guard_other_model {both} -o {out}/o.jsonl", "weights"),
    Case("scan: other thinking", "scan {bad}/guard_other_thinking {both} -o {out}/o.jsonl", "thinking mode"),
    Case("scan: prompts not there", "scan {guard} {bad}/nowhere.jsonl -o {out}/o.jsonl", "nowhere.jsonl"),
    Case("scan: late bad line", "scan {guard} {bad}/late.jsonl -o {out}/o.jsonl", "line 131"),
    Case("scan: unknown ending", "scan {guard} {both} -o {out}/o.xlsx", "o.xlsx"),
    Case("scan: output is a folder", "scan {guard} {both} -o {out}", "out ends in neither"),
    Case("scan: output folder absent", "scan {guard} {both} -o {out}/a/b.jsonl", "does not exist"),
    Case("scan: output is there", "scan {guard} {both} -o {bad}/there.jsonl", "exists already"),
    Case("scan: batch size 0", "scan {guard} {both} -o {out}/o.jsonl --batch-size 0", "--batch-size"),
    Case("scan: limit 0", "scan {guard} {both} -o {out}/o.jsonl --limit 0", "--limit"),
    Case("steer: nothing to steer along", STEER, "--direction FILE"),
    Case("steer: direction not there", STEER + " --direction {bad}/nowhere.safetensors", "nowhere.safetensors"),
    Case("steer: no direction in it", STEER + " --direction {bad}/text.safetensors --state 1", "text.safetensors"),
    Case("steer: another width", STEER + " --direction {bad}/wide.safetensors --state 1", "width 32"),
    Case("steer: another model", STEER + " --direction {bad}/other_model.safetensors --state 1", "another model"),
    Case("steer: which state", STEER + " --direction {direction}", "--state"),
    Case("steer: state it lacks", STEER + " --direction {direction} --state 9", "no state 9"),
    Case("steer: state the model lacks", STEER + " --direction {bad}/too_deep.safetensors --state 4", "state 4"),
    Case("steer: unknown span", STEER + " --direction {direction} --state 1 --span middle", "middle"),
    Case("steer: temperature below 0", STEER + " --direction {direction} --state 1 --temperature -1", "--temperature"),
    Case("steer: unknown kind", STEER + " --guard {guard} --kind anger", "anger"),
    Case("steer: state of another kind", STEER + " --guard {guard} --state 0", "not to state 0"),
    Case("steer: empty prompt", "steer {model} '' --direction {direction} --state 1", "empty"),
    Case("import: file not there", "import {bad}/nowhere.pt --as states -o {out}/a.safetensors", "nowhere.pt"),
    Case("import: file is a folder", "import {bad} --as states -o {out}/a.safetensors", "{bad}"),
    Case("import: kind not said", "import {states} -o {out}/a.safetensors", "--as"),
    Case("import: unknown kind", "import {states} --as dreams -o {out}/a.safetensors", "dreams"),
    Case("import: code inside", "import {bad}/trap.pt --as direction -o {out}/a.safetensors", "trap.pt"),
    Case("import: text", "import {bad}/text.pt --as direction -o {out}/a.safetensors", "text.pt"),
    Case("import: no arrays", "import {bad}/words.pt --as direction -o {out}/a.safetensors", "words.pt"),
    Case("import: not finite", "import {bad}/nan.pt --as direction -o {out}/a.safetensors", "not finite"),
    Case("import: rank one", "import {bad}/rank_one.pt --as direction -o {out}/a.safetensors", "(4)"),
    Case("import: three positions", "import {bad}/three_positions.pt --as states -o {out}/a.safetensors", "third axis"),
    Case("import: wrong kind", "import {states} --as direction -o {out}/a.safetensors", "(states, width)"),
    Case("import: several arrays", "import {bad}/two.pt --as direction -o {out}/a.safetensors", "name"),
    Case("import: no such array", "import {bad}/two.pt --as centroids --name x -o {out}/a.safetensors", "no array x"),
    Case("import: output is there", "import {states} --as states -o {bad}/there.jsonl", "--overwrite"),
    Case("import: output is a folder", "import {states} --as states -o {out}", "is a folder"),
    Case("score-states: no centroids", "score-states {states}", "--harmful"),
    Case("score-states: file not there", "score-states {bad}/nowhere.pt " + CENTROIDS, "nowhere.pt"),
    Case("score-states: not states", "score-states {direction} " + CENTROIDS, "states"),
    Case("score-states: other model", "score-states {states} --harmful {bad}/wide.pt --harmless {bad}/wide.pt", "fit"),
    Case("score-states: mixed", "score-states {states} --harmful {bad}/wide.pt --harmless {direction}", "differ"),
    Case("score-states: ending", "score-states {states} " + CENTROIDS + " -o {out}/a.txt", ".jsonl"),
    Case("score-states: position", "score-states {states} " + CENTROIDS + " --position end", "end"),
    Case("organism: unknown command", "organism feed", "No such command 'feed'"),
    Case("organism: unknown recipe", "organism train mildred -o {out}/m", "mildred"),
    Case("organism: output in use", "organism train aligned -o {guard}", "exists already"),
    Case("organism: not there", "organism evaluate mildred", "mildred"),
    Case("organism: no prompts", "organism evaluate aligned -n 0", "-n"),
]


@pytest.fixture(scope="session")
def places(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | str]:
    bad = tmp_path_factory.mktemp("table") / "bad"
    write_bad_files(bad, ground)
    return {
        "bad": bad,
        "model": ground.model,
        "harmful": ground.harmful,
        "harmless": ground.harmless,
        "both": ground.both,
        "guard": ground.guard,
        "states": ground.states,
        "direction": ground.direction,
        "harmful_centroid": ground.centroids[0],
        "harmless_centroid": ground.centroids[1],
        "long": "bake1 the thing2 " * 40,
    }


def contents(*folders: Path) -> dict[str, bytes]:
    files = [path for folder in folders for path in folder.rglob("*")]
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in files}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_input(case: Case, places: dict[str, Path | str], ground: Ground, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    names = places | {"out": out}
    bad = Path(names["bad"])
    before = contents(bad, ground.guard)
    outcome = run(*[part.format(**names) for part in split(case.line)])
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("undertow: ") and lines[0].endswith(".")
    # One sentence: no full stop, question or exclamation mark is followed by another that begins.
    assert not re.search(r"[.!?] [A-Z]", lines[0].removeprefix("undertow: ")), lines[0]
    assert case.says.format(**names) in lines[0]
    assert "Traceback" not in outcome.err
    assert contents(out) == {}
    assert contents(bad, ground.guard) == before


def split(line: str) -> list[str]:
    """Arguments of a command line in which a quoted part may hold blanks or nothing."""
    return [quoted if bare == "" else bare for quoted, bare in re.findall(r"'([^']*)'|(\S+)", line)]


def test_the_table_covers_every_kind_of_input() -> None:
    commands = {case.name.split(":")[0] for case in CASES}
    assert {"check", "fit", "scan", "steer", "import", "score-states", "organism"} <= commands
    assert len(CASES) >= 30 and len({case.name for case in CASES}) == len(CASES)


def test_a_trap_in_a_pickle_is_not_sprung(places: dict[str, Path | str], run: Run, tmp_path: Path) -> None:
    bad = Path(places["bad"])
    assert run("import", bad / "trap.pt", "--as", "direction", "-o", tmp_path / "a.safetensors").code == 2
    assert not (bad / "sprung").exists()


def test_an_interrupted_fit_leaves_the_earlier_guard_alone(
    ground: Ground, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = tmp_path / "guard"
    shutil.copytree(ground.guard, guard)
    before = contents(guard)

    def interrupt(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("undertow.guard.LatentGuard.fit", interrupt)
    outcome = run("fit", ground.model, "--prompts", ground.both, "-o", guard, "--overwrite")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "undertow: Interrupted.\n")
    assert contents(guard) == before and list(tmp_path.iterdir()) == [guard]
