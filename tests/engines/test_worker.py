"""Reader and scorer without Ray around them."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from tests.engines.conftest import ROWS, Ground
from tests.engines.openers import open_nothing, open_plain
from undertow.engines.parts import Parts
from undertow.engines.worker import MOST_ATTEMPTS, Setting, Worker, read_tasks
from undertow.guard.place import Place
from undertow.guard.scan import Work
from undertow.prompts import Prompt


def setting_of(ground: Ground, folder: Path) -> Setting:
    return Setting(
        open_guard=partial(open_plain, str(ground.folder)),
        fingerprint=ground.guard.fingerprint,
        model_fingerprint=ground.guard.model.identity.fingerprint,
        folder=folder,
        include_prompts=False,
        chunk_rows=64,
        workers=2,
        threads=1,
    )


def work_of(source: Any, folder: Path, limit: int | None = None) -> Work:
    return Work(source, limit, {}, False, 64, {}, Place(folder / "out.jsonl"))


def out_of_memory() -> Any:
    raise RuntimeError("the device\nhas no memory left")


def said(worker: Worker, tasks: list[bytes]) -> list[tuple[str, int, str]]:
    messages = worker(pyarrow.table({"task": tasks}))
    return [(message["kind"][0], message["number"][0], message["text"][0]) for message in messages]


def test_tasks_hold_the_chunks_that_are_missing_and_end_with_the_count(ground: Ground, tmp_path: Path) -> None:
    tasks = [pickle.loads(task) for task in read_tasks(work_of(ground.source, tmp_path), 64, 2, frozenset({3, 5}))]
    numbers = [number for task, _ in tasks for number, _ in task]
    assert numbers == [2, 4, *range(6, 24)]
    assert [end for _, end in tasks] == [None] * (len(tasks) - 1) + [(ROWS, "")]
    lines = [json.loads(line) for line in ground.source.read_text().splitlines()]
    ids = [prompt.id for task, _ in tasks for number, chunk in task if number == 6 for prompt in chunk]
    assert ids == [line["id"] for line in lines[384:448]]


def test_a_limit_and_prompts_in_memory(tmp_path: Path) -> None:
    prompts = [Prompt(f"bake{row}") for row in range(10)]
    [task] = read_tasks(work_of(prompts, tmp_path, limit=7), 4, 0, frozenset())
    assert pickle.loads(task) == ([(0, prompts[:4]), (1, prompts[4:7])], (7, ""))


def test_a_bad_line_ends_the_tasks_after_the_last_whole_chunk(ground: Ground, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text("\n".join([*ground.source.read_text().splitlines()[:350], "{"]))
    first, last = (pickle.loads(task) for task in read_tasks(work_of(source, tmp_path), 64, 0, frozenset()))
    assert [number for number, _ in first[0] + last[0]] == [0, 1, 2, 3, 4]
    rows, reason = last[1]
    assert first[1] is None and rows == 320 and "line 351" in reason


def test_a_worker_writes_the_rows_of_a_local_scan(ground: Ground, tmp_path: Path) -> None:
    tasks = list(read_tasks(work_of(ground.source, tmp_path, 150), 64, 0, frozenset()))
    worker = Worker(setting_of(ground, tmp_path))
    assert said(worker, tasks) == [("scored", 0, ""), ("scored", 1, ""), ("scored", 2, ""), ("end", 150, "")]
    parts = Parts(tmp_path)
    rows = [row for chunk in range(3) for row in parts.read(chunk)]
    assert rows == [json.loads(line) for line in ground.whole.read_text().splitlines()[:150]]
    assert not list(tmp_path.glob("*.begun"))
    before = (tmp_path / "000000000001.jsonl").stat().st_mtime_ns
    assert said(worker, tasks)[1] == ("scored", 1, "")
    assert (tmp_path / "000000000001.jsonl").stat().st_mtime_ns == before, "finished chunks are left alone"


def test_a_chunk_that_ended_several_processes_is_given_up_and_others_are_not(ground: Ground, tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    for _ in range(MOST_ATTEMPTS):
        parts.begin(f"{1:012d}")
    tasks = list(read_tasks(work_of(ground.source, tmp_path, 150), 64, 0, frozenset()))
    first, second, third, _ = said(Worker(setting_of(ground, tmp_path)), tasks)
    assert (first[0], third[0]) == ("scored", "scored")
    assert second[:2] == ("failed", 1) and "rows 64 to 127 ended its worker 3 times" in second[2]


def test_an_error_in_scoring_names_the_rows(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(setting_of(ground, tmp_path))

    def broken(*_: object) -> None:
        raise RuntimeError("the device\nwent away")

    monkeypatch.setattr("undertow.guard.scan.score_chunk", broken)
    tasks = list(read_tasks(work_of(ground.source, tmp_path, 64), 64, 0, frozenset()))
    assert said(worker, tasks)[0] == (
        "failed",
        0,
        "A worker could not score rows 0 to 63 (RuntimeError): the device went away",
    )
    assert not list(tmp_path.glob("*.begun"))


def test_a_guard_that_cannot_be_opened_or_is_another_one_fails_every_chunk(ground: Ground, tmp_path: Path) -> None:
    setting = setting_of(ground, tmp_path)
    tasks = list(read_tasks(work_of(ground.source, tmp_path, 64), 64, 0, frozenset()))
    cases = [
        (replace(setting, open_guard=partial(open_nothing, "x")), "could not open the guard: There is no guard at x."),
        (
            replace(setting, open_guard=out_of_memory),
            "not open the guard (RuntimeError): the device has no memory left",
        ),
        (replace(setting, fingerprint="0" * 64), "another guard or model"),
        (replace(setting, model_fingerprint="0" * 24), "another guard or model"),
    ]
    for case, word in cases:
        kind, _, text = said(Worker(case), tasks)[0]
        assert kind == "failed" and word in text
        Parts(tmp_path).settle_all()


def test_loading_that_ends_every_worker_is_not_tried_for_ever(ground: Ground, tmp_path: Path) -> None:
    parts, opened = Parts(tmp_path), []

    def open_guard() -> Any:
        opened.append(1)
        return open_plain(str(ground.folder))

    setting = replace(setting_of(ground, tmp_path), open_guard=open_guard)
    for _ in range(MOST_ATTEMPTS * 2):
        parts.begin("guard")
    tasks = list(read_tasks(work_of(ground.source, tmp_path, 64), 64, 0, frozenset()))
    assert "use fewer workers" in said(Worker(setting), tasks)[0][2]
    assert not opened
    parts.settle_all()
    assert said(Worker(setting), tasks)[0] == ("scored", 0, "")
    assert parts.begin("guard") == 0, "a guard that opens settles the count"
