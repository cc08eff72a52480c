"""Guard-only prompts: what waits is judged in batches, between two steps of the replies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from undertow.serve.jobs import Action, Judgement
from undertow.serve.pace import Pace
from undertow.serve.replies import Item, Queues, alike
from undertow.serve.verdicts import Found, read_states, verdicts_of

if TYPE_CHECKING:
    from undertow.guard import LatentGuard

_ALONE = 0.25
_BESIDE_REPLIES = 0.03
_LINGERING = 0.5


class Judges:
    """Judges prompts that nobody wants a reply to, on the engine's thread.

    Args:
        guard: the guard; None judges nothing.
        queues: where the prompts wait.
        batch_tokens: most tokens of one forward pass.
        overhead: what a pass costs beside its tokens, in tokens.
        count: told the kind, rows and tokens of every pass.
        note: told of every failure.
    """

    def __init__(
        self,
        guard: LatentGuard | None,
        queues: Queues,
        batch_tokens: int,
        overhead: int,
        count: Callable[[str, int, int], None],
        note: Callable[[Exception], None],
    ) -> None:
        self.guard, self.queues, self.batch_tokens, self.overhead = guard, queues, batch_tokens, overhead
        self._count, self._note = count, note
        self._pace = Pace()
        self._rows, self._seconds = 0, 0.0

    def step(self, beside: float | None) -> None:
        """Judge what waits, for about a quarter of a second at most.

        Args:
            beside: seconds that a step of the replies takes beside which this one goes on for about as long; None where
                nothing is generated.
        """
        with self.queues.condition:
            if beside is None:
                self._linger()
            taken = self._take(_ALONE if beside is None else max(_BESIDE_REPLIES, beside))
        if not taken:
            return
        begun = time.perf_counter()
        lengths = [len(item.rendered) for item in taken]
        for batch in alike(lengths, self.batch_tokens, self.overhead):
            self._judge([taken[index] for index in batch])
        self._rows, self._seconds = len(taken), time.perf_counter() - begun
        self._pace.note(sum(lengths), self._seconds)

    def _linger(self) -> None:
        """Wait a little for as many prompts as were last judged together.

        Those who ask again and again are answered at the same time and so ask at about the same time: without this,
        the first to come would be judged all but alone, and all others wait for the end of that.
        """
        if self._rows < 2 or not self.queues.items:
            return
        self.queues.wanted = self._rows
        until = time.monotonic() + _LINGERING * self._seconds
        while len(self.queues.items) < self._rows and not self.queues.other_work:
            left = until - time.monotonic()
            if left <= 0:
                break
            self.queues.condition.wait(left)
        self.queues.wanted = 0

    def _take(self, seconds: float) -> list[Item]:
        taken: list[Item] = []
        tokens, now = 0, time.monotonic()
        most = min(self.batch_tokens, self._pace.tokens_within(seconds))
        while self.queues.items:
            item = self.queues.items[0]
            if item.judging.cancelled or item.judging.deadline < now:
                self.queues.items.popleft()
                continue
            if taken and tokens + len(item.rendered) > most:
                break
            tokens += len(item.rendered)
            taken.append(self.queues.items.popleft())
        return taken

    def _judge(self, items: Sequence[Item]) -> None:
        found: list[Found]
        if self.guard is None:
            found = [(None, None)] * len(items)
        else:
            try:
                found = verdicts_of(self.guard, read_states(self.guard, [item.rendered for item in items]))
                self._count("judging", len(items), sum(len(item.rendered) for item in items))
            except Exception as error:
                if len(items) > 1:
                    for item in items:
                        self._judge([item])
                    return
                self._note(error)
                found = [(None, "error")]
        for item, (verdict, reason) in zip(items, found, strict=True):
            action: Action = "none"
            if reason is not None and item.judging.on_unjudged == "refuse":
                action = "refused"
            elif verdict is not None and verdict.flagged:
                action = "flagged"
            item.judging.settle(item.index, Judgement(verdict, action, reason, len(item.rendered)))
