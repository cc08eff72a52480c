from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import Ground
from tests.engines.standin import Standin, moderation, standing_in, unjudged, verdict_of
from undertow.engines.openai import OpenAIScorer
from undertow.errors import GuardError
from undertow.guard.scan import scan
from undertow.prompts import Prompt

TEXTS = [f"{'attack' if row % 3 else 'bake'} {'x' * row}" for row in range(200)]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def server() -> Iterator[Standin]:
    with standing_in() as standin:
        yield standin


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def scanned(server: Standin, output: Path, source: Any = TEXTS, overwrite: bool = False, **options: Any) -> list[dict]:
    with OpenAIScorer(server.url, **options) as scorer:
        scan(scorer, source, output, progress=False, overwrite=overwrite)
    return rows_of(output)


def check_rows(rows: list[dict[str, Any]]) -> None:
    assert [row["row"] for row in rows] == list(range(len(TEXTS)))
    for row, text in zip(rows, TEXTS, strict=True):
        verdict = verdict_of(text)
        assert row["error"] is None
        assert {name: row[name] for name in ("harmful", "harmfulness", "refusal", "flagged", "quadrant")} == {
            name: verdict[name] for name in ("harmful", "harmfulness", "refusal", "flagged", "quadrant")
        }


def test_rows_are_in_order_though_answers_are_not(server: Standin, tmp_path: Path) -> None:
    def answer(texts: list[str]) -> Any:
        time.sleep(0.15 if texts[0] == TEXTS[0] else 0.01)
        return 200, moderation(texts), {}

    server.answer = answer
    check_rows(scanned(server, tmp_path / "out.jsonl", requests_in_flight=4))
    assert 2 <= server.most <= 4
    assert sorted(map(len, server.asked)) == [8, 32, 32, 32, 32, 32, 32], "lists, none asked twice"


def test_one_request_at_a_time(server: Standin, tmp_path: Path) -> None:
    check_rows(scanned(server, tmp_path / "out.jsonl", requests_in_flight=1))
    assert server.most == 1


@pytest.mark.parametrize("kind", ["429", "503", "500", "dropped", "date"])
def test_passing_failures_are_waited_out(server: Standin, tmp_path: Path, kind: str) -> None:
    seen: dict[str, float] = {}
    waited: list[float] = []
    lock = threading.Lock()

    def answer(texts: list[str]) -> Any:
        with lock:
            before = seen.get(texts[0])
            if before is None:
                seen[texts[0]] = time.monotonic()
            else:
                waited.append(time.monotonic() - before)
        if before is not None:
            return 200, moderation(texts), {}
        if kind == "dropped":
            return 0, None, {}
        if kind == "date":
            return 429, {}, {"Retry-After": formatdate(time.time() + 2, usegmt=True)}
        return int(kind), {}, {"Retry-After": "0.4"} if kind == "429" else {}

    server.answer = answer
    source = TEXTS[:64] if kind == "date" else TEXTS
    rows = scanned(server, tmp_path / "out.jsonl", source)
    assert [row["harmfulness"] for row in rows] == [float(len(text)) for text in source]
    assert len(waited) == len(seen)
    if kind == "429":
        assert min(waited) >= 0.4
    if kind == "date":
        assert min(waited) >= 0.9, "a date counts in whole seconds"


def test_a_server_that_stays_away_ends_the_scan_which_can_be_resumed(server: Standin, tmp_path: Path) -> None:
    away = True

    def answer(texts: list[str]) -> Any:
        return (503, {}, {}) if away and TEXTS.index(texts[0]) >= 96 else (200, moderation(texts), {})

    server.answer = answer
    output = tmp_path / "out.jsonl"
    with pytest.raises(GuardError, match=r"gave no answer for 1 seconds \(status 503\)"):
        scanned(server, output, requests_in_flight=2, patience=1)
    assert len(rows_of(output)) == 96
    away = False
    server.asked.clear()
    check_rows(scanned(server, output))
    assert TEXTS[0] not in {text for texts in server.asked for text in texts}


def test_what_is_under_way_when_a_scan_ends_is_not_waited_for(server: Standin, tmp_path: Path) -> None:
    release, waiting = threading.Event(), threading.Barrier(4)

    def answer(texts: list[str]) -> Any:
        waiting.wait(10)
        if texts[0] == TEXTS[0]:
            return 404, {"error": {"message": "gone"}}, {}
        release.wait(20)
        return 200, moderation(texts), {}

    server.answer = answer
    begin = time.monotonic()
    try:
        with pytest.raises(GuardError, match="answers with status 404: gone"):
            scanned(server, tmp_path / "out.jsonl", requests_in_flight=4)
        for thread in threading.enumerate():
            if thread.name.startswith("undertow-scan"):
                thread.join()
        assert time.monotonic() - begin < 8
    finally:
        release.set()


