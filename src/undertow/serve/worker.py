"""The engine's thread: the only one that runs the model. Guard-only batches, prefills and decoding steps take turns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from undertow.errors import NotFiniteError
from undertow.serve.jobs import Draining, Ended, Judged, Judgement, Piece
from undertow.serve.judging import Judges
from undertow.serve.logs import log_error
from undertow.serve.pace import Pace
from undertow.serve.replies import Queues, Reply
from undertow.serve.verdicts import verdicts_of
from undertow.serve.watching import belief_at, watched_states

if TYPE_CHECKING:
    from undertow.guard import LatentGuard
    from undertow.model.generate import Decision, PrefillBatch


_SHUTTING_DOWN = "The server is shutting down."
_ALONE = 0.25
_BESIDE_REPLIES = 0.1


class Worker:
    """Runs one guarded model.

    Args:
        guard: the guard; its model generates.
        rows: most replies generated at once.
        batch_tokens: most tokens of one prefill or guard-only batch.
        guarded: False judges nothing.
        flush: called on this thread after every step, so that events leave together.
    """

    def __init__(
        self, guard: LatentGuard, rows: int, batch_tokens: int, guarded: bool, flush: Callable[[], None]
    ) -> None:
        from undertow.model.rolling import RollingBatch

        self.guard, self.chat = guard, guard.model
        self.rows, self.batch_tokens, self.guarded, self.flush = rows, batch_tokens, guarded, flush
        self.queues = Queues()
        self.totals: Counter[str] = Counter()
        self._rolling = RollingBatch(self.chat)
        self._running: dict[int, Reply] = {}
        self._tokens: dict[int, int] = {}
        # A pass costs as much as so many tokens: measured for small models on a processor, guessed for accelerators.
        overhead = 64 if self.chat.device.type == "cpu" else 2048
        self._judges = Judges(guard if guarded else None, self.queues, batch_tokens, overhead, self._count, self._note)
        self._prefilling = Pace()
        self._step_seconds = 0.0
        self._stepped, self._logged = time.monotonic(), -1.0
        self._idle = True
        self._keys = 0

    @property
    def running(self) -> int:
        """Replies that are being generated."""
        return len(self._running)

    def run(self) -> None:
        """Work until told to stop; no failure of a step ends the thread."""
        queues = self.queues
        while True:
            with queues.condition:
                while not (any(queues.waiting) or self._running or queues.stopping):
                    self._idle = True
                    queues.condition.wait()
                    self._stepped = time.monotonic()
                self._idle = False
                if queues.stopping:
                    break
            for step in (self._call, self._judge, self._prefill, self._choose, self._advance):
                try:
                    step()
                except Exception as error:
                    self._note(error)
                    self._fail_running(f"The model failed ({type(error).__name__}).")
                self.flush()
                self._stepped = time.monotonic()
        self._shut_down()

    @property
    def stalled(self) -> float:
        """Seconds since the last step was done where the thread is at work, else 0."""
        return 0.0 if self._idle else time.monotonic() - self._stepped

    def withdraw(self, reply: Reply) -> None:
        """Take a reply that nobody waits for any more out of the queue."""
        if not reply.started:
            with self.queues.condition, suppress(ValueError):
                self.queues.replies.remove(reply)

    def _shut_down(self) -> None:
        """Tell everybody who still waits."""
        self._fail_running(_SHUTTING_DOWN)
        with self.queues.condition:
            replies, items, calls = (list(queue) for queue in self.queues.waiting)
            for queue in self.queues.waiting:
                queue.clear()
        for reply in replies:
            reply.send(Ended("error", 0, _SHUTTING_DOWN))
        for judging in {item.judging for item in items}:
            judging.finish(judging)
        for call in calls:
            call.finish(None, Draining())
        self.flush()

    def _note(self, error: Exception) -> None:
        """Count a failure and log it, at most once a second."""
        self.totals["failures"] += 1
        now = time.monotonic()
        if now - self._logged >= 1.0:
            self._logged = now
            log_error(error, "A step of the model failed")

    # Replies

    def _prefill(self) -> None:
        batch: list[Reply] = []
        now = time.monotonic()
        even = not self.chat.decoding_for(1).left_padding
        seconds = _BESIDE_REPLIES if self._running else _ALONE
        most = min(self.batch_tokens, self._prefilling.tokens_within(seconds))
        with self.queues.condition:
            # All of them, whether or not a row is free for the next.
            expired = [reply for reply in self.queues.replies if reply.cancelled or reply.deadline < now]
            for reply in expired:
                self.queues.replies.remove(reply)
            while self.queues.replies and len(self._running) + len(batch) < self.rows:
                reply = self.queues.replies[0]
                if batch:
                    longest = max(len(other.rendered) for other in [*batch, reply])
                    if longest * (len(batch) + 1) > most or reply.guarded != batch[0].guarded:
                        break
                    if even and len(reply.rendered) != len(batch[0].rendered):
                        break
                reply.started = True
                batch.append(self.queues.replies.popleft())
        for reply in expired:
            reply.send(Ended("time", 0))
        if batch:
            begun = time.perf_counter()
            self._start(batch, look=self.guarded and batch[0].guarded)
            self._prefilling.note(sum(len(reply.rendered) for reply in batch), time.perf_counter() - begun)

    def _start(self, batch: list[Reply], *, look: bool) -> None:
        """Prefill replies together; one by one where that fails, so that none suffers for another."""
        try:
            self._prefill_batch(batch, look=look)
        except Exception as error:
            if len(batch) > 1:
                for reply in batch:
                    if not reply.ended and reply.key < 0:
                        self._start([reply], look=look)
                return
            self._refuse_or_answer(batch[0], error, look=look)

    def _refuse_or_answer(self, reply: Reply, error: Exception, *, look: bool) -> None:
        reply.reason = reply.reason or ("not_finite" if isinstance(error, NotFiniteError) else "error")
        self._note(error)
        if reply.judged or not look:
            # What was announced cannot be taken back, so there is no second way.
            reply.send(Judged(Judgement(None, "none", reply.reason, len(reply.rendered))))
            reply.send(Ended("error", 0, f"The model failed ({type(error).__name__})."))
        elif reply.job.policy.on_unjudged == "refuse":
            refuse(reply, Judgement(None, "refused", reply.reason, len(reply.rendered)))
        else:
            reply.guarded = False
            self._start([reply], look=False)

    def _prefill_batch(self, batch: list[Reply], *, look: bool) -> None:
        from undertow.guard.generation import decide
        from undertow.model.generate import Generator, Sampling, Steer, Stop
        from undertow.model.program import Program
        from undertow.model.rolling import Joining

        judgements: dict[int, Judgement] = {}

        def judge(seen: PrefillBatch) -> list[Decision]:
            decisions: list[Decision] = []
            found = verdicts_of(self.guard, {position: seen.at(position) for position in self.guard.positions})
            for index, (verdict, reason) in zip(seen.indices, found, strict=True):
                if verdict is None:
                    raise NotFiniteError(f"The guard cannot judge ({reason}).")
                policy = batch[index].job.policy
                action = decide(verdict, policy.on_harmful, policy.on_over_refusal)
                judgements[index] = Judgement(verdict, action, None, len(batch[index].rendered))
                if action == "refused":
                    decisions.append(Stop(""))
                elif action in ("steered", "released") and self.guard.steering is not None:
                    decisions.append(Steer(self.guard.steering.edits("refusal" if action == "steered" else "answer")))
                else:
                    decisions.append(None)
            return decisions

        rendered = [reply.rendered for reply in batch]
        program = Program(self.chat.anatomy, (), rendered)
        for index, reply in enumerate(batch):
            program.add(reply.job.edits, index)
        longest = max(reply.limit for reply in batch)
        generator = Generator(
            self.chat,
            rendered,
            Sampling(max(1, longest)),
            program,
            on_prefill=judge if look else None,
            prefill_states=self.guard.states if look else (),
            prefill_positions=self.guard.positions if look else (),
        )
        _, groups = generator.begin(list(range(len(batch))))
        self._count("prefill", len(batch), sum(len(item) for item in rendered))
        for index, reply in enumerate(batch):
            judgement = judgements.get(index, Judgement(None, "none", reply.reason, len(reply.rendered)))
            if judgement.action == "refused":
                refuse(reply, judgement)
            else:
                reply.send(Judged(judgement))
        for rows in groups:
            members = [batch[index] for index in rows.prompts]
            keys = list(range(self._keys, self._keys + len(members)))
            self._keys += len(members)
            joining = [Joining(reply.rendered, reply.chooser(), reply.job.edits) for reply in members]
            self._rolling.join(rows, keys, joining, longest=max(len(reply.rendered) + reply.limit for reply in members))
            for key, reply in zip(keys, members, strict=True):
                reply.key = key
                self._running[key] = reply

    def _choose(self) -> None:
        """Take the next token of every reply, send its text, and let go of those that end."""
        if not self._running:
            return
        now = time.monotonic()
        self._tokens = self._rolling.choose()
        leaving = []
        for key, reply in self._running.items():
            try:
                self._take(reply, self._tokens.get(key), now)
            except Exception as error:
                # Its text cannot be told; the others have no part in that.
                self._note(error)
                reply.send(Ended("error", reply.tokens, f"The model failed ({type(error).__name__})."))
            if reply.ended:
                leaving.append(key)
        self._leave(leaving)

    def _take(self, reply: Reply, token: int | None, now: float) -> None:
        """Send what one more token adds to a reply; None where none could be drawn."""
        if token is None:
            reply.send(Ended("error", reply.tokens, "The next token could not be drawn."))
        elif reply.cancelled or reply.deadline < now:
            self._end(reply, "time")
        elif token in self.chat.stop_ids:
            self._end(reply, "stop")
        else:
            reply.tokens += 1
            self.totals["reply_tokens"] += 1
            piece = reply.text.feed(token)
            if piece:
                reply.send(Piece(piece))
            if reply.text.stopped:
                reply.send(Ended("stop", reply.tokens))
            elif reply.tokens >= reply.limit:
                self._end(reply, "length")

    def _end(self, reply: Reply, reason: Any) -> None:
        rest = reply.text.finish()
        if rest:
            reply.send(Piece(rest))
        reply.send(Ended("stop" if reply.text.stopped else reason, reply.tokens))

    def _advance(self) -> None:
        if not self._running:
            return
        watching = any(self._running[key].job.watch for key in self._rolling.keys)
        states = watched_states(self.guard) if watching else ()
        chosen = {key: self._tokens[key] for key in self._rolling.keys if key in self._tokens}
        begun = time.perf_counter()
        broken, seen = self._rolling.advance(chosen, states)
        self._step_seconds = time.perf_counter() - begun
        self._count("step", len(chosen), 0)
        for key in broken:
            reply = self._running[key]
            reply.send(Ended("error", reply.tokens, "The model's logits are no longer numbers."))
        for key, values in seen.items():
            reply = self._running[key]
            if reply.job.watch and key not in broken:
                reply.send(belief_at(self.guard, reply.tokens - 1, self._tokens[key], values, states))
        self._leave(broken)

    def _leave(self, keys: Sequence[int]) -> None:
        self._rolling.leave(keys)
        for key in keys:
            self._running.pop(key, None)

    def _fail_running(self, message: str) -> None:
        """After a failure in mid-step the batch's caches cannot be trusted: all its replies end."""
        self._rolling.clear()
        for reply in self._running.values():
            reply.send(Ended("error", reply.tokens, message))
        self._running.clear()

    def _judge(self) -> None:
        self._judges.step(self._step_seconds if self._running or self.queues.replies else None)

    def _call(self) -> None:
        with self.queues.condition:
            call = self.queues.calls.popleft() if self.queues.calls else None
        if call is None:
            return
        try:
            result = call.function()
        except BaseException as error:
            call.finish(None, error)
        else:
            call.finish(result, None)

    def _count(self, kind: str, rows: int, tokens: int) -> None:
        self.totals[f"{kind}_batches"] += 1
        self.totals[f"{kind}_rows"] += rows
        self.totals["prompt_tokens"] += tokens


def refuse(reply: Reply, judgement: Judgement) -> None:
    """Send the guard's own words in the model's place."""
    reply.send(Judged(judgement))
    if reply.job.refusal_text:
        reply.send(Piece(reply.job.refusal_text))
    reply.send(Ended("content_filter", 0))
