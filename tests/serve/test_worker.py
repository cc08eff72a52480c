"""What the engine's thread does when the model fails for one prompt among many."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.guard.taught import many
from tests.serve.test_engine import collect, running
from undertow.guard import LatentGuard
from undertow.prompts import Prompt
from undertow.serve.jobs import ChatJob, Policy
from undertow.serve.text import TextStream


@contextmanager
def poisoned(guard: LatentGuard, word: str, *, fail: bool = False) -> Iterator[None]:
    """While the block runs, states at and after a word are not finite, or any pass with it fails."""
    poison = guard.model.tokenizer.convert_tokens_to_ids(word)

    def hook(module: object, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        where = arguments[0] == poison
        if fail and bool(where.any()):
            raise RuntimeError("the device has a bad day")
        return output.masked_fill(where.unsqueeze(-1), float("nan"))

    handle = guard.model.model.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


BAD = Prompt("bake1 the thing23")
POISON = "thing23"


def others() -> list[Prompt]:
    found = [*many("harmful", 12, 7), *many("harmless", 12, 7)]
    return [prompt for prompt in found if POISON not in prompt.text.split()][:14]


@pytest.mark.parametrize("fail", [False, True])
def test_one_bad_prompt_harms_no_other_judgement(guard: LatentGuard, fail: bool) -> None:
    good = others()
    wanted = guard.judge(good)

    async def ask() -> list:
        async with running(guard) as engine:
            with poisoned(guard, POISON, fail=fail):
                closed = await engine.judge([*good[:5], BAD, *good[5:]])
                passed = await engine.judge([BAD], "answer")
            return [*closed, *passed]

    found = asyncio.run(ask())
    bad, passed = found.pop(5), found.pop()
    assert bad.verdict is None and bad.action == "refused" and bad.reason == ("error" if fail else "not_finite")
    assert passed.verdict is None and passed.action == "none"
    assert [judgement.verdict.flagged for judgement in found] == [verdict.flagged for verdict in wanted]


@pytest.mark.parametrize("fail", [False, True])
def test_one_bad_prompt_harms_no_other_reply(guard: LatentGuard, fail: bool) -> None:
    good = others()
    wanted = guard.generate(good, "flag", max_new_tokens=6, progress=False)

    async def ask() -> list:
        async with running(guard) as engine:
            with poisoned(guard, POISON, fail=fail):
                jobs = [ChatJob(prompt, Policy("flag"), max_new_tokens=6) for prompt in [*good[:5], BAD, *good[5:]]]
                return await asyncio.gather(*(collect(engine, job) for job in jobs))

    found = asyncio.run(ask())
    judged, text, ended = found.pop(5)
    assert judged.judgement.action == "refused" and judged.judgement.verdict is None
    assert judged.judgement.reason == ("error" if fail else "not_finite")
    assert text == "I'm sorry, but I can't help with that." and ended.reason == "content_filter"
    assert [text for _, text, _ in found] == [reply.text for reply in wanted]


def test_the_operator_may_let_unjudged_prompts_through(guard: LatentGuard, monkeypatch) -> None:
    wanted = guard.model.generate([BAD], 6, progress=False)[0]
    monkeypatch.setattr(guard, "beliefs", lambda states: (_ for _ in ()).throw(RuntimeError("broken")))

    async def ask() -> list:
        async with running_without_warm_up(guard) as engine:
            closed = await collect(engine, ChatJob(BAD, Policy("flag"), max_new_tokens=6))
            opened = await collect(engine, ChatJob(BAD, Policy("flag", on_unjudged="answer"), max_new_tokens=6))
            return [closed, opened]

    closed, opened = asyncio.run(ask())
    assert closed[0].judgement.action == "refused" and closed[0].judgement.reason == "error"
    assert opened[1] == wanted and opened[0].judgement.verdict is None
    # That it was not judged is said all the same.
    assert opened[0].judgement.reason == "error" and opened[0].judgement.action == "none"


def running_without_warm_up(guard: LatentGuard):
    from contextlib import asynccontextmanager

    from undertow.serve.engine import Engine

    @asynccontextmanager
    async def manager():
        engine = Engine(guard)
        engine.guard.judge = lambda prompts: []  # type: ignore[method-assign]
        try:
            engine.start()
            yield engine
        finally:
            del engine.guard.judge
            engine.stop()

    return manager()


def test_nothing_announced_is_taken_back_where_joining_fails(guard: LatentGuard) -> None:
    """A reply that was announced as steered must not come unsteered."""
    good = others()[:4]

    async def ask(policy: Policy) -> list:
        async with running(guard) as engine:
            engine._worker._rolling.join = _broken  # type: ignore[method-assign]
            jobs = [ChatJob(prompt, policy, max_new_tokens=6) for prompt in good]
            return await asyncio.gather(*(collect(engine, job) for job in jobs))

    for on_unjudged in ("answer", "refuse"):
        for judged, text, ended in asyncio.run(ask(Policy("steer", on_unjudged=on_unjudged))):
            assert judged.judgement.verdict is not None and text == "" and ended.reason == "error"


def test_failures_are_counted_and_logged_without_the_prompt(guard: LatentGuard, caplog) -> None:
    async def ask() -> int:
        async with running(guard) as engine:
            with poisoned(guard, POISON, fail=True):
                await engine.judge([BAD, BAD])
            return engine.status().totals["failures"]

    assert asyncio.run(ask()) == 2
    assert len(caplog.records) == 1 and POISON not in caplog.text
    # Where it was, and not what it said: a library's message may quote what it was given.
    assert "RuntimeError" in caplog.text and "in hook" in caplog.text
    assert "bad day" not in caplog.text.replace('raise RuntimeError("the device has a bad day")', "")


def test_a_reply_whose_text_cannot_be_told_ends_alone(guard: LatentGuard, monkeypatch) -> None:
    good = others()[:4]
    wanted = guard.generate(good, "flag", max_new_tokens=6, progress=False)
    feed, odd = TextStream.feed, []

    def fails_for_one(stream: TextStream, token: int) -> str:
        odd[:] = odd or [stream]
        if stream is odd[0]:
            raise RuntimeError("no such bytes")
        return feed(stream, token)

    async def ask() -> list:
        async with running(guard) as engine:
            jobs = [ChatJob(prompt, Policy("flag"), max_new_tokens=6) for prompt in good]
            return await asyncio.gather(*(collect(engine, job) for job in jobs))

    monkeypatch.setattr(TextStream, "feed", fails_for_one)
    found = asyncio.run(ask())
    assert [ended.reason == "error" for _, _, ended in found] == [True, False, False, False]
    assert [text for _, text, _ in found[1:]] == [reply.text for reply in wanted[1:]]


def test_odd_settings_of_one_reply_leave_the_others_alone(guard: LatentGuard) -> None:
    good = others()
    wanted = guard.generate(good, "flag", max_new_tokens=6, progress=False)

    async def ask() -> list:
        async with running(guard) as engine:
            odd = [
                ChatJob(good[0], Policy("flag"), max_new_tokens=6, temperature=1e-45),
                ChatJob(good[0], Policy("flag"), max_new_tokens=6, temperature=1.0, top_p=1e-60),
            ]
            jobs = [ChatJob(prompt, Policy("flag"), max_new_tokens=6) for prompt in good]
            return await asyncio.gather(*(collect(engine, job) for job in [*odd, *jobs]))

    texts = [text for _, text, _ in asyncio.run(ask())]
    assert texts == [wanted[0].text] * 2 + [reply.text for reply in wanted]


def test_a_failing_step_ends_the_batch_and_the_engine_goes_on(guard: LatentGuard) -> None:
    good = others()

    async def ask() -> tuple[list, str]:
        async with running(guard) as engine:
            worker = engine._worker
            step, worker._rolling.advance = worker._rolling.advance, _broken  # type: ignore[method-assign]
            failed = await asyncio.gather(
                *(collect(engine, ChatJob(prompt, Policy("flag"), max_new_tokens=6)) for prompt in good[:3])
            )
            worker._rolling.advance = step  # type: ignore[method-assign]
            _, text, _ = await collect(engine, ChatJob(good[0], Policy("flag"), max_new_tokens=6))
            return failed, text

    failed, text = asyncio.run(ask())
    assert all(ended.reason == "error" and "failed" in ended.message for _, _, ended in failed)
    assert text == guard.model.generate([good[0]], 6, progress=False)[0]


def _broken(*arguments: object) -> None:
    raise RuntimeError("the device has a bad day")


def test_a_step_that_hangs_shows(guard: LatentGuard) -> None:
    async def ask() -> None:
        async with running(guard) as engine:
            held = threading.Event()
            call = asyncio.create_task(engine.call(lambda: held.wait(20)))
            await asyncio.sleep(0.35)
            # Also while nothing else waits.
            assert engine.status().stalled > 0.2
            held.set()
            await call
            await asyncio.sleep(0.05)
            assert engine.status().stalled == 0.0

    asyncio.run(ask())
