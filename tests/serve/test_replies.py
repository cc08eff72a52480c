from __future__ import annotations

import random
import time

from undertow.prompts import Prompt
from undertow.serve.jobs import ChatJob, Ended, Judged, Judgement, Piece
from undertow.serve.replies import Judging, Reply, alike
from undertow.serve.text import TextStream


def reply_with(events: list, tokenizer, **options) -> Reply:
    job = ChatJob(Prompt("attack0 the thing1"), **options)
    return Reply(job, None, time.monotonic() + 9, TextStream(tokenizer), 5, lambda reply, event: events.append(event))


def test_a_reply_sends_one_verdict_and_nothing_after_its_end(chat) -> None:
    events: list = []
    reply = reply_with(events, chat.tokenizer)
    for event in (Judged(Judgement(None, "none")), Judged(Judgement(None, "refused")), Piece("a"), Ended("stop", 1)):
        reply.send(event)
    reply.send(Piece("b"))
    assert [type(event) for event in events] == [Judged, Piece, Ended] and events[0].judgement.action == "none"


def test_only_sampled_replies_have_a_chooser_of_their_own(chat) -> None:
    assert reply_with([], chat.tokenizer).chooser() is None
    assert reply_with([], chat.tokenizer, temperature=0.5, seed=1).chooser() is not None


def test_a_judging_is_finished_once_by_its_last_result() -> None:
    finished: list = []
    judging = Judging([None, None], "refuse", finished.append, 0.0, open=2)
    judging.settle(1, Judgement(None, "none"))
    judging.settle(1, Judgement(None, "refused"))
    assert finished == []
    judging.settle(0, Judgement(None, "flagged"))
    assert finished == [judging] and [result.action for result in judging.results] == ["flagged", "none"]


def test_lengths_are_cut_where_padding_costs_more_than_a_pass() -> None:
    assert alike([10, 11, 10], 512) == [[1, 0, 2]]
    assert alike([10, 300, 10, 300], 2000) == [[1, 3], [0, 2]]
    assert alike([10, 300, 10, 300], 2000, overhead=2048) == [[1, 3, 0, 2]]


def test_batches_hold_every_prompt_once_within_budget_and_at_little_cost() -> None:
    generator = random.Random(1)
    for _ in range(100):
        lengths = [generator.randint(1, 300) for _ in range(generator.randint(0, 40))]
        groups = alike(lengths, 512)
        assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
        for group in groups:
            longest = max(lengths[index] for index in group)
            assert len(group) * longest <= 512 or len(group) == 1
        # No more, padding and passes together, than one batch of all or a pass for each prompt would cost.
        spent = sum(len(group) * max(lengths[index] for index in group) + 64 for group in groups)
        assert spent <= sum(lengths) + 64 * len(lengths)
        if lengths and len(lengths) * max(lengths) <= 512:
            assert spent <= len(lengths) * max(lengths) + 64
