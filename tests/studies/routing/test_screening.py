"""Screening against naive loops of plain passes, one a prompt, head and donor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from tests.studies.routing.plain import (
    Pass,
    built_context,
    odds_of,
    plain_odds,
    texts,
    tiny_context,
    token_ids,
    words_pairs,
)
from undertow.errors import UndertowError
from undertow.measure.permutation import sign_flip
from undertow.prompts.pairs import PairSet
from undertow.studies.routing.context import Context, Half, prepare
from undertow.studies.routing.readings import Array, Head
from undertow.studies.routing.readouts import ControlLoss, LogOdds, Projection
from undertow.studies.routing.screening import POSITIONS, Swaps, last_heads, measure_screening, swaps

Read = Callable[[str, str, dict[Head, tuple[list[int], torch.Tensor]]], float]
"""Of a prompt and its control, with heads changed."""


def read_odds(context: Context) -> Read:
    return lambda text, control, changes: odds_of(context, Pass(context.chat, text, changes).logits[-1])


def naive(context: Context, half: str, heads: list[Head], others: Array, last: int | None, read: Read) -> list[Array]:
    """necessity, sufficiency and the same-class control of both, (n, H); `last` None is every token."""
    sides = {side: texts(context, half, side) for side in ("sensitive", "control")}
    found: list[list[list[float]]] = [[], [], [], []]
    for row, control in enumerate(sides["control"]):
        for place, (side, other, sign) in enumerate((("sensitive", "control", 1.0), ("control", "sensitive", -1.0))):
            own = sides[side][row]
            before = read(own, control, {})
            for shift, donor in ((0, sides[other][row]), (2, sides[side][others[row]])):
                given = Pass(context.chat, donor)
                end, size = len(token_ids(context.chat, own)), last or len(given.ids)
                columns = list(range(end - size, end))
                found[place + shift].append(
                    [
                        sign
                        * (before - read(own, control, {(b, h): (columns, given.heads[b][len(given.ids) - size :, h])}))
                        for b, h in heads
                    ]
                )
    return [np.array(values) for values in found]


def assert_equal(found: Swaps, wanted: list[Array], tolerance: float = 1e-5) -> None:
    names = ("necessity", "sufficiency", "necessity_control", "sufficiency_control")
    for name, values in zip(names, wanted, strict=True):
        np.testing.assert_allclose(getattr(found, name), values, atol=tolerance, err_msg=name)
        # The comparison is of something.
        assert np.abs(values).max() > 100 * tolerance


def test_every_head_equals_a_naive_loop() -> None:
    context = tiny_context()
    found = swaps(context, context.report, "t_post", context.heads, context.readout)
    assert_equal(found, naive(context, "report", list(context.heads), context.report.others, 1, read_odds(context)))
    wanted = plain_odds(context, "report", "sensitive") - plain_odds(context, "report", "control")
    np.testing.assert_allclose(found.baseline, wanted, atol=1e-5)
    assert found.rows.tolist() == list(range(5))


def test_the_templates_tail_equals_a_naive_loop() -> None:
    context = tiny_context()
    heads = [(0, 1), (1, 3), (2, 0)]
    last = len(context.chat.tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False))
    found = swaps(context, context.choose, "tail", heads, context.readout)
    assert_equal(found, naive(context, "choose", heads, context.choose.others, last, read_odds(context)))


def full_context() -> Context:
    """Pairs of three lengths, and one whose sides are not equally long."""
    pairs = list(words_pairs(15))
    sides = pairs[1]
    pairs[1] = replace(sides, control=replace(sides.control, content=sides.control.text + " now"))
    chosen = PairSet(pairs)
    return prepare(
        tiny_context().chat, chosen, halves=(chosen[:8], chosen[8:]), refusal_tokens=("Q",), answer_tokens=("Y",),
        reply_tokens=1, permutations=200,
    )  # fmt: skip


def test_the_full_span_equals_a_naive_loop_on_pairs_of_equal_length() -> None:
    context = full_context()
    heads = [(0, 1), (2, 2)]
    lengths = [[len(token_ids(context.chat, text)) for text in texts(context, "report", side)]
               for side in ("sensitive", "control")]  # fmt: skip
    assert lengths[0] == lengths[1] and len(set(lengths[0])) >= 2
    found = swaps(context, context.report, "full span", heads, context.readout)
    # In the order of the pairs, whatever the groups of equal length were.
    assert found.rows.tolist() == sorted(found.rows.tolist())
    rows = [row for row in range(7) if lengths[0].count(lengths[0][row]) > 1]
    assert found.rows.tolist() == rows and len(rows) >= 6
    wanted = naive(context, "report", heads, np.arange(7), None, read_odds(context))
    np.testing.assert_allclose(found.necessity, wanted[0][rows], atol=1e-5)
    np.testing.assert_allclose(found.sufficiency, wanted[1][rows], atol=1e-5)
    # Every same-class donor is another prompt of the recipient's length: one of the naive effects with such a donor.
    read, sides = read_odds(context), texts(context, "report", "sensitive")
    for place, row in enumerate(rows):
        candidates = []
        for other in rows:
            if other != row and lengths[0][other] == lengths[0][row]:
                given = Pass(context.chat, sides[other]).heads[2][:, 2]
                changes = {(2, 2): (list(range(len(given))), given)}
                candidates.append(read(sides[row], "", {}) - read(sides[row], "", changes))
        assert np.abs(np.array(candidates) - found.necessity_control[place, 1]).min() < 1e-5


def test_pairs_of_other_lengths_take_no_part_in_the_full_span() -> None:
    context = full_context()
    with pytest.raises(UndertowError, match="equally long prompts"):
        swaps(replace(context, memory={}), replace_pairs(context), "full span", [(0, 0)], context.readout)
    found = swaps(context, context.choose, "full span", [(0, 0)], context.readout)
    assert 1 not in found.rows.tolist() and len(found.rows) >= 6


def replace_pairs(context: Context) -> Half:
    """A half in which only five pairs have two equally long sides."""
    half = context.report
    longer = [replace(prompt, content=prompt.text + " now") for prompt in half.control.prompts]
    prompts = [*half.control.prompts[:5], *longer[5:]]
    return replace(half, control=replace(half.control, prompts=prompts))


def test_the_loss_of_the_controls_reply_equals_a_naive_loop() -> None:
    context = tiny_context(readout="control-loss")
    assert isinstance(context.readout, ControlLoss)
    replies = context.readout.continuations
    tokenizer, greedy = context.chat.tokenizer, [*texts(context, "report", "control")][:2]
    for text in greedy:
        ids: list[int] = []
        while len(ids) < 5 and not set(ids) & set(context.chat.stop_ids):
            ids.append(int(Pass(context.chat, text, reply=ids).logits[-1].argmax()))
        reply = tokenizer.decode([one for one in ids if one not in context.chat.stop_ids], skip_special_tokens=True)
        assert list(replies[text]) == tokenizer.encode(reply, add_special_tokens=False)[:5]

    def read(text: str, control: str, changes: dict[Head, tuple[list[int], torch.Tensor]]) -> float:
        ids = replies[control]
        start = len(token_ids(context.chat, text)) - 1
        scores = Pass(context.chat, text, changes, ids[:-1]).logits.log_softmax(-1)
        return -float(np.mean([float(scores[start + place, one]) for place, one in enumerate(ids)]))

    heads = [(0, 0), (1, 2), (2, 3)]
    found = swaps(context, context.report, "t_post", heads, context.readout)
    assert_equal(found, naive(context, "report", heads, context.report.others, 1, read))
    tail = swaps(context, context.report, "tail", [(1, 2)], context.readout)
    size = len(context.chat.tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False))
    assert_equal(tail, naive(context, "report", [(1, 2)], context.report.others, size, read))


def test_a_projection_equals_a_naive_loop() -> None:
    context = tiny_context(readout="projection")
    assert isinstance(context.readout, Projection)
    readout = context.readout
    unit = readout.direction[readout.state].double()
    unit = unit / unit.norm()

    def read(text: str, control: str, changes: dict[Head, tuple[list[int], torch.Tensor]]) -> float:
        return float(Pass(context.chat, text, changes).states[-1].double() @ unit)

    heads = [(0, 0), (1, 2), (2, 3)]
    found = swaps(context, context.report, "t_post", heads, context.readout)
    assert_equal(found, naive(context, "report", heads, context.report.others, 1, read))


def test_no_effect_on_a_direction_is_tested_on_the_pairs_that_it_comes_from() -> None:
    context = tiny_context(readout="projection", choose=9)
    readout = context.readout
    assert isinstance(readout, Projection)
    keep = [row for row, text in enumerate(texts(context, "choose", "sensitive")) if text not in readout.fitted]
    assert 5 <= len(keep) <= 7
    found = measure_screening(context)
    assert found.necessity.tested == found.sufficiency.tested == len(keep)
    own = swaps(context, context.choose, "t_post", context.heads, readout)
    net = (own.sufficiency - own.sufficiency_control)[keep]
    np.testing.assert_array_equal(found.sufficiency.p, sign_flip(net, permutations=200, seed=0).p)
    assert found.necessity.n == len(context.report)


def test_last_heads_are_aligned_right() -> None:
    context = tiny_context()
    prompts = context.report.prompts("sensitive")
    found = last_heads(context.chat, prompts, 3)
    for row, prompt in enumerate(prompts):
        plain = Pass(context.chat, prompt.text).heads
        for block, values in found.items():
            torch.testing.assert_close(values[row], plain[block][-3:].transpose(0, 1), atol=1e-5, rtol=1e-4)


def test_p_comes_from_choose_pairs_and_sizes_from_report_pairs() -> None:
    context = tiny_context(choose=6, report=5)
    found = measure_screening(context)
    turned = measure_screening(replace(context, choose=context.report, report=context.choose, memory={}))
    for kind in ("necessity", "sufficiency"):
        one, other = getattr(found, kind), getattr(turned, kind)
        assert (one.n, one.tested, other.n, other.tested) == (5, 6, 6, 5)
        for screened, half, tested in ((one, context.report, context.choose), (other, context.choose, context.report)):
            own = swaps(context, half, "t_post", context.heads, context.readout)
            np.testing.assert_allclose(screened.value, getattr(own, kind).mean(0))
            np.testing.assert_allclose(screened.each, getattr(own, kind))
            np.testing.assert_allclose(screened.control, getattr(own, f"{kind}_control").mean(0))
            choose = swaps(context, tested, "t_post", context.heads, context.readout)
            net = getattr(choose, kind) - getattr(choose, f"{kind}_control")
            np.testing.assert_array_equal(screened.p, sign_flip(net, permutations=200, seed=0).p)
            assert (screened.low <= screened.value).all() and (screened.value <= screened.high).all()


def test_exchanges_are_kept_for_their_own_readout_and_half_alone() -> None:
    context = tiny_context()
    other = replace(context.openings, refusal_tokens=context.openings.refusal_tokens[:1])
    readout = LogOdds(other)
    assert readout.name == context.readout.name
    first = swaps(context, context.report, "t_post", context.heads, context.readout)
    second = swaps(context, context.report, "t_post", context.heads, readout)
    assert np.abs(first.necessity - second.necessity).max() > 1e-3
    assert swaps(context, context.report, "t_post", context.heads, LogOdds(other)) is second


def test_null_pairs_name_no_head() -> None:
    """Both sides of one class: over seeds, a head is significant in both effects in no more than 5 % of screenings."""
    context = built_context()
    named = 0
    for seed in range(6):
        # Two prompts of one class and topic; which side is which is drawn.
        side = ("sensitive", "control")[seed % 2]
        prompts = [*context.choose.prompts(side), *context.report.prompts(side)]
        order = np.random.default_rng(seed).permutation(len(prompts))
        pairs = PairSet(
            [
                replace(context.choose.pairs[0], sensitive=prompts[order[row]], control=prompts[order[row + 1]])
                for row in range(0, len(order), 2)
            ]
        )
        null = prepare(
            context.chat, pairs, halves=(pairs[:8], pairs[8:]), refusal_tokens=("Sorry",), answer_tokens=("Sure",),
            reply_tokens=1, permutations=200, branches=2048, seed=seed,
        )  # fmt: skip
        own = swaps(null, null.choose, "t_post", null.heads, null.readout)
        found = [
            sign_flip(values, permutations=200).significant
            for values in (own.necessity - own.necessity_control, own.sufficiency - own.sufficiency_control)
        ]
        named += bool((found[0] & found[1]).any())
    # Two of six would have a chance of 3 % at the promised rate.
    assert stats.binomtest(2, 6, 0.05, "greater").pvalue < 0.05
    assert named < 2


def test_a_position_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(UndertowError, match="no position 'middle'"):
        measure_screening(tiny_context(), "middle")
    assert POSITIONS == ("t_post", "tail", "full span")
