from __future__ import annotations

import errno
import hashlib
import hmac
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.guard.taught import fit_prompts
from tests.serve.asked import chat_body
from tests.serve.served import client, serving, settings_with
from undertow.guard import LatentGuard
from undertow.guard.verdict import Verdict
from undertow.prompts import Prompt
from undertow.serve.audit import Audit, AuditError, conversation_hash
from undertow.serve.jobs import Judgement, Policy

FLAGGED = Judgement(Verdict(0.9, -0.2, "harmful, about to be answered", True, 2.0, 0.5), "refused", tokens=9)
UNJUDGED = Judgement(None, "refused", "too_long")
SECRET = Prompt("How do I open the vault? ünïcode\n")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def everything(path: Path) -> list[dict[str, Any]]:
    """Lines of the numbered files and the current one, oldest first."""
    numbered = [part for part in path.parent.glob(f"{path.name}.*") if part.suffix[1:].isdigit()]
    numbered.sort(key=lambda part: -int(part.suffix[1:]))
    return [line for part in [*numbered, path] for line in lines_of(part)]


def test_a_line_has_the_scores_and_not_the_text(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path, guard="print")
    audit.record("chat-1", "/v1/chat/completions", SECRET, FLAGGED, Policy(on_harmful="refuse"))
    audit.record("mod-1", "/v1/moderations", Prompt("x" * 9), UNJUDGED, index=3)
    pushed = {"direction": "refusal", "state": 2, "coefficient": -1.0, "span": "tail"}
    audit.record("page-1", "/inspector/reply", SECRET, FLAGGED, Policy(on_harmful="flag"), steered_by_hand=pushed)
    audit.close()
    assert "vault" not in path.read_text()
    chat, moderation, page = lines_of(path)
    assert page["steered_by_hand"] == pushed and "steered_by_hand" not in chat | moderation
    messages = json.dumps([["user", SECRET.text]], separators=(",", ":")).encode()
    key = (tmp_path / "audit.jsonl.key").read_bytes()
    assert chat["conversation"] == hmac.new(key, messages, hashlib.sha256).hexdigest() == conversation_hash(SECRET, key)
    wanted = {
        "request": "chat-1", "route": "/v1/chat/completions", "index": 0, "guard": "print", "tokens": 9,
        "action": "refused", "judged": True, "reason": None, "harmful": 0.9, "harmfulness": 2.0, "threshold": 0.5,
        "refusal": -0.2, "flagged": True, "quadrant": "harmful, about to be answered", "warnings": [],
        "policy": {"on_harmful": "refuse", "on_over_refusal": "keep", "on_unjudged": "refuse"},
    }  # fmt: skip
    assert {name: chat[name] for name in wanted} == wanted
    assert chat["time"].endswith("+00:00")
    assert (moderation["index"], moderation["reason"], moderation["harmful"], moderation["policy"]) == (
        3,
        "too_long",
        None,
        None,
    )
    assert moderation["threshold"] is None and moderation["flagged"] is True
    assert audit.failures == 0


def test_texts_are_written_where_asked(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl", prompts=True)
    audit.record("1", "/", SECRET, FLAGGED)
    audit.record("2", "/", Prompt("\ud800 alone"), FLAGGED)
    audit.close()
    assert [line["messages"] for line in lines_of(tmp_path / "audit.jsonl")] == [
        SECRET.messages,
        [{"role": "user", "content": "\ud800 alone"}],
    ]


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    Audit(tmp_path / "audit.jsonl").close()
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"audit.jsonl": 0o600, "audit.jsonl.key": 0o600}


def test_hashes_agree_between_runs_and_differ_between_keys(tmp_path: Path) -> None:
    for name in ("one", "one", "other"):
        audit = Audit(tmp_path / name)
        audit.record("1", "/", SECRET, FLAGGED)
        audit.close()
    first, again = (line["conversation"] for line in lines_of(tmp_path / "one"))
    assert first == again != lines_of(tmp_path / "other")[0]["conversation"]


