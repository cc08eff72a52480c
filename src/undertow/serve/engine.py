"""One model, one thread: prefills, decoding and guard-only batches take turns, so that nothing waits behind a reply."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from undertow.errors import ContextError, PositionError
from undertow.guard import LatentGuard
from undertow.prompts import Prompt
from undertow.serve.jobs import (
    ChatJob,
    Draining,
    Ended,
    EngineStatus,
    Event,
    Full,
    Judged,
    Judgement,
    OnUnjudged,
    Piece,
    Reason,
    TooLong,
)
from undertow.serve.replies import Call, Item, Judging, Reply
from undertow.serve.text import TextStream
from undertow.serve.worker import Worker

if TYPE_CHECKING:
    from undertow.model.positions import Rendered

Result = TypeVar("Result")

_MOST_CALLS = 16
_SHORT = 4000
_MESSAGE = 50


@dataclass(frozen=True)
class EngineLimits:
    """Bounds that keep memory and waiting in check.

    Attributes:
        rows: most replies that are generated at once.
        batch_tokens: most tokens of one prefill or guard-only batch (a longer prompt goes alone).
        waiting: most replies that wait for a slot.
        judging: most guard-only prompts that wait.
        prompt_tokens: most tokens of a prompt; the model's context where that is shorter.
        seconds: most time from a job's arrival to its end.
    """

    rows: int = 32
    batch_tokens: int = 8192
    waiting: int = 256
    judging: int = 4096
    prompt_tokens: int = 4096
    seconds: float = 120.0


class Engine:
    """Serves one guarded model; its methods are called from one asyncio event loop.

    Args:
        guard: the guard; its model generates.
        limits: bounds.
        guarded: False reads no states and judges nothing (a baseline for measurements only).
    """

    def __init__(self, guard: LatentGuard, limits: EngineLimits | None = None, *, guarded: bool = True) -> None:
        self.guard, self.chat_model = guard, guard.model
        self.limits = limits or EngineLimits()
        self._worker = Worker(guard, self.limits.rows, self.limits.batch_tokens, guarded, self._flush)
        self._thread: threading.Thread | None = None
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix="undertow-render")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._posted: list[Callable[[], None]] = []
        self._draining = False
        self._open_replies = 0
        self._open_prompts = 0
        self._open_calls = 0
        self._mean_seconds = 1.0
        context = self.chat_model.context
        self._most = min(self.limits.prompt_tokens, context or self.limits.prompt_tokens)
        vocabulary = self.chat_model.tokenizer.get_vocab()
        self._controls = control_tokens(self.chat_model.tokenizer)
        self._widest = max((len(token) for token in vocabulary), default=1)

    def start(self) -> None:
        """Start the engine's thread; the model has read and generated once when this returns (warm)."""
        warm = Prompt("Hello")
        self.guard.judge([warm])
        self.chat_model.generate([warm], 2, progress=False)
        self._thread = threading.Thread(target=self._worker.run, name="undertow-engine", daemon=True)
        self._thread.start()

    async def drain(self, seconds: float) -> None:
        """Take nothing new, wait for what runs, at most so long, then cancel the rest."""
        self._draining = True
        end = time.monotonic() + seconds
        while (self._open_replies or self._open_prompts or self._open_calls) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self.stop()

    def stop(self) -> None:
        """End the thread; open replies end with an error."""
        self._draining = True
        with self._worker.queues.condition:
            self._worker.queues.stopping = True
            self._worker.queues.condition.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=60)
        self._thread = None
        self._renderer.shutdown(wait=False, cancel_futures=True)

    @property
    def most_tokens(self) -> int:
        """Most tokens that a prompt may have here."""
        return self._most

    def status(self) -> EngineStatus:
        """A look at the queues."""
        running = self._worker.running
        queues = self._worker.queues
        alive = self._thread is not None and self._thread.is_alive()
        return EngineStatus(
            waiting=len(queues.replies),
            running=running,
            judging=len(queues.items),
            ready=alive and not self._draining,
            totals=dict(self._worker.totals),
            stalled=self._worker.stalled,
        )

    async def chat(self, job: ChatJob, deadline: float | None = None) -> AsyncIterator[Event]:
        """Generate one reply: `Judged`, then `Piece`s (and `Belief`s), then `Ended`.

        Closing the iterator (`aclose`, or the task's cancellation) frees the slot at the next step.

        Args:
            job: what to generate.
            deadline: time (monotonic) at which the reply ends; the limit from now on where left out.

        Raises (at the first event):
            Full: no room in the queue, or no slot became free in time.
            Draining: the engine is ending.
            TooLong: the prompt has too many tokens.
            PositionError: the conversation does not end with a user message, or its last message is empty.
        """
        self._ready()
        until = time.monotonic() + self.limits.seconds if deadline is None else deadline
        if self._open_replies >= self.limits.rows + self.limits.waiting:
            raise Full(self._retry_after())
        events: asyncio.Queue[Event] = asyncio.Queue()
        counted = True
        self._open_replies += 1
        reply: Reply | None = None

        def release() -> None:
            nonlocal counted
            if counted:
                counted = False
                self._open_replies -= 1

        def deliver(event: Event) -> None:
            if isinstance(event, Ended):
                release()
            events.put_nowait(event)

        def emit(source: Reply, event: Event) -> None:
            self._posted.append(lambda: deliver(event))

        try:
            rendered, reason = await self._off_loop([job.prompt], lambda: self._render(job.prompt))
            if reason is not None and job.policy.on_unjudged == "refuse":
                release()
                yield Judged(Judgement(None, "refused", reason, len(rendered)))
                if job.refusal_text:
                    yield Piece(job.refusal_text)
                yield Ended("content_filter", 0)
                return
            limit = job.max_new_tokens
            if self.chat_model.context is not None:
                limit = min(limit, self.chat_model.context - len(rendered) + 1)
            text = TextStream(self.chat_model.tokenizer, job.stop)
            reply = Reply(job, rendered, until, text, limit, emit, reason, reason is None)
            self._submit(reply)
            first = True
            while True:
                event = await events.get()
                if first and isinstance(event, Ended):
                    if event.reason == "error":
                        raise Draining
                    raise Full(self._retry_after())
                first = False
                yield event
                if isinstance(event, Ended):
                    self._mean_seconds += 0.1 * (time.monotonic() - reply.arrived - self._mean_seconds)
                    return
        finally:
            if reply is not None:
                reply.cancelled = True
                self._worker.withdraw(reply)
            release()

    async def judge(
        self, prompts: Sequence[Prompt], on_unjudged: OnUnjudged = "refuse", deadline: float | None = None
    ) -> list[Judgement]:
        """Verdicts only, in order; never waits behind generation. Too long or unrenderable prompts give a Judgement
        with a reason, not an error. Actions are "none" or "flagged" ("refused" where not judged and failing closed).

        Args:
            prompts: to be judged.
            on_unjudged: what is done with those that cannot be.
            deadline: time (monotonic) until which to wait; the limit from now on where left out.

        Raises:
            Full: no room in the queue for all of them, or they were not judged in time.
            Draining: the engine is ending.
        """
        loop = self._ready()
        until = time.monotonic() + self.limits.seconds if deadline is None else deadline
        if self._open_prompts + len(prompts) > self.limits.judging:
            raise Full(1)
        self._open_prompts += len(prompts)
        finished: asyncio.Future[None] = loop.create_future()

        def finish(judging: Judging) -> None:
            self._posted.append(lambda: None if finished.done() else finished.set_result(None))

        judging = Judging([None] * len(prompts), on_unjudged, finish, until)
        try:
            rendered = await self._off_loop(prompts, lambda: [self._render_or_reason(prompt) for prompt in prompts])
            unjudged: Any = "refused" if on_unjudged == "refuse" else "none"
            items = []
            for index, (found, reason) in enumerate(rendered):
                if found is None:
                    judging.results[index] = Judgement(None, unjudged, reason)
                else:
                    items.append(Item(judging, index, found))
            if items:
                judging.open = len(items)
                self._worker.queues.add(*items)
                try:
                    await asyncio.wait_for(finished, max(0.0, until - time.monotonic()))
                except TimeoutError:
                    raise Full(self._retry_after()) from None
            done = [judgement for judgement in judging.results if judgement is not None]
            if len(done) < len(prompts):
                raise Draining
            return done
        finally:
            judging.cancelled = True
            self._open_prompts -= len(prompts)

    async def call(self, function: Callable[[], Result]) -> Result:
        """What a function gives that runs on the model's thread between two steps: for the inspector, short work only.

        Raises:
            Full, Draining: as for `judge`; whatever the function raises.
        """
        loop = self._ready()
        if self._open_calls >= _MOST_CALLS:
            raise Full(1)
        finished: asyncio.Future[Result] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if finished.done():
                return
            if error is None:
                finished.set_result(result)
            else:
                finished.set_exception(error)

        def finish(result: Any, error: BaseException | None) -> None:
            self._posted.append(lambda: settle(result, error))

        self._open_calls += 1
        try:
            with self._worker.queues.condition:
                if self._worker.queues.stopping:
                    raise Draining
                self._worker.queues.calls.append(Call(function, finish))
                self._worker.queues.condition.notify()
            return await finished
        finally:
            self._open_calls -= 1

    def _ready(self) -> asyncio.AbstractEventLoop:
        if self._draining or self._thread is None:
            raise Draining
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _submit(self, reply: Reply) -> None:
        with self._worker.queues.condition:
            if self._worker.queues.stopping:
                raise Draining
            self._worker.queues.replies.append(reply)
            self._worker.queues.condition.notify()

    def _flush(self) -> None:
        """Hand over what a step emitted, in one wake-up of the event loop; on the engine's thread."""
        if not self._posted or self._loop is None:
            return
        posted, self._posted = self._posted, []

        def deliver() -> None:
            for action in posted:
                action()

        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:
            # The event loop is closed: nobody is left to hear of it.
            return

    async def _off_loop(self, prompts: Sequence[Prompt], render: Callable[[], Result]) -> Result:
        """Render in another thread, but for short prompts, where handing them over would take longer."""
        size = sum(len(message["content"]) + _MESSAGE for prompt in prompts for message in prompt.messages)
        if size <= _SHORT:
            return render()
        return await asyncio.get_running_loop().run_in_executor(self._renderer, render)

    def _render(self, prompt: Prompt) -> tuple[Rendered, Reason | None]:
        """Tokens and positions, and why the positions are not known where the template does not tell.

        Raises:
            TooLong, PositionError: see `chat`.
        """
        messages = prompt.messages
        if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
            raise PositionError("The conversation must end with a user message that is not empty.")
        if sum(len(message["content"]) for message in messages) > self._most * self._widest:
            raise TooLong(None, self._most)
        if self._controls is not None and any(self._controls.search(message["content"]) for message in messages):
            return self.chat_model.renderer.render_plain(prompt), "not_rendered"
        try:
            rendered, reason = self.chat_model.render(prompt), None
        except ContextError as error:
            raise TooLong(error.tokens, self._most) from None
        except PositionError:
            rendered, reason = self.chat_model.renderer.render_plain(prompt), "not_rendered"
        if len(rendered) > self._most:
            raise TooLong(len(rendered), self._most)
        return rendered, reason  # type: ignore[return-value]

    def _render_or_reason(self, prompt: Prompt) -> tuple[Rendered | None, Reason | None]:
        try:
            rendered, reason = self._render(prompt)
        except TooLong:
            return None, "too_long"
        except PositionError:
            return None, "not_rendered"
        return (None, reason) if reason is not None else (rendered, None)

    def _retry_after(self) -> int:
        share = (self._open_replies + 1) / self.limits.rows
        return max(1, min(60, math.ceil(share * self._mean_seconds)))


def control_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """Finds special tokens typed as text: they would be read as the template's own, and t_inst lie in forged turns."""
    names = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special and str(token).strip()]
    return re.compile("|".join(map(re.escape, names))) if names else None