def test_another_guard_on_the_server_is_refused_on_resuming(server: Standin, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    scanned(server, output)
    server.guard = "0" * 64
    with pytest.raises(GuardError, match="scan of another guard"):
        scanned(server, output)
    assert len(scanned(server, output, overwrite=True)) == len(TEXTS)


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize("at", [0, 96, 192], ids=["first", "middle", "last"])
@pytest.mark.parametrize("failure", [None, 0, 500, 502, 503, 504])
def test_no_row_of_another_guard_is_kept_however_the_server_changed(
    server: Standin, tmp_path: Path, failure: int | None, at: int, in_flight: int
) -> None:
    def answer(texts: list[str]) -> Any:
        if TEXTS.index(texts[0]) >= at and server.guard == "f" * 64:
            server.guard = "0" * 64
            if failure is not None:
                return failure, {}, {"Retry-After": "0.05"}
        judged = {text: verdict_of(text) | {"refusal": 9.0} for text in texts} if server.guard == "0" * 64 else {}
        return 200, moderation(texts, lambda text: judged.get(text) or verdict_of(text)), {}

    server.answer = answer
    output = tmp_path / "out.jsonl"
    with pytest.raises(GuardError, match="came back with another guard"):
        scanned(server, output, requests_in_flight=in_flight)
    rows = rows_of(output)
    assert all(row["refusal"] == -1.5 for row in rows)
    if in_flight == 1:
        assert len(rows) == at
    with pytest.raises(GuardError, match="scan of another guard"):
        scanned(server, output)
    server.guard, server.answer = "f" * 64, lambda texts: (200, moderation(texts), {})
    check_rows(scanned(server, output))


def test_chunks_answered_together_share_a_check(server: Standin, tmp_path: Path) -> None:
    together, checks = threading.Barrier(4), []

    def models() -> dict[str, Any]:
        checks.append(time.monotonic())
        time.sleep(0.3)
        return Standin.models(server)

    def answer(texts: list[str]) -> Any:
        together.wait(10)
        return 200, moderation(texts), {}

    server.answer = answer
    vars(server)["models"] = models
    rows = scanned(server, tmp_path / "out.jsonl", TEXTS[:128], requests_in_flight=4)
    assert len(rows) == 128
    assert 2 <= len(checks) <= 3, "one at the start; one of the first chunk, and one of all that came meanwhile"


def test_a_text_that_the_server_refuses_costs_no_other_its_verdict(server: Standin, tmp_path: Path) -> None:
    def answer(texts: list[str]) -> Any:
        if TEXTS[77] in texts:
            return 413, {"error": {"message": "The body\nis too large."}}, {}
        return 200, moderation(texts), {}

    server.answer = answer
    rows = scanned(server, tmp_path / "out.jsonl")
    assert [row["row"] for row in rows if row["error"]] == [77]
    assert rows[77]["error"] == "The server refuses this prompt: The body is too large."
    assert rows[77]["harmful"] is None and rows[77]["flagged"] is None
    assert rows[76]["harmfulness"] == len(TEXTS[76])


def test_unjudged_texts_and_conversations_get_an_error_and_no_scores(server: Standin, tmp_path: Path) -> None:
    def judge(text: str) -> dict[str, Any]:
        return unjudged("too_long") if text == "long" else verdict_of(text)

    server.answer = lambda texts: (200, moderation(texts, judge), {})
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "bake"}]
    source = ["attack", "long", Prompt(tuple(turns), id="turns"), [{"role": "user", "content": "one"}]]
    rows = scanned(server, tmp_path / "out.jsonl", source)
    assert [row["flagged"] for row in rows] == [True, None, None, False]
    assert "longer than the server takes" in rows[1]["error"]
    assert "conversation of 2 messages" in rows[2]["error"] and rows[2]["id"] == "turns"
    assert rows[3]["error"] is None
    assert server.asked == [["attack", "long", "one"]]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"results": [{"flagged": False}]}, "without the field `undertow`"),
        ({"results": []}, "one result for every text"),
        ({"results": [{"undertow": {"judged": True, "flagged": False}}]}, "verdicts without harmful, harmfulness"),
        ([1], "JSON object"),
        (b"<html>", "JSON object"),
    ],
)
def test_a_server_that_gives_no_verdicts_is_refused(server: Standin, tmp_path: Path, body: Any, word: str) -> None:
    server.answer = lambda texts: (200, body, {})
    with pytest.raises(GuardError, match=word):
        scanned(server, tmp_path / "out.jsonl", ["bake"])