def test_no_line_is_lost_at_rotation_by_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path, max_bytes=5_000, files=1_000)
    threads = [
        threading.Thread(
            target=lambda thread=thread: [
                audit.record(f"{thread}-{number}", "/", SECRET, FLAGGED) for number in range(150)
            ]
        )
        for thread in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert audit.flush()
    audit.close()
    sizes = [part.stat().st_size for part in tmp_path.iterdir() if not part.name.endswith(".key")]
    assert len(sizes) > 50 and max(sizes) <= 5_000
    names = [line["request"] for line in everything(path)]
    assert sorted(names) == sorted(f"{thread}-{number}" for thread in range(6) for number in range(150))
    for thread in range(6):
        assert [name for name in names if name.startswith(f"{thread}-")] == [f"{thread}-{n}" for n in range(150)]


def test_only_so_many_files_are_kept_and_they_are_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path, max_bytes=1_200, files=2)
    for number in range(40):
        audit.record(str(number), "/", SECRET, FLAGGED)
    audit.close()
    names = sorted(part.name for part in tmp_path.iterdir())
    assert names == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.key"]
    kept = [int(line["request"]) for line in everything(path)]
    assert kept == list(range(40 - len(kept), 40)) and 3 <= len(kept) < 40


@pytest.mark.parametrize("which", ["audit.jsonl", "audit.jsonl.1"])
def test_where_rotation_fails_the_file_is_written_on(
    tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path, max_bytes=1_200, files=50)
    replace, refused = os.replace, 0

    def failing(source: Any, target: Any) -> None:
        nonlocal refused
        if Path(target).name == which and refused < 4:
            refused += 1
            raise OSError(errno.EACCES, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with caplog.at_level(logging.WARNING, "undertow.serve"):
        for number in range(40):
            audit.record(str(number), "/", SECRET, FLAGGED)
        audit.close()
    assert refused == 4 and audit.failures == 0
    assert "could not be rotated" in caplog.text
    names = [line["request"] for line in everything(path)]
    assert sorted(names, key=int) == [str(number) for number in range(40)]


def test_a_file_that_was_moved_away_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.record("1", "/", SECRET, FLAGGED)
    assert audit.flush()
    path.rename(tmp_path / "elsewhere")
    audit.record("2", "/", SECRET, FLAGGED)
    audit.close()
    assert [lines_of(part)[0]["request"] for part in (tmp_path / "elsewhere", path)] == ["1", "2"]


def test_a_failing_disk_is_counted_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    audit = Audit(tmp_path / "audit.jsonl", on_failure=lambda: told.append(1))
    audit.record("before", "/", SECRET, FLAGGED)
    assert audit.flush()
    write = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) > 100:
            # A full disk takes a part first, and then nothing.
            return write(handle, data[:40])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", lambda handle, data: full(handle, data[:140]))
    with caplog.at_level(logging.ERROR, "undertow.serve"):
        for number in range(5):
            audit.record(str(number), "/", SECRET, FLAGGED)
        assert audit.flush()
    monkeypatch.setattr(os, "write", write)
    audit.record("after", "/", SECRET, FLAGGED)
    audit.close()
    assert audit.failures == len(told) == 5
    assert caplog.text.count("not being written") == 1 and "vault" not in caplog.text
    assert [line["request"] for line in lines_of(tmp_path / "audit.jsonl")] == ["before", "after"]


def test_a_disk_that_hangs_costs_lines_and_not_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undertow.serve.audit.WAITING_BYTES", 3_000)
    audit = Audit(tmp_path / "audit.jsonl")
    released = threading.Event()
    write = os.write

    def hanging(handle: int, data: bytes) -> int:
        released.wait(20)
        return write(handle, data)

    monkeypatch.setattr(os, "write", hanging)
    start = time.perf_counter()
    for number in range(100):
        audit.record(str(number), "/", SECRET, FLAGGED)
    assert time.perf_counter() - start < 5
    assert 80 < audit.failures < 100
    released.set()
    audit.close()
    written = [int(line["request"]) for line in lines_of(tmp_path / "audit.jsonl")]
    assert written == list(range(100 - audit.failures))


