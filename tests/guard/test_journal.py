from __future__ import annotations

import json

import pytest

from undertow.errors import GuardError
from undertow.guard.journal import Journal, Manifest, source_fingerprint


def row(number: int) -> dict:
    return {"row": number, "text": "line\nbreak \u2028 é"}


def test_commits_are_whole_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    with Journal(path) as journal:
        journal.commit([row(0), row(1)])
        journal.commit([])
        assert journal.rows == 2
        assert path.read_bytes().count(b"\n") == 2
    with Journal(path) as journal:
        assert journal.rows == 2
        journal.commit([row(2)])
    assert [json.loads(line)["row"] for line in path.read_bytes().split(b"\n")[:-1]] == [0, 1, 2]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_is_cut_off_wherever_it_was_torn(tmp_path, cut):
    path = tmp_path / "rows.jsonl"
    with Journal(path) as journal:
        journal.commit([row(0), row(1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal(path) as journal:
        assert journal.rows == whole[:-cut].count(b"\n")
        journal.commit([row(number) for number in range(journal.rows, 2)])
    assert path.read_bytes() == whole


def test_a_torn_line_longer_than_what_follows_leaves_nothing_behind(tmp_path):
    path = tmp_path / "rows.jsonl"
    with Journal(path) as journal:
        journal.commit([row(0)])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"row": 1, "text": "' + b"x" * 5000)
    with Journal(path) as journal:
        assert path.read_bytes() == whole
        journal.commit([row(1)])
    assert path.read_bytes().count(b"\n") == 2


def test_lines_longer_than_a_block_are_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    with Journal(path) as journal:
        journal.commit([{"row": number, "text": "x" * 700_000} for number in range(5)])
    with Journal(path) as journal:
        assert journal.rows == 5


def test_rows_of_something_else_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    for content in ('{"row": 5}\n', "text\n", "[1]\n"):
        path.write_text(content)
        with pytest.raises(GuardError, match="does not hold the rows"):
            Journal(path)


def test_only_one_may_write(tmp_path):
    with Journal(tmp_path / "rows.jsonl"), pytest.raises(GuardError, match="Another scan"):
        Journal(tmp_path / "rows.jsonl")
    Journal(tmp_path / "rows.jsonl").__exit__(None, None, None)


def test_recovery_after_an_interrupted_commit(tmp_path):
    with Journal(tmp_path / "rows.jsonl") as journal:
        journal.commit([row(0)])
        with open(tmp_path / "rows.jsonl", "ab") as stream:
            stream.write(json.dumps(row(1)).encode() + b'\n{"row": 2, "te')
        journal.recover()
        assert journal.rows == 2
        journal.commit([row(2)])
    assert len((tmp_path / "rows.jsonl").read_bytes().split(b"\n")) == 4


def test_manifest(tmp_path):
    manifest = Manifest(tmp_path / "out.scan.json")
    assert manifest.read() is None
    manifest.write({"a": 1})
    assert manifest.read() == {"a": 1}
    manifest.path.write_text("{")
    with pytest.raises(GuardError, match="damaged"):
        manifest.read()
    manifest.remove()
    manifest.remove()
    assert manifest.read() is None


def test_source_fingerprints_tell_files_apart(tmp_path):
    import hashlib

    path = tmp_path / "prompts.txt"
    path.write_bytes(b"a" * (3 << 20))
    assert source_fingerprint(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    large = source_fingerprint(path, most=1 << 20)
    assert large.startswith("ends:")
    path.write_bytes(b"a" * (3 << 20) + b"b")
    assert source_fingerprint(path, most=1 << 20) != large
