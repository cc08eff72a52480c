from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tests.routed import small_context
from undertow.studies.routing.replies import evenly, judged_tokens


@dataclass
class LateJudge:
    """Refusals show only from some number of tokens on."""

    tokens: int
    name: str = "late"

    def refused(self, replies: Sequence[str]) -> list[bool]:
        encode = small_context().chat.tokenizer.encode
        return [
            reply.startswith("I'm") and len(encode(reply, add_special_tokens=False)) >= self.tokens for reply in replies
        ]


def test_few_tokens_are_enough_where_refusals_open_replies() -> None:
    assert judged_tokens(small_context()) == 8


def test_replies_are_as_long_as_the_verdict_needs() -> None:
    for needed, wanted in ((9, 12), (13, 16)):
        assert judged_tokens(replace(small_context(), judge=LateJudge(needed))) == wanted
    assert judged_tokens(replace(small_context(), reply_tokens=5)) == 5


def test_evenly_keeps_order_and_ends() -> None:
    rows = np.array([3, 5, 8, 9, 12, 20])
    assert evenly(rows, 10).tolist() == rows.tolist()
    assert evenly(rows, 3).tolist() == [3, 8, 20]
    assert len(set(evenly(range(100), 48).tolist())) == 48
