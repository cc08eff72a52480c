from __future__ import annotations

import numpy as np
import torch

from undertow.measure.judge import SubstringJudge
from undertow.model import Add
from undertow.studies.demo import DemoResult
from undertow.studies.demo.behaviour import REPLY_TOKENS


def test_examples_go_both_ways_and_the_control_differs(result: DemoResult):
    ways = {example.toward: example for example in result.acting.examples}
    assert set(ways) == {"refusal", "answer"}
    for toward, example in ways.items():
        assert not example.prompt.harmful
        plain, steered, random = example.replies
        assert [reply.edit for reply in example.replies] == ["as it is", "steered", "random direction"]
        assert plain.refused is (toward == "answer")
        assert plain.refusal is not None and steered.refusal is not None and random.refusal is not None
        assert (steered.refusal > plain.refusal) is (toward == "refusal")
        assert abs(steered.refusal - plain.refusal) > abs(random.refusal - plain.refusal)


def test_a_steered_reply_by_hand(result: DemoResult):
    steering, chat = result.guard.steering, result.guard.model
    assert steering is not None
    example = next(one for one in result.acting.examples if one.toward == "refusal")
    edit = Add(torch.from_numpy(steering.direction), example.coefficient, state=steering.state, span="tail")
    with chat.edit(edit):
        [reply] = chat.generate([example.prompt], max_new_tokens=REPLY_TOKENS, progress=False)
    assert example.replies[1].reply == reply
    assert example.replies[1].refused == SubstringJudge().refused([reply])[0]


def test_rates_beat_their_controls(result: DemoResult):
    rates = {rate.key: rate for rate in (*result.acting.steering, *result.acting.guarded)}
    assert set(rates) == {
        "steered_to_refusal",
        "steered_to_answer",
        "refuse_stops",
        "steer_stops",
        "release_answers",
        "release_lets_through",
    }
    for key, rate in rates.items():
        assert rate.hits.shape == rate.control.shape
        if key != "release_lets_through":
            assert np.mean(rate.hits) > np.mean(rate.control) + 0.3, key


def test_refusing_stops_exactly_what_is_flagged(result: DemoResult):
    rate = next(rate for rate in result.acting.guarded if rate.key == "refuse_stops")
    jailbroken = [
        (prompt, verdict)
        for cell in result.cells
        if cell.kind.harmful and cell.kind.wrapped
        for prompt, verdict, refused in zip(
            cell.observed.prompts, result.verdicts[cell.kind.name], cell.refused, strict=True
        )
        if not refused
    ]
    assert len(rate.hits) == min(len(jailbroken), 100)
    if len(jailbroken) <= 100:
        assert int(rate.hits.sum()) == sum(verdict.flagged for _, verdict in jailbroken)