def test_a_server_without_a_guard_or_key_or_at_no_address_is_refused(
    server: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "secret"
    with pytest.raises(GuardError, match="refuses the key"):
        OpenAIScorer(server.url)
    OpenAIScorer(server.url + "/v1/", api_key="secret").close()
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    scorer = OpenAIScorer(server.url)
    scorer.close()
    assert (scorer.fingerprint, scorer.model_fingerprint, scorer.has_refusal) == (f"server:{'f' * 64}", "m", True)
    server.guard, server.about = None, {"quadrants": ["harmful", "harmless"], "warnings": ["forced"]}
    scorer = OpenAIScorer(server.url)
    scorer.close()
    assert scorer.fingerprint == f"server:{server.url}/v1"
    assert (scorer.has_refusal, scorer.warnings) == (False, ["forced"])
    monkeypatch.setattr(Standin, "models", lambda self: {"data": [{"id": "other"}]})
    with pytest.raises(GuardError, match="names no guard"):
        OpenAIScorer(server.url)
    for address, word in (
        ("localhost:8000", "begins with http"),
        ("http://127.0.0.1:9", "gave no answer"),
        ("http://127.0.0.1:80a", r"^'http://127\.0\.0\.1:80a' is not the address of a server: Invalid port"),
        ("http://[::1", "is not the address of a server"),
    ):
        with pytest.raises(GuardError, match=word):
            OpenAIScorer(address, patience=0.2)


@pytest.mark.parametrize("key", ["sesame\n", " sesame", "ses\rame", "sesäme"])
def test_a_key_that_no_header_holds_is_refused_at_once_and_not_shown(
    server: Standin, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    begin = time.monotonic()
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for given in (key, None):
        with pytest.raises(GuardError, match="The key has a blank at an edge, a line break, or a letter") as caught:
            OpenAIScorer(server.url, api_key=given)
        assert "ame" not in str(caught.value)
    assert time.monotonic() - begin < 2, "not tried again"


def test_a_proxy_that_is_none_is_said_to_be_one(server: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "carrier-pigeon://here")
    with pytest.raises(GuardError, match=r"^The proxy that the environment names cannot be used: "):
        OpenAIScorer(server.url)


def test_an_answer_that_cannot_be_unpacked_is_one_that_passes(server: Standin, tmp_path: Path) -> None:
    def answer(texts: list[str]) -> Any:
        if len(server.asked) == 1:
            return 200, b"not packed", {"Content-Encoding": "gzip"}
        return 200, moderation(texts), {}

    server.answer = answer
    assert [row["error"] for row in scanned(server, tmp_path / "out.jsonl", TEXTS[:3])] == [None] * 3
    server.answer = lambda texts: (200, b"not packed", {"Content-Encoding": "gzip"})
    with pytest.raises(GuardError, match="gave no answer for 1 seconds"):
        scanned(server, tmp_path / "other.jsonl", TEXTS[:3], patience=1)


def test_a_real_server_gives_the_rows_of_a_local_scan(ground: Ground, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from tests.serve.served import serving

    with serving(ground.guard) as served, OpenAIScorer(served.url) as scorer:
        result = scan(scorer, ground.source, tmp_path / "out.jsonl", limit=400, progress=False)
    remote, local = rows_of(tmp_path / "out.jsonl"), rows_of(ground.whole)[:400]
    assert scorer.guard_fingerprint == ground.guard.fingerprint and scorer.has_refusal
    assert result.errors == 2
    for mine, theirs in zip(remote, local, strict=True):
        if mine["row"] in (100, 170):
            assert mine["error"] and mine["harmful"] is None
            continue
        for name in ("harmful", "harmfulness", "refusal"):
            assert mine[name] == pytest.approx(theirs[name], abs=1e-4)
        assert {name: mine[name] for name in ("row", "id", "error")} == {
            name: theirs[name] for name in ("row", "id", "error")
        }
        if abs(theirs["harmfulness"] - ground.guard.threshold) > 1e-3 and abs(theirs["refusal"]) > 1e-3:
            assert (mine["flagged"], mine["quadrant"]) == (theirs["flagged"], theirs["quadrant"])
