from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.routed import small_context
from undertow.errors import UndertowError
from undertow.measure.statistics import clopper_pearson
from undertow.model import Replace
from undertow.studies.routing.commitment import (
    Exchange,
    _first,
    _last,
    changes,
    exchange_at,
    measure_commitment,
    verdicts,
)
from undertow.studies.routing.result import Commitment, CommitmentCurve

MOST = 5
WANTED = np.arange(16)
OTHER = {"sensitive": "control", "control": "sensitive"}


@pytest.fixture(scope="module")
def commitment() -> Commitment:
    return measure_commitment(small_context(), most=MOST, most_earlier=MOST)


def curve_of(commitment: Commitment, position: str, toward: str, donor: str = "pair") -> CommitmentCurve:
    found = [one for one in commitment.curves if (one.position, one.toward, one.donor) == (position, toward, donor)]
    assert len(found) == 1
    return found[0]


def hidden_states(prompt: Any) -> list[torch.Tensor]:
    """Every state of a prompt, (tokens, d) each, by plain hooks; the last one before the final norm."""
    chat = small_context().chat
    ids = torch.tensor([chat.render(prompt).ids])
    found: list[torch.Tensor] = []
    handles = [
        block.register_forward_pre_hook(lambda block, inputs: found.append(inputs[0][0].clone()))
        for block in chat.model.model.layers
    ]
    handles.append(chat.model.model.norm.register_forward_pre_hook(lambda norm, inputs: found.append(inputs[0][0])))
    with torch.no_grad():
        chat.model(ids)
    for handle in handles:
        handle.remove()
    assert len(found) == chat.layers + 1
    return found


def under_exchange(prompt: Any, state: int, span: range, values: torch.Tensor) -> tuple[bool, float]:
    """Refused, and log-odds at the first token, with a state exchanged by a plain hook and tokens chosen by argmax."""
    context = small_context()
    chat = context.chat
    ids = list(chat.render(prompt).ids)

    def put(module: Any, inputs: Any) -> Any:
        hidden = inputs[0].clone()
        hidden[0, list(span)] = values
        return (hidden, *inputs[1:])

    site = chat.model.model.layers[state] if state < chat.layers else chat.model.model.norm
    handle = site.register_forward_pre_hook(put)
    odds, length = 0.0, len(ids)
    with torch.no_grad():
        for step in range(8):
            logits = chat.model(torch.tensor([ids]), use_cache=False).logits[:, -1]
            odds = context.openings.scores(logits).item() if step == 0 else odds
            ids.append(int(logits.argmax()))
    handle.remove()
    return "I'm sorry" in chat.tokenizer.decode(ids[length:], skip_special_tokens=True), odds


@pytest.mark.parametrize("position", ["t_post", "t_inst", "earlier"])
def test_exchanges_equal_those_of_plain_hooks(position: str) -> None:
    context = small_context()
    exchange = exchange_at(context, position, WANTED, 2)
    found, (changed, plain) = verdicts(exchange, 8), changes(exchange)
    for row in range(0, len(exchange.swaps), 3):
        swap = exchange.swaps[row]
        recipient = context.report.prompts(swap.recipient[0])[swap.recipient[1]]
        given = hidden_states(context.report.prompts(swap.giver[0])[swap.giver[1]])
        giver = context.chat.render(context.report.prompts(swap.giver[0])[swap.giver[1]])
        where = range(giver.t_post) if position == "earlier" else giver.span(position)
        for state in (2, 4, 6):
            refused, odds = under_exchange(recipient, state, exchange.spans[row], given[state][list(where)])
            assert found[row, state] == refused
            assert plain[row] + changed[row, state] == pytest.approx(odds, abs=1e-3)


def test_swaps_pair_both_sides_and_keep_to_wanted_pairs() -> None:
    context = small_context()
    wanted = np.array([0, 1, 2, 5, 6, 7, 9, 11, 12])
    exchange = exchange_at(context, "t_post", wanted, 100)
    pairs = [swap for swap in exchange.swaps if swap.donor == "pair"]
    assert len(pairs) == 2 * len(wanted)
    for swap in exchange.swaps:
        side, row = swap.recipient
        assert side == ("sensitive" if swap.toward == "answer" else "control")
        assert row in wanted and swap.giver[1] in wanted
        if swap.donor == "pair":
            assert swap.giver == (OTHER[side], row)
        else:
            assert swap.giver == (side, context.report.others[row]) and swap.giver[1] != row


def test_earlier_tokens_are_exchanged_between_prompts_of_equal_length() -> None:
    context = small_context()
    exchange = exchange_at(context, "earlier", WANTED, 100)
    assert exchange.swaps
    for swap, span in zip(exchange.swaps, exchange.spans, strict=True):
        one, other = (
            context.chat.render(context.report.prompts(side)[row]) for side, row in (swap.recipient, swap.giver)
        )
        assert len(one) == len(other)
        assert span == range(len(one) - 1)
    lengths = [
        len(context.chat.render(one)) == len(context.chat.render(other))
        for one, other in zip(context.report.prompts("sensitive"), context.report.prompts("control"), strict=True)
    ]
    assert sum(swap.donor == "pair" for swap in exchange.swaps) == 2 * sum(lengths)


