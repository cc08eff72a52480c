"""Real Ray, two workers, killed processes; the output must be that of an undisturbed local scan, byte for byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import ROWS, Ground
from tests.engines.openers import begun, open_nothing, open_plain, open_watched
from undertow.engines.parts import Parts
from undertow.engines.ray import Merge, scan_with_ray
from undertow.errors import GuardError, PromptFileError
from undertow.guard.journal import Journal
from undertow.guard.place import ScanResult
from undertow.guard.scan import scan
from undertow.prompts import PromptSet

ray = pytest.importorskip("ray")
ROOT = Path(__file__).parents[2]
CHUNKS = -(-ROWS // 64)

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running() -> Iterator[None]:
    """One Ray for all tests of this file."""
    import logging

    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        object_store_memory=256 << 20,
    )  # fmt: skip
    yield
    ray.shutdown()
    if before is None:
        del os.environ["RAY_USAGE_STATS_ENABLED"]


def on_ray(
    ground: Ground, output: Path, source: Any = None, opener: Callable = open_plain, workers: int = 2, **options: Any
) -> ScanResult:
    """A scan on Ray; one worker where a second would only cost the time in which it loads PyTorch."""
    return scan_with_ray(
        ground.guard,
        ground.source if source is None else source,
        output,
        open_guard=opener if isinstance(opener, partial) else partial(opener, str(ground.folder)),
        workers=workers,
        progress=False,
        **options,
    )


def left_behind(output: Path) -> list[Path]:
    known = (output, output.with_name(f"{output.name}.scan.json"))
    return [path for path in output.parent.iterdir() if path not in known and output.name in path.name]


def wait_for(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def rows_of_chunk(chunk: int, count: int = 4) -> list[dict[str, Any]]:
    return [{"row": chunk * 4 + index, "id": f"c{chunk}"} for index in range(count)]


def test_parts_are_merged_in_order_whatever_comes_first_and_whatever_interrupts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertow.engines.ray._COMMIT_SECONDS", -1.0)
    parts = Parts(tmp_path)
    seen: list[int] = []
    with Journal(tmp_path / "out.jsonl") as journal:
        journal.commit([*rows_of_chunk(0), *rows_of_chunk(1, 2)])
        for chunk in (0, 3):
            parts.write(chunk, rows_of_chunk(chunk))
        merge = Merge(parts, journal, 4, seen.append)
        assert merge.ready == {3} and not (tmp_path / "000000000000.jsonl").exists()
        for chunk in (4, 2):
            parts.write(chunk, rows_of_chunk(chunk))
            merge.add(chunk)
            assert journal.rows == 6
        commit = Journal.commit

        def interrupted(self: Journal, rows: Any) -> None:
            commit(self, list(rows)[:5])
            raise KeyboardInterrupt

        monkeypatch.setattr(Journal, "commit", interrupted)
        parts.write(1, rows_of_chunk(1))
        with pytest.raises(KeyboardInterrupt):
            merge.add(1)
        assert journal.rows == 11
        monkeypatch.setattr(Journal, "commit", commit)
        merge.catch_up()
        parts.write(2, rows_of_chunk(2))
        merge.add(2)
        assert journal.rows == 20 and merge.ready == set() and parts.finished() == set()
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == [row for chunk in range(5) for row in rows_of_chunk(chunk)]
    assert parts.has(4) and not parts.has(5)


def test_a_killed_worker_changes_no_byte(ground: Ground, running: None, tmp_path: Path) -> None:
    log, output = tmp_path / "log", tmp_path / "out.jsonl"
    opener = partial(open_watched, str(ground.folder), str(log), 0.05)
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: len(begun(log)) > 5)
        process = begun(log)[-1][0]
        os.kill(process, signal.SIGKILL)
        killed.append(process)

    killer = threading.Thread(target=kill)
    killer.start()
    result = on_ray(ground, output, opener=opener)
    killer.join()
    assert output.read_bytes() == ground.whole.read_bytes()
    assert (result.rows, result.resumed, result.errors) == (ROWS, 0, 1)
    note = tmp_path / "out.jsonl.scan.json"
    assert note.read_bytes() == (ground.folder / "whole.jsonl.scan.json").read_bytes()
    assert not left_behind(output)
    processes = {process for process, _ in begun(log)}
    assert killed and len(processes) == 3, "a third worker took over"
    rows = [row for _, row in begun(log)]
    assert set(rows) == set(range(0, ROWS, 64))
    assert len(rows) <= CHUNKS + 1, "only the chunk under way was begun twice"


def test_a_killed_driver_is_resumed_and_no_finished_chunk_is_scored_again(
    ground: Ground, running: None, tmp_path: Path
) -> None:
    first, second, output = tmp_path / "first", tmp_path / "second", tmp_path / "out.parquet"
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.engines.driven", str(ground.folder), str(output), str(first), "0.2"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(lambda: len(begun(first)) >= 9 or driver.poll() is not None)
    finally:
        driver.kill()
    told = driver.communicate()
    assert driver.returncode == -signal.SIGKILL, told[1].decode()[-2000:]
    assert told[0] == b"", "nothing on standard output"
    workers = {process for process, _ in begun(first)}
    wait_for(lambda: not any(Path(f"/proc/{process}").exists() for process in workers))
    parts = tmp_path / "out.parquet.parts"
    with open(tmp_path / "out.parquet.rows.jsonl") as stream:
        written = sum(1 for _ in stream) // 64
    finished = {int(path.stem) for path in parts.glob("*/*.jsonl")} | set(range(written))
    assert 3 <= len(finished) < CHUNKS
    result = on_ray(ground, output, opener=partial(open_watched, str(ground.folder), str(second)), workers=1)
    scored = [row // 64 for _, row in begun(second)]
    assert sorted(scored) == sorted(set(range(CHUNKS)) - finished)
    assert result.resumed == written * 64
    scan(ground.guard, ground.source, tmp_path / "whole.parquet", progress=False)
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not left_behind(output)


def test_a_prompt_that_kills_every_worker_ends_the_scan_with_its_rows(
    ground: Ground, running: None, tmp_path: Path
) -> None:
    log, output = tmp_path / "log", tmp_path / "out.jsonl"
    prompts = list(PromptSet.read(ground.source))[:400]
    opener = partial(open_watched, str(ground.folder), str(log), 0.0, prompts[200].text)
    with pytest.raises(GuardError, match="rows 192 to 255 ended its worker 3 times"):
        on_ray(ground, output, prompts, opener, workers=1)
    assert [row for _, row in begun(log)].count(192) == 3
    with pytest.raises(GuardError, match="another include prompts"):
        on_ray(ground, output, prompts, include_prompts=True)
    before = len(output.read_bytes().splitlines())
    assert before == 192
    result = scan(ground.guard, prompts, output, progress=False)
    assert result.resumed == before
    scan(ground.guard, prompts, tmp_path / "whole.jsonl", progress=False)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not left_behind(output), "the local engine removes what Ray's workers left"


def test_a_line_that_cannot_be_read_ends_the_scan_as_it_ends_a_local_one(
    ground: Ground, running: None, tmp_path: Path
) -> None:
    lines = ground.source.read_text().splitlines()
    source = tmp_path / "bad.jsonl"
    source.write_text("\n".join([*lines[:350], "{broken", *lines[350:400]]))
    outputs = tmp_path / "ray.jsonl", tmp_path / "local.jsonl"
    messages = []
    for run, output in zip((partial(on_ray, ground, workers=1), partial(scan, ground.guard)), outputs, strict=True):
        with pytest.raises(PromptFileError, match="line 351") as caught:
            run(output=output, source=source) if output == outputs[0] else run(source, output, progress=False)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert outputs[0].read_bytes() == outputs[1].read_bytes() != b""


def test_a_guard_that_workers_cannot_open_ends_the_scan(ground: Ground, running: None, tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="could not open the guard: There is no guard"):
        on_ray(ground, tmp_path / "out.jsonl", opener=open_nothing, workers=1)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"source": "-"}, "standard input"), ({"output": "out.csv"}, "ends in neither"), ({"limit": 0}, "at least 1")],
)
def test_what_cannot_be_scanned_is_refused_before_ray_starts(
    ground: Ground, tmp_path: Path, options: dict[str, Any], word: str
) -> None:
    given: dict[str, Any] = {"source": ground.source, "output": "out.jsonl"} | options
    with pytest.raises(GuardError, match=word):
        on_ray(ground, tmp_path / given.pop("output"), **given)
    assert not list(tmp_path.iterdir())


def test_the_command_line_prints_json_alone_and_stops_its_ray(ground: Ground, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    folder = Path(tempfile.mkdtemp(prefix="u", dir="/tmp"))
    done = subprocess.run(
        [
            sys.executable, "-m", "undertow", "scan", str(ground.folder / "guard"), str(ground.source), "-o",
            str(output), "--engine", "ray", "--workers", "2", "--json", "--model", str(ground.folder / "model"),
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["rows"] == ROWS and told["guard"] == ground.guard.fingerprint
    assert done.stderr == ""
    assert output.read_bytes() == ground.whole.read_bytes()
    folder.rmdir()  # Fails where a file of Ray's is left.
