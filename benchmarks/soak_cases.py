"""What the soak test asks, and the one right answer to each, worked out without a server."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traffic import Response, content_of

from undertow.guard import LatentGuard, Verdict

TOLERANCE = 2e-3
"""Between a score read in a batch and one read alone, in the units of the guard's rule."""

TOKENS = 24
MARK = "zq-unechoed-77"
"""Stands in every malformed body; no response and no log may repeat it."""


@dataclass(frozen=True)
class ChatCase:
    """One chat request and its answer.

    Attributes:
        options: fields of the request beside the model.
        verdict: of the prompt.
        action: that the policy takes.
        text: the reply.
    """

    options: Mapping[str, Any]
    verdict: Verdict
    action: str
    text: str


@dataclass(frozen=True)
class ModerationCase:
    """One text to be judged; the verdict is None where it is too long to be read."""

    text: str
    verdict: Verdict | None


def chat_cases(guard: LatentGuard, texts: Sequence[str]) -> list[ChatCase]:
    """Every text under the server's policy or another one, greedy or sampled with a seed of its own."""
    cases = []
    for number, text in enumerate(texts):
        options: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": TOKENS}
        policy: dict[str, Any] = [{}, {"on_harmful": "flag"}, {"on_harmful": "refuse"}][number % 3]
        if guard.steering is not None and number % 4 == 3:
            policy = {"on_harmful": "steer"}
        sampling = {"temperature": 0.0} if number % 2 else {"temperature": 0.8, "top_p": 0.95, "seed": number}
        reply = guard.generate(text, max_new_tokens=TOKENS, progress=False, **policy, **sampling)[0]
        extra = {"undertow": policy} if policy else {}
        cases.append(ChatCase({**options, **sampling, **extra}, reply.verdict, reply.action, reply.text))
    return cases


def moderation_cases(guard: LatentGuard, texts: Sequence[str], too_long: str) -> list[ModerationCase]:
    """Every text, and one that is too long."""
    verdicts = guard(list(texts))
    return [ModerationCase(text, verdict) for text, verdict in zip(texts, verdicts, strict=True)] + [
        ModerationCase(too_long, None)
    ]


def wrong_verdict(wire: Any, verdict: Verdict | None, action: str) -> str | None:
    """What a verdict on the wire has wrong, None where it is right."""
    if not isinstance(wire, dict):
        return "no verdict"
    if verdict is None:
        wanted: dict[str, Any] = {"judged": False, "reason": "too_long", "flagged": True, "harmful": None}
    else:
        wanted = {"judged": True, "reason": None, "flagged": verdict.flagged, "quadrant": verdict.quadrant}
        for name in ("harmful", "harmfulness", "refusal"):
            expected, found = getattr(verdict, name), wire.get(name)
            if (expected is None) != (found is None):
                return f"{name} is {found}"
            if expected is not None and not math.isclose(found, expected, abs_tol=TOLERANCE):
                return f"{name} is {found}, not {expected}"
    for name, expected in {**wanted, "action": action}.items():
        if wire.get(name) != expected:
            return f"{name} is {wire.get(name)!r}, not {expected!r}"
    return None


def wrong_chat(response: Response, case: ChatCase) -> str | None:
    """What a complete chat answer has wrong, None where it belongs to its own prompt."""
    try:
        if response.headers["content-type"].startswith("text/event-stream"):
            events = response.events
            if not events or events[-1] != "[DONE]":
                return "the stream has no end"
            chunks = [chunk for chunk in events[:-1] if chunk["choices"]]
            text, wire = "".join(content_of(chunk) for chunk in chunks), events[0].get("undertow")
            finished = chunks[-1]["choices"][0]["finish_reason"]
        else:
            body = response.json
            choice, wire = body["choices"][0], body["undertow"]
            text, finished = choice["message"]["content"], choice["finish_reason"]
        if json.loads(response.headers["x-undertow-verdict"]) != wire:
            return "the header and the body differ"
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return f"a response of another shape: {error!r}"
    if text != case.text:
        return f"the reply is another: {text[:80]!r}, not {case.text[:80]!r}"
    if (finished == "content_filter") != (case.action == "refused"):
        return f"it finished by {finished}"
    return wrong_verdict(wire, case.verdict, case.action)


def wrong_moderations(response: Response, cases: Sequence[ModerationCase]) -> str | None:
    """What a complete moderations answer has wrong, None where each result belongs to its own text."""
    try:
        results = response.json["results"]
        if len(results) != len(cases):
            return f"{len(results)} results for {len(cases)} texts"
        for result, case in zip(results, cases, strict=True):
            # What cannot be judged fails closed.
            flagged = case.verdict is None or case.verdict.flagged
            wrong = wrong_verdict(result["undertow"], case.verdict, "flagged" if flagged else "none")
            if wrong is None and result["flagged"] != flagged:
                wrong = "flagged differs from its verdict"
            if wrong is not None:
                return wrong
    except (KeyError, TypeError, ValueError) as error:
        return f"a response of another shape: {error!r}"
    return None


def wrong_error(response: Response, statuses: Sequence[int]) -> str | None:
    """What a refusal has wrong, None where it has the usual shape and one of these statuses."""
    if response.status not in statuses:
        return f"status {response.status}, not {' or '.join(map(str, statuses))}"
    if MARK.encode() in response.body:
        return "the response repeats what was sent"
    try:
        error = response.json["error"]
        whole = isinstance(error["message"], str) and {"type", "param", "code"} <= set(error)
    except (KeyError, TypeError, ValueError):
        whole = False
    return None if whole else "an error of another shape"


def wrong_full(response: Response) -> str | None:
    """What a 429 has wrong."""
    after = response.headers.get("retry-after", "")
    return wrong_error(response, [429]) if after.isdecimal() and int(after) >= 1 else f"Retry-After is {after!r}"


def malformed_bodies(model: str) -> list[bytes]:
    """Bodies that a chat route must refuse."""
    message = {"role": "user", "content": MARK}
    good: dict[str, Any] = {"model": model, "messages": [message]}
    deep = b'{"messages":' + b"[" * 5_000 + b"]" * 5_000 + b"}"
    wrong: list[Any] = [
        {},
        [],
        MARK,
        None,
        {"model": model},
        {"model": model, "messages": []},
        {"model": model, "messages": MARK},
        {"model": model, "messages": [{"role": "nobody", "content": MARK}]},
        {"model": model, "messages": [{"role": "user", "content": 7}]},
        {"model": model, "messages": [message, {"role": "assistant", "content": MARK}]},
        {**good, "temperature": "hot"},
        {**good, "temperature": 1e308},
        {**good, "max_tokens": 10**400},
        {**good, "max_tokens": -1},
        {**good, "n": 2},
        {**good, "tools": [{"type": "function"}]},
        {**good, "stop": ["a"] * 9},
    ]
    return [
        b"",
        b"{",
        b"\xff\xfe\x00",
        deep,
        json.dumps(good).encode()[:-3],
        json.dumps({**good, "temperature": math.nan}).encode(),
        *(json.dumps(body).encode() for body in wrong),
    ]