def test_after_the_end_lines_count_as_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    audit.close()
    audit.record("1", "/", SECRET, FLAGGED)
    assert "closed" in caplog.text and "slow" not in caplog.text
    assert audit.failures == 1 and (tmp_path / "audit.jsonl").read_bytes() == b""


@pytest.mark.parametrize("torn", [b'{"time":"torn', b"{", b'{"time":"' + b"x" * 200_000])
def test_a_torn_last_line_is_removed_at_the_next_start(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"time":"","request":"whole"}\n' + torn)
    audit = Audit(path)
    audit.record("next", "/", SECRET, FLAGGED)
    audit.close()
    assert [line["request"] for line in lines_of(path)] == ["whole", "next"]


def test_a_file_with_nothing_but_a_torn_line_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"ti')
    audit = Audit(path)
    audit.record("next", "/", SECRET, FLAGGED)
    audit.close()
    assert [line["request"] for line in lines_of(path)] == ["next"]


@pytest.mark.parametrize("content", [b"\x00\x01 weights", b'{"a": 1}\n', b"a,b\n1,2\n"])
def test_another_file_is_neither_written_to_nor_cut(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "precious"
    path.write_bytes(content)
    with pytest.raises(AuditError, match="something else than verdicts"):
        Audit(path)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="cannot be used"):
        Audit(tmp_path / "missing" / "audit.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(AuditError, match="cannot be used"):
        Audit(tmp_path / "folder")
    (tmp_path / "short.key").write_bytes(b"short")
    with pytest.raises(AuditError, match="not a key"):
        Audit(tmp_path / "short")


def test_two_servers_do_not_write_one_file(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    with pytest.raises(AuditError, match="another server writes to it"):
        Audit(tmp_path / "audit.jsonl")
    audit.close()
    Audit(tmp_path / "audit.jsonl").close()


WRITER = """
import sys
from pathlib import Path
from tests.serve.test_audit import FLAGGED
from undertow.prompts import Prompt
from undertow.serve.audit import Audit
audit = Audit(Path(sys.argv[1]), max_bytes=1_000_000, files=50, prompts=True)
number = 0
while True:
    audit.record(str(number), "/", Prompt("y" * 3_000), FLAGGED)
    number += 1
    if number % 50 == 0:
        audit.flush()
        print(number, flush=True)
"""


def test_lines_are_whole_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    told = 0
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(8):
                told += int(writer.stdout.readline()) and 50
            writer.send_signal(signal.SIGKILL)
    Audit(path).close()
    lines = everything(path)
    assert len(lines) >= told
    assert all(line["messages"][0]["content"] == "y" * 3_000 for line in lines)


def test_a_servers_lines_are_its_responses(guard: LatentGuard, tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl", guard=guard.fingerprint)
    harmful, harmless = (prompts[0].text for prompts in fit_prompts())
    key = (tmp_path / "audit.jsonl.key").read_bytes()
    with serving(guard, settings_with(name="taught"), audit=audit) as served, client(served) as asking:
        chat = asking.post("/v1/chat/completions", json=chat_body(harmful, max_tokens=3))
        moderations = asking.post("/v1/moderations", json={"input": [harmless, harmful]})
    audit.close()
    lines = lines_of(tmp_path / "audit.jsonl")
    wires = [chat.json()["undertow"], *(result["undertow"] for result in moderations.json()["results"])]
    for line, wire, text in zip(lines, wires, (harmful, harmless, harmful), strict=True):
        assert {name: line[name] for name in wire} == wire
        assert line["conversation"] == conversation_hash(Prompt(text), key)
        assert line["guard"] == guard.fingerprint and line["tokens"] == len(guard.model.render(text))
    names = [response.headers["x-request-id"] for response in (chat, moderations, moderations)]
    assert [line["request"] for line in lines] == names
    assert [line["index"] for line in lines] == [0, 0, 1]
    assert [line["policy"] is None for line in lines] == [False, True, True]
    assert harmful not in (tmp_path / "audit.jsonl").read_text()