def test_at_the_last_state_the_first_token_becomes_the_donor_s() -> None:
    context = small_context()
    chat = context.chat
    for side, other in OTHER.items():
        state = chat.layers
        values = list(torch.from_numpy(context.report.side(other).states["t_post"][:, state]))
        with chat.edit(Replace(values, state=state, span="t_post")):
            mine = chat.logits(context.report.prompts(side)).argmax(-1)
        theirs = chat.logits(context.report.prompts(other)).argmax(-1)
        assert mine.tolist() == theirs.tolist()
        assert mine.tolist() != chat.logits(context.report.prompts(side)).argmax(-1).tolist()


def test_the_ends_of_the_curves_are_what_they_must_be(commitment: Commitment) -> None:
    for toward in ("answer", "refusal"):
        late, early = (curve_of(commitment, position, toward) for position in ("t_post", "earlier"))
        assert late.flipped[0] == 0 and late.flipped[-1] == 1
        assert late.readout[-1] == pytest.approx(1, abs=1e-3)
        assert early.flipped[0] == 1 and early.flipped[-1] == 0
        assert early.readout[0] == pytest.approx(1, abs=1e-3)
        assert early.readout[-1] == pytest.approx(0, abs=1e-3)
        assert commitment.first[toward] is not None and commitment.last[toward] is not None


def test_a_donor_of_the_same_class_changes_little(commitment: Commitment) -> None:
    for curve in commitment.curves:
        if curve.donor == "same class":
            assert curve.flipped.max() <= 0.4
            assert np.abs(curve.readout).max() < 0.4


def test_curves_carry_exact_intervals(commitment: Commitment) -> None:
    assert commitment.n == MOST
    kinds = [(curve.position, curve.toward, curve.donor) for curve in commitment.curves]
    assert len(set(kinds)) == len(kinds)
    assert {position for position, _, _ in kinds} == {"t_post", "t_inst", "earlier"}
    for curve in commitment.curves:
        assert 1 <= curve.n <= MOST
        assert curve.flipped.shape == curve.low.shape == curve.high.shape == curve.readout.shape == (7,)
        for share, low, high in zip(curve.flipped, curve.low, curve.high, strict=True):
            assert (low, high) == pytest.approx(tuple(clopper_pearson(round(share * curve.n), curve.n)))


def test_a_prompt_that_gets_its_own_state_back_keeps_its_reply() -> None:
    """At state 0 both sides have the same token at t_post; such swaps are not generated, and change nothing."""
    context = small_context()
    exchange = exchange_at(context, "t_post", WANTED, 3)
    assert exchange.active(0) == []
    assert exchange.active(4) == list(range(len(exchange.swaps)))
    own = [replace(swap, giver=swap.recipient) for swap in exchange_at(context, "earlier", WANTED, 2).swaps]
    spans = [
        range(context.chat.render(context.report.prompts(swap.recipient[0])[swap.recipient[1]]).t_post) for swap in own
    ]
    same = Exchange(context, "earlier", own, spans)
    changed, _ = changes(same)
    assert np.abs(changed).max() < 1e-3
    assert verdicts(same, 8).T.tolist() == [[swap.recipient[0] == "sensitive" for swap in own]] * 7


def test_pairs_that_the_model_does_not_tell_apart_do_not_count() -> None:
    context = small_context()
    refused = context.report.sensitive.refused.copy()
    refused[3:] = False
    report = replace(context.report, sensitive=replace(context.report.sensitive, refused=refused))
    with pytest.raises(UndertowError, match="of 3 report pairs"):
        measure_commitment(replace(context, report=report))


def curve(position: str, toward: str, flipped: list[float], n: int = 20) -> CommitmentCurve:
    values = np.array(flipped)
    return CommitmentCurve(position, toward, "pair", values, values, values, values, n)


def test_first_and_last_state() -> None:
    late = [0.0, 0.6, 0.2, 0.5, 0.9]
    assert _first([curve("t_post", "answer", late)], "answer") == 3
    assert _first([curve("t_post", "answer", [0.6, 0.7, 0.8, 0.9, 1.0])], "answer") == 0
    assert _first([curve("t_post", "answer", [0.0, 0.7, 0.8, 0.9, 0.4])], "answer") is None
    assert _first([curve("t_inst", "answer", late), curve("t_post", "refusal", late)], "answer") is None
    early, inst = curve("earlier", "answer", [1, 0.9, 0.4, 0.5, 0]), curve("t_inst", "answer", [0, 0.9, 0.4, 0, 0])
    assert _last([inst, early], "answer") == 3
    assert _last([inst], "answer") == 1
    assert _last([inst, replace(early, n=3)], "answer") == 1
    assert _last([curve("earlier", "answer", [0.4, 0.3, 0, 0, 0])], "answer") is None
    assert _last([], "answer") is None
