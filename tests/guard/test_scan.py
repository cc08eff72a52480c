from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.guard.taught import many
from undertow.errors import GuardError, PromptFileError
from undertow.guard import LatentGuard
from undertow.guard.rows import score_row
from undertow.guard.scan import LocalScorer, scan
from undertow.prompts import Prompt

ROOT = Path(__file__).parents[2]


def prompt_file(path: Path, count: int) -> Path:
    kinds = [("harmful", None), ("harmless", "persuasion"), ("look-alike", None), ("harmful", "persuasion")]
    per_kind = [many(kind, -(-count // 4), 8, wrapper) for kind, wrapper in kinds]
    texts = [prompt.text for group in zip(*per_kind, strict=True) for prompt in group][:count]
    path.write_text("".join(json.dumps({"prompt": text, "id": f"p{row}"}) + "\n" for row, text in enumerate(texts)))
    return path


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return prompt_file(tmp_path / "prompts.jsonl", 150)


def test_rows_hold_the_guards_verdicts(guard, source, tmp_path):
    result = scan(guard, source, tmp_path / "out.jsonl", progress=False)
    rows = rows_of(tmp_path / "out.jsonl")
    verdicts = guard([row["prompt"] for row in rows_of(source)])
    assert [row["row"] for row in rows] == list(range(150))
    assert [row["id"] for row in rows] == [f"p{row}" for row in range(150)]
    assert [row["quadrant"] for row in rows] == [verdict.quadrant for verdict in verdicts]
    assert [row["flagged"] for row in rows] == [verdict.flagged for verdict in verdicts]
    for name in ("harmful", "harmfulness", "refusal"):
        expected = [getattr(verdict, name) for verdict in verdicts]
        np.testing.assert_allclose([row[name] for row in rows], expected, atol=1e-3)
    assert "prompt" not in rows[0]
    assert (result.rows, result.resumed, result.errors) == (150, 0, 0)
    assert result.flagged == sum(verdict.flagged for verdict in verdicts)
    assert sum(result.quadrants.values()) == 150


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_bytes_do_not_depend_on_the_batch_size(guard, source, tmp_path, ending):
    contents = set()
    for batch_size in (1, 7, 64, 1000):
        output = tmp_path / f"out{batch_size}{ending}"
        scan(guard, source, output, batch_size=batch_size, progress=False)
        contents.add(output.read_bytes())
    assert len(contents) == 1
    assert not list(tmp_path.glob("*.rows.jsonl"))


def test_parquet_holds_the_same_rows(guard, source, tmp_path):
    from pyarrow import parquet

    scan(guard, source, tmp_path / "out.jsonl", include_prompts=True, progress=False)
    scan(guard, source, tmp_path / "out.parquet", include_prompts=True, progress=False)
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == rows_of(tmp_path / "out.jsonl")


def test_a_prompt_that_cannot_be_judged_keeps_its_row_and_says_why(guard, tmp_path):
    source = [
        Prompt("attack1 the thing1", id="a"),
        Prompt("attack1 " * 100, id="b"),
        Prompt("bake1 the thing2", id="c"),
    ]
    result = scan(guard, source, tmp_path / "out.jsonl", progress=False)
    rows = rows_of(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert "at most 64" in rows[1]["error"]
    assert {rows[1][name] for name in ("harmful", "harmfulness", "refusal", "flagged", "quadrant")} == {None}
    assert [row["flagged"] for row in rows] == [True, None, False]
    assert rows[0]["error"] is None
    assert result.errors == 1


def test_states_that_are_not_finite_are_an_error_of_their_row(guard, tmp_path, monkeypatch):
    beliefs = LatentGuard.beliefs

    def broken(self, states):
        harmfulness, refusal = beliefs(self, states)
        harmfulness[1] = np.nan
        return harmfulness, refusal

    monkeypatch.setattr(LatentGuard, "beliefs", broken)
    scan(guard, ["attack1 the thing1", "bake1 the thing2"], tmp_path / "out.jsonl", progress=False)
    rows = rows_of(tmp_path / "out.jsonl")
    assert rows[0]["flagged"] is True
    assert rows[1]["flagged"] is None
    assert "not finite" in rows[1]["error"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_an_interrupted_scan_goes_on_where_it_was(guard, source, tmp_path, monkeypatch, interruption, ending):
    from undertow.guard import scan as module

    scan(guard, source, tmp_path / f"whole{ending}", progress=False)
    score_chunk = module.score_chunk

    def interrupted(guard, prompts, first_row, include_prompts):
        if first_row >= 64:
            raise interruption
        return score_chunk(guard, prompts, first_row, include_prompts)

    output = tmp_path / f"out{ending}"
    monkeypatch.setattr(module, "score_chunk", interrupted)
    with pytest.raises(interruption):
        scan(guard, source, output, batch_size=50, progress=False)
    monkeypatch.setattr(module, "score_chunk", score_chunk)
    assert (tmp_path / f"out{ending}.scan.json").exists()
    result = scan(guard, source, output, batch_size=9, progress=False)
    assert result.resumed == 64
    assert output.read_bytes() == (tmp_path / f"whole{ending}").read_bytes()


def test_a_torn_last_line_is_scored_again(guard, source, tmp_path):
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    scan(guard, source, whole, progress=False)
    for cut in (1, 100, 1234, len(whole.read_bytes()) - 1):
        scan(guard, source, output, progress=False, overwrite=True)
        manifest = output.with_name("out.jsonl.scan.json")
        manifest.write_text(manifest.read_text().replace('"finished": true', '"finished": false'))
        output.write_bytes(whole.read_bytes()[:cut])
        scan(guard, source, output, progress=False)
        assert output.read_bytes() == whole.read_bytes()


def test_another_guard_source_or_option_is_refused(guard, chat, source, tmp_path):
    output = tmp_path / "out.jsonl"
    scan(guard, source, output, progress=False)
    other = LatentGuard.fit(
        chat, many("harmful", 20, 3), many("harmless", 20, 3), progress=False, steering=False, refusal_rule=None
    )
    before = output.read_bytes()
    with pytest.raises(GuardError, match="another guard"):
        scan(other, source, output, progress=False)
    with pytest.raises(GuardError, match="another limit, include prompts"):
        scan(guard, source, output, limit=3, include_prompts=True, progress=False)
    prompt_file(source, 151)
    with pytest.raises(GuardError, match="another source"):
        scan(guard, source, output, progress=False)
    assert output.read_bytes() == before
    assert scan(guard, source, output, progress=False, overwrite=True).rows == 151


def test_a_finished_scan_is_not_done_again(guard, source, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    first = scan(guard, source, output, progress=False)
    monkeypatch.setattr(type(guard.model), "capture", None)
    again = scan(guard, source, output, progress=False)
    assert again.resumed == again.rows == 150
    assert again.quadrants == first.quadrants
    with pytest.raises(GuardError, match="finished scan"):
        scan(guard, source, output, resume=False, progress=False)


def test_a_strangers_file_is_never_touched(guard, source, tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("mine\n")
    with pytest.raises(GuardError, match="exists already"):
        scan(guard, source, output, progress=False)
    assert output.read_text() == "mine\n"


def test_limit_and_bad_lines(guard, source, tmp_path):
    assert scan(guard, source, tmp_path / "few.jsonl", limit=70, progress=False).rows == 70
    lines = prompt_file(source, 400).read_text().splitlines()
    source.write_text("\n".join([*lines[:350], "{broken", *lines[350:]]))
    with pytest.raises(PromptFileError, match="line 351"):
        scan(guard, source, tmp_path / "bad.jsonl", batch_size=1000, progress=False)
    assert len(rows_of(tmp_path / "bad.jsonl")) == 320


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"output": "out.csv"}, "ends in neither"),
        ({"output": "nowhere/out.jsonl"}, "does not exist"),
        ({"batch_size": 0}, "at least 1"),
        ({"limit": 0}, "at least 1"),
        ({"source": 3}, "a sequence of prompts"),
        ({"source": [], "output": "empty.jsonl"}, "no prompt"),
        ({"source": ["x"], "prompt_column": "y"}, "in memory"),
    ],
)
def test_what_cannot_be_scanned_is_refused_and_nothing_is_written(guard, source, tmp_path, options, word):
    options = {"source": source, "output": "out.jsonl"} | options
    before = set(tmp_path.iterdir())
    with pytest.raises(GuardError, match=word):
        scan(guard, output=tmp_path / options.pop("output"), progress=False, **options)
    assert set(tmp_path.iterdir()) == before


def test_a_missing_source_leaves_the_old_output(guard, source, tmp_path):
    scan(guard, source, tmp_path / "out.jsonl", limit=5, progress=False)
    with pytest.raises(PromptFileError):
        scan(guard, tmp_path / "nowhere.jsonl", tmp_path / "out.jsonl", overwrite=True, progress=False)
    assert len(rows_of(tmp_path / "out.jsonl")) == 5


def test_a_missing_source_writes_nothing(guard, tmp_path):
    with pytest.raises(PromptFileError):
        scan(guard, tmp_path / "nowhere.jsonl", tmp_path / "out.jsonl", progress=False)
    assert not list(tmp_path.iterdir())


def test_twenty_kills_lose_and_repeat_no_row(guard, chat, tmp_path):
    """SIGKILL at random moments, with changing batch sizes; the bytes equal those of an undisturbed scan."""
    chat.model.save_pretrained(tmp_path / "model")
    chat.tokenizer.save_pretrained(tmp_path / "model")
    guard.save_pretrained(tmp_path / "guard")
    source = prompt_file(tmp_path / "prompts.jsonl", 1200)
    (tmp_path / "work").mkdir()
    arguments = [str(tmp_path / name) for name in ("model", "guard", "prompts.jsonl", "work")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.guard.killed_scans", *arguments, "20", "0"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("20 kills")
    assert source.exists()


class Lengths:
    """A scorer of another engine: the score is the text's length, and every chunk takes the time that it is told."""

    fingerprint, model_fingerprint, chunk_rows, has_refusal = "lengths", "none", 7, False

    def __init__(self, chunks_in_flight: int = 1, broken_at: int | None = None) -> None:
        self.chunks_in_flight, self.broken_at = chunks_in_flight, broken_at
        self.sizes: list[int] = []
        self.lock, self.open, self.most = threading.Lock(), 0, 0

    def score_chunk(self, prompts, first_row, include_prompts=False):
        with self.lock:
            self.open += 1
            self.most = max(self.most, self.open)
            self.sizes.append(len(prompts))
        time.sleep(0.03 if first_row % 2 else 0.005)
        with self.lock:
            self.open -= 1
        if self.broken_at is not None and first_row >= self.broken_at:
            raise GuardError("The engine broke.")
        scores = {"harmful": 0.5, "refusal": None, "flagged": False, "quadrant": "harmless"}
        return [
            score_row(first_row + index, prompt, include_prompts, scores | {"harmfulness": float(len(prompt.text))})
            for index, prompt in enumerate(prompts)
        ]


@pytest.mark.parametrize("flying", [1, 4])
def test_another_scorer_takes_the_guards_place(source, tmp_path, flying):
    scorer = Lengths(flying)
    result = scan(scorer, source, tmp_path / "out.jsonl", batch_size=10, include_prompts=True, progress=False)
    rows = rows_of(tmp_path / "out.jsonl")
    assert [row["harmfulness"] for row in rows] == [len(row["prompt"]) for row in rows_of(source)]
    assert [row["row"] for row in rows] == list(range(150)) and result.quadrants == {"harmless": 150}
    assert list(rows[0]) == [
        "row", "id", "harmful", "harmfulness", "refusal", "flagged", "quadrant", "error", "prompt",
    ]  # fmt: skip
    assert sorted(scorer.sizes) == [3, *[7] * 21]
    assert scorer.most == 1 if flying == 1 else 1 < scorer.most <= flying
    note = json.loads((tmp_path / "out.jsonl.scan.json").read_text())
    assert (note["guard"], note["model"], note["chunk_rows"]) == ("lengths", "none", 7)


@pytest.mark.parametrize("flying", [1, 4])
def test_a_scorer_that_breaks_leaves_the_rows_before_and_is_resumed(source, tmp_path, flying):
    output = tmp_path / "out.jsonl"
    with pytest.raises(GuardError, match="engine broke"):
        scan(Lengths(flying, broken_at=70), source, output, progress=False)
    assert len(rows_of(output)) == 70
    assert scan(Lengths(flying), source, output, progress=False).resumed == 70
    scan(Lengths(), source, tmp_path / "whole.jsonl", progress=False)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_bad_line_keeps_all_whole_chunks_that_were_in_flight(source, tmp_path):
    lines = prompt_file(source, 400).read_text().splitlines()
    source.write_text("\n".join([*lines[:350], "{broken"]))
    with pytest.raises(PromptFileError, match="line 351"):
        scan(Lengths(4), source, tmp_path / "out.jsonl", progress=False)
    assert len(rows_of(tmp_path / "out.jsonl")) == 350


def test_guard_and_scorer_of_the_guard_write_the_same(guard, source, tmp_path):
    scan(guard, source, tmp_path / "a.jsonl", progress=False)
    scan(LocalScorer(guard), source, tmp_path / "b.jsonl", progress=False)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.jsonl.scan.json").read_bytes() == (tmp_path / "b.jsonl.scan.json").read_bytes()
