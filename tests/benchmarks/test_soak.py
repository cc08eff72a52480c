"""What the soak test counts as wrong, and a short run of it against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import soak, soak_cases
from benchmarks.soak import Soaked, growth, slope, table
from benchmarks.soak_cases import ChatCase, ModerationCase, wrong_chat, wrong_error, wrong_full, wrong_moderations
from benchmarks.soak_clients import WEIGHTS
from tests.guard.taught import fit_prompts, taught_chat
from undertow import load
from undertow.guard import LatentGuard, Verdict

VERDICT = Verdict(0.2, -1.5, "harmless, answered", False, -3.0, 0.5)
CASE = ChatCase({}, VERDICT, "none", "Take the train.")
WIRE = {
    "action": "none", "judged": True, "reason": None, "harmful": 0.2, "harmfulness": -3.0, "threshold": 0.5,
    "refusal": -1.5, "flagged": False, "quadrant": "harmless, answered", "warnings": [],
}  # fmt: skip


def whole(text: str, wire: dict[str, Any], finished: str = "stop", header: Any = None) -> Any:
    body = {"choices": [{"message": {"content": text}, "finish_reason": finished}], "undertow": wire}
    return response(body, header={"x-undertow-verdict": json.dumps(wire if header is None else header)})


def streamed(pieces: list[str], wire: dict[str, Any], *, end: bool = True) -> Any:
    chunks: list[Any] = [{"choices": [{"delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    chunks[0]["undertow"] = wire
    lines = [json.dumps(chunk) for chunk in chunks] + (["[DONE]"] if end else [])
    body = "".join(f"data: {line}\n\n" for line in lines).encode()
    headers = {"content-type": "text/event-stream; charset=utf-8", "x-undertow-verdict": json.dumps(wire)}
    return soak_cases.Response(200, headers, body)


def response(body: Any, status: int = 200, header: dict[str, str] | None = None) -> Any:
    headers = {"content-type": "application/json", **(header or {})}
    return soak_cases.Response(status, headers, json.dumps(body).encode())


def test_right_answers_are_right() -> None:
    assert wrong_chat(whole(CASE.text, WIRE), CASE) is None
    assert wrong_chat(streamed(["", "Take the", " train."], WIRE), CASE) is None
    near = {**WIRE, "harmfulness": -3.0 + soak_cases.TOLERANCE / 2}
    assert wrong_chat(whole(CASE.text, near), CASE) is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (whole("Take the bus.", WIRE), "the reply is another"),
        (whole(CASE.text, {**WIRE, "harmfulness": -2.9}), "harmfulness is -2.9"),
        (whole(CASE.text, {**WIRE, "refusal": None}), "refusal is None"),
        (whole(CASE.text, {**WIRE, "quadrant": "harmful, refused"}), "quadrant"),
        (whole(CASE.text, {**WIRE, "action": "flagged"}), "action"),
        (whole(CASE.text, {**WIRE, "judged": False}), "judged"),
        (whole(CASE.text, WIRE, "content_filter"), "finished by content_filter"),
        (whole(CASE.text, WIRE, header={**WIRE, "harmful": 0.3}), "header and the body differ"),
        (streamed(["", "Take the", " train."], WIRE, end=False), "no end"),
        (streamed(["", "Take the"], WIRE), "the reply is another"),
        (response({}), "another shape"),
    ],
)
def test_wrong_answers_are_found(answer: Any, said: str) -> None:
    assert said in (wrong_chat(answer, CASE) or "")


def test_verdicts_in_another_order_are_found() -> None:
    other = replace(VERDICT, harmfulness=1.0, flagged=True, quadrant="harmful, refused", harmful=0.9)
    wires = [WIRE, {**WIRE, "harmfulness": 1.0, "flagged": True, "quadrant": "harmful, refused", "harmful": 0.9,
                    "action": "flagged"}]  # fmt: skip
    cases = [ModerationCase("a", VERDICT), ModerationCase("b", other)]
    results = [{"flagged": wire["flagged"], "undertow": wire} for wire in wires]
    assert wrong_moderations(response({"results": results}), cases) is None
    assert wrong_moderations(response({"results": results[::-1]}), cases) is not None
    assert "1 results for 2" in (wrong_moderations(response({"results": results[:1]}), cases) or "")
    open_ = {"flagged": False, "undertow": {**WIRE, "judged": False, "reason": "too_long", "harmful": None}}
    assert wrong_moderations(response({"results": [open_]}), [ModerationCase("c", None)]) is not None


def test_refusals_have_a_shape_and_repeat_nothing() -> None:
    body = {"error": {"message": "m", "type": "t", "param": None, "code": "c"}}
    assert wrong_error(response(body, 400), [400, 422]) is None
    assert wrong_error(response(body, 500), [400, 422]) == "status 500, not 400 or 422"
    assert wrong_error(response({"error": "no"}, 400), [400]) == "an error of another shape"
    assert wrong_error(response({**body, "echo": soak_cases.MARK}, 400), [400]) is not None
    assert wrong_full(response(body, 429, {"retry-after": "2"})) is None
    assert wrong_full(response(body, 429)) is not None
    assert wrong_full(response(body, 429, {"retry-after": "0"})) is not None


def test_growth_is_that_of_the_fitted_line_over_the_second_half() -> None:
    times = np.arange(0, 60, 0.5)
    noise = np.random.default_rng(0).normal(0, 1e6, len(times))
    # The first half climbs, as memory does while a server warms up.
    sizes = np.where(times < 29, 4e8 + 1e7 * times, 7e8) + noise
    assert abs(growth([(float(t), int(s)) for t, s in zip(times, sizes, strict=True)])) < 2e6
    leaking = 4e8 + 1e6 * times + noise
    late = times >= times[-1] / 2
    fitted = np.polyfit(times[late], leaking[late], 1)[0] * (times[late][-1] - times[late][0])
    found = growth([(float(t), int(s)) for t, s in zip(times, leaking, strict=True)])
    assert found == pytest.approx(fitted, rel=1e-6) and found > 2.5e7
    assert slope([(0.0, 1.0)]) == 0.0


def test_what_is_amiss_is_a_failure() -> None:
    found = Soaked(samples=[(0.0, 1), (1.0, 1), (2.0, 40 * 2**20)], files=(7, 9), ended=None)
    found.tally.sent["chat"] = 2
    found.tally.problems["chat"] += ["the reply is another"]
    soak._check(found, full=True)
    told = " ".join(found.failures)
    for part in ("chat: 1 of 2", "chat: no response", "never full", "Memory grew", "9 files", "ended with None"):
        assert part in told
    good = Soaked(samples=[(0.0, 1), (1.0, 1)], files=(7, 7), ended=0)
    soak._check(good, full=False)
    assert good.failures == []


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_sixty_clients_for_some_seconds(one_thread: None, tmp_path: Path) -> None:
    chat = taught_chat()
    chat.model.save_pretrained(tmp_path / "model")
    chat.tokenizer.save_pretrained(tmp_path / "model")
    harmful, harmless = fit_prompts()
    model = load(str(tmp_path / "model"))
    LatentGuard.fit(model, harmful, harmless, calibration=0.05, progress=False).save_pretrained(tmp_path / "guard")
    guard = LatentGuard.from_pretrained(tmp_path / "guard", model=model)
    texts = list(dict.fromkeys(prompt.text for prompt in [*harmful[::6], *harmless[::6]]))[:60]
    found = soak.soak(tmp_path / "guard", guard, texts, clients=60, seconds=6)
    assert found.failures == [], table(found, 6)
    assert all(found.tally.right[kind] for kind in ("chat", "stream", "moderations"))
    assert len(found.tally.sent) == len(WEIGHTS)
