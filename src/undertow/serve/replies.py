"""Bookkeeping of what the engine's thread works on: replies in the making and prompts that are only judged."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from undertow.serve.jobs import ChatJob, Draining, Ended, Event, Judged, Judgement, OnUnjudged, Reason
from undertow.serve.text import TextStream

if TYPE_CHECKING:
    from undertow.model.positions import Rendered
    from undertow.model.rolling import Chooser


@dataclass(eq=False)
class Reply:
    """One reply on its way through the engine.

    Attributes:
        job: what was asked for.
        rendered: the prompt's tokens and positions.
        deadline: time (monotonic) at which it ends whatever its state.
        reason: why the guard cannot read it, where that is known.
        guarded: False where the guard cannot read it and the operator lets it pass.
        emit: called on the engine's thread with every event.
        limit: most tokens of the reply.
        cancelled: set by the asking side; the slot is freed at the next step.
        started: whether its prefill has begun.
        judged: whether its verdict was emitted.
        ended: whether its last event was emitted.
        tokens: how many were generated.
    """

    job: ChatJob
    rendered: Rendered
    deadline: float
    text: TextStream
    limit: int
    emit: Callable[[Reply, Event], None]
    reason: Reason | None = None
    guarded: bool = True
    key: int = -1
    cancelled: bool = False
    started: bool = False
    judged: bool = False
    ended: bool = False
    tokens: int = 0
    arrived: float = field(default_factory=time.monotonic)

    def send(self, event: Event) -> None:
        """Emit an event, nothing after the last."""
        if self.ended or (self.judged and isinstance(event, Judged)):
            return
        self.judged = self.judged or isinstance(event, Judged)
        self.ended = isinstance(event, Ended)
        self.emit(self, event)

    def chooser(self) -> Chooser | None:
        """How its tokens are chosen; None for the likeliest."""
        from undertow.model.generate import Sampling

        job = self.job
        if job.temperature == 0:
            return None
        seed = secrets.randbits(32) if job.seed is None else job.seed
        return Sampling(max(1, self.limit), job.temperature, job.top_p, seed).chooser([0])


@dataclass(eq=False)
class Judging:
    """The prompts of one guard-only request.

    Attributes:
        results: one a prompt, None until judged.
        on_unjudged: what is done with prompts that cannot be judged.
        finish: called on the engine's thread once all are judged.
        deadline: time (monotonic) after which it is given up.
        cancelled: set by the asking side.
        open: how many are still to be judged.
    """

    results: list[Judgement | None]
    on_unjudged: OnUnjudged
    finish: Callable[[Judging], None]
    deadline: float
    cancelled: bool = False
    open: int = 0

    def settle(self, index: int, judgement: Judgement) -> None:
        """Put one result in its place."""
        if self.results[index] is None:
            self.results[index] = judgement
            self.open -= 1
            if self.open == 0:
                self.finish(self)


@dataclass(frozen=True, eq=False)
class Item:
    """One prompt of a guard-only request.

    Attributes:
        judging: the request.
        index: its place there.
        rendered: the prompt.
    """

    judging: Judging
    index: int
    rendered: Rendered


@dataclass(frozen=True, eq=False)
class Call:
    """A function to be run on the engine's thread, and what is told its result or error."""

    function: Callable[[], Any]
    finish: Callable[[Any, BaseException | None], None]


@dataclass
class Queues:
    """What waits for the engine's thread; touched only while `condition` is held.

    Attributes:
        stopping: whether the thread is to end.
        wanted: guard-only prompts that the thread waits for; fewer do not wake it.
    """

    condition: threading.Condition = field(default_factory=threading.Condition)
    replies: deque[Reply] = field(default_factory=deque)
    items: deque[Item] = field(default_factory=deque)
    calls: deque[Call] = field(default_factory=deque)
    stopping: bool = False
    wanted: int = 0

    @property
    def waiting(self) -> tuple[deque[Any], ...]:
        """The three queues."""
        return self.replies, self.items, self.calls

    def add(self, *items: Item) -> None:
        """Put guard-only prompts in, and wake the thread where there are enough of them.

        Raises:
            Draining: the thread is to end.
        """
        with self.condition:
            if self.stopping:
                raise Draining
            self.items.extend(items)
            if len(self.items) >= self.wanted:
                self.condition.notify()

    @property
    def other_work(self) -> bool:
        """Whether there is more to do than to judge."""
        return bool(self.replies or self.calls or self.stopping)


def alike(lengths: Sequence[int], tokens: int, overhead: int = 64) -> list[list[int]]:
    """Group indices so that padding and passes together cost least.

    Args:
        lengths: tokens of every prompt.
        tokens: most tokens a batch, padding included; a longer prompt goes alone.
        overhead: what a forward pass costs beside its tokens, in tokens.

    Returns:
        Lists of indices, every index once, longest first.
    """
    if not lengths:
        return []
    rows: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        rows.setdefault(lengths[index], []).append(index)
    distinct = list(rows)
    # Least cost of the shorter prompts from each distinct length on, and how many lengths its first group spans.
    best: list[tuple[float, int]] = [(0.0, 0)] * (len(distinct) + 1)
    for start in range(len(distinct) - 1, -1, -1):
        count, options = 0, []
        for end in range(start + 1, len(distinct) + 1):
            count += len(rows[distinct[end - 1]])
            size = max(1, tokens // distinct[start])
            options.append((best[end][0] + count * distinct[start] + overhead * -(-count // size), end))
        best[start] = min(options)
    groups: list[list[int]] = []
    start = 0
    while start < len(distinct):
        end = best[start][1]
        members = [index for length in distinct[start:end] for index in rows[length]]
        size = max(1, tokens // distinct[start])
        groups.extend(members[begin : begin + size] for begin in range(0, len(members), size))
        start = end
    return groups
