from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from tests.builders import tiny_chat
from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.guard.verdict import QUADRANTS, quadrant_of
from undertow.measure.statistics import Estimate
from undertow.model import ChatModel
from undertow.studies.beliefs.changes import Change, Gate
from undertow.studies.beliefs.comparison import Comparison, Original, check_comparable, compare


@cache
def original() -> Original:
    return Original.of(small_context(), np.arange(0, len(small_context().test), 3))


@cache
def unchanged() -> Comparison:
    return compare(original(), small_context().chat, progress=False)


@cache
def broken() -> tuple[ChatModel, Comparison]:
    """The organism with a noisy MLP in block 2 and a shuffled one in block 5."""
    chat = small_context().chat
    model = copy.deepcopy(chat.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block, size in ((2, 2.0), (5, 4.0)):
            weight = model.model.layers[block].mlp.down_proj.weight
            weight.add_(torch.randn(weight.shape, generator=generator) * weight.std() * size)
    other = ChatModel(model, chat.tokenizer, name="broken")
    return other, compare(original(), other, progress=False)


def test_a_model_against_itself_has_not_moved() -> None:
    found = unchanged()
    assert all(abs(shift.shift.value) < 1e-5 for shift in found.shifts)
    assert {(shift.belief, shift.kind) for shift in found.shifts} == {
        (belief, kind)
        for belief in ("harmfulness", "refusal")
        for kind in ("refused harmful", "accepted harmful", "accepted harmless", "refused harmless")
    }
    changes = [*found.refused.values(), *(change for guard in found.guards for change in guard.recall.values())]
    assert all(change.drop.value == 0 and change.before == change.after for change in changes)
    assert (found.flow == np.diag(np.diag(found.flow))).all() and found.flow.sum() == found.n == len(original().test)
    assert found.same_replies.value == 1 and found.cosines["harmfulness"] == pytest.approx(1, abs=1e-5)
    # Every prompt has the same last token, so that state 0 there holds no direction.
    assert np.isnan(found.cosines["refusal"][0]) and found.cosines["refusal"][1:] == pytest.approx(1, abs=1e-5)
    assert found.gate(0.0).passed and not found.gate(0.0).certain and found.gate(0.2).certain


def test_what_a_changed_model_does_is_what_a_direct_reading_says() -> None:
    chat, found = broken()
    test, tools = original().test, original().instruments
    states = chat.capture(test.prompts, progress=False).values.float().numpy()
    later = {"t_inst": states[:, :, 0], "t_post": states[:, :, 1]}
    replies = chat.generate(test.prompts, 16, progress=False)
    refused = np.array(small_context().judge.refused(replies))
    bare = [index for index, prompt in enumerate(test.prompts) if prompt.harmful and not prompt.wrapper]
    assert found.refused["bare harmful"].after.value == pytest.approx(refused[bare].mean())
    assert found.refused["bare harmful"].before.value == pytest.approx(test.refused[bare].mean())
    beliefs = {when: tools.beliefs(values) for when, values in (("before", test.observed.states), ("after", later))}
    for shift in found.shifts:
        harmful, refusing = shift.kind.split()[1] == "harmful", shift.kind.startswith("refused")
        rows = (test.harmful == harmful) & (test.refused == refusing)
        moved = (beliefs["after"][shift.belief] - beliefs["before"][shift.belief])[rows]
        assert shift.shift.value == pytest.approx(moved.mean(), abs=1e-4)
        assert shift.shift.low <= moved.mean() <= shift.shift.high and shift.shift.n == rows.sum()
        assert found.by_state[shift.belief][shift.kind].mean() == pytest.approx(moved.mean(), abs=1e-4)
    assert max(abs(shift.shift.value) for shift in found.shifts) > 0.02
    for guard in found.guards:
        flags = tools.scores(guard.key, later) >= tools.thresholds[guard.key]
        assert guard.recall["bare"].after.value == pytest.approx(flags[bare].mean())
        assert guard.recall["all"].after.value == pytest.approx(flags[test.harmful].mean())
        assert guard.false_positives.after.value == pytest.approx(flags[~test.harmful].mean())
        before = tools.scores(guard.key, test.observed.states) >= tools.thresholds[guard.key]
        assert guard.recall["all"].drop.value == pytest.approx((before * 1.0 - flags)[test.harmful].mean())


def test_quadrants_flow_from_row_to_column() -> None:
    chat, found = broken()
    tools, test = original().instruments, original().test
    states = chat.capture(test.prompts, progress=False).values.float().numpy()
    wanted = np.zeros((4, 4), dtype=int)
    old = tools.beliefs(test.observed.states)
    new = tools.beliefs({"t_inst": states[:, :, 0], "t_post": states[:, :, 1]})
    for row in range(len(test)):
        places = [QUADRANTS.index(quadrant_of(b["harmfulness"][row] >= 0, b["refusal"][row])) for b in (old, new)]
        wanted[places[0], places[1]] += 1
    # States that were read in another batch differ by rounding, which may move a prompt that lies on the line.
    assert np.abs(found.flow - wanted).sum() <= 2 and (found.flow != found.flow.T).any()


def test_cosines_are_of_the_same_prompts_on_both_models() -> None:
    chat, found = broken()
    fit = small_context().fit
    states = chat.capture(fit.prompts, positions=("t_inst",), progress=False).values[:, :, 0].double().numpy()
    old = fit.states("t_inst").astype(float)
    one, other = (values[fit.harmful].mean(0) - values[~fit.harmful].mean(0) for values in (old, states))
    wanted = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert found.cosines["harmfulness"] == pytest.approx(wanted, abs=1e-4)
    assert found.cosines["harmfulness"][:3] == pytest.approx(1, abs=1e-4) and wanted[-1] < 0.99
    halves = found.reliability["harmfulness"]
    assert halves.shape == (7,) and (halves[1:] > 0.8).all() and (halves[1:] < 1).all()


def judged(drop: float, rise: float = 0.0) -> Gate:
    """The gate at 5 % for a guard whose recall fell and whose false positives rose so far, 0.02 either way."""
    found = unchanged()

    def moved(change: Change, by: float) -> Change:
        return replace(change, drop=Estimate(by, by - 0.02, by + 0.02, 100))

    best = found.best
    best = replace(
        best, recall={**best.recall, "all": moved(best.recall["all"], drop)}, false_positives=moved(
            best.false_positives, -rise
        )
    )  # fmt: skip
    return replace(found, guards=(found.guards[0], best)).gate(0.05)


def test_the_gate_judges_points_and_says_whether_intervals_agree() -> None:
    assert (judged(0.02).passed, judged(0.02).certain) == (True, True)
    assert (judged(0.04).passed, judged(0.04).certain) == (True, False)
    assert (judged(0.05).passed, judged(0.06).passed, judged(0.06).certain) == (True, False, False)
    assert (judged(0.08).passed, judged(0.08).certain) == (False, True)
    assert (judged(-0.3).passed, judged(-0.3, 0.08).passed, judged(-0.3, 0.08).certain) == (True, False, True)
    assert judged(0.0, 0.03).rise == pytest.approx((0.03, 0.01, 0.05, 100))
    with pytest.raises(UndertowError, match="between 0 and 1"):
        unchanged().gate(5)


def test_it_goes_through_json() -> None:
    values = json.loads(json.dumps(unchanged().to_dict(), allow_nan=False))
    assert values["cosines"]["refusal"][0] is None and values["guards"][1]["key"] == "best"
    assert values["drop"] == values["guards"][1]["recall"]["all"]["drop"] and len(values["flow"]) == 4


def test_models_that_cannot_be_compared_are_refused_by_what_differs() -> None:
    chat = small_context().chat
    with pytest.raises(UndertowError, match=r"number of blocks \(6 and 3\), the width \(128 and 64\), the tokenizer"):
        check_comparable(chat, tiny_chat("llama"))
    tokenizer = copy.deepcopy(chat.tokenizer)
    tokenizer.chat_template = tokenizer.chat_template + "{# another #}"
    other = ChatModel(chat.model, tokenizer, name="other")
    with pytest.raises(UndertowError, match="other differ in the chat template, so"):
        compare(original(), other)
    context = small_context()
    with pytest.raises(UndertowError, match="2 harmless test prompts"):
        Original.of(context, context.test.rows(harmful=True))
