"""Attribution to the log-odds, by hand: norm scale from the last state, one product a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.routed import small_context
from tests.studies.routing.plain import Pass, odds_of, texts, tiny_context, token_ids
from undertow.errors import CoverageError
from undertow.measure.judge import FirstTokenJudge
from undertow.studies.routing.attribution import Attributor, interchange
from undertow.studies.routing.context import Context
from undertow.studies.routing.readings import Head


def by_hand(context: Context, text: str, weights: Tensor, changes: Mapping[Head, Tensor]) -> tuple[list[float], float]:
    """What each head adds to the weighted logits of the openings, and what all MLPs add."""
    chat, tokens = context.chat, [*context.openings.refusal_tokens, *(context.openings.answer_tokens or ())]
    end = len(token_ids(chat, text)) - 1
    seen = Pass(chat, text, {head: ([end], value.unsqueeze(0)) for head, value in changes.items()})
    norm, rows = chat.model.model.norm, chat.model.lm_head.weight.detach()[tokens].double()
    state = seen.states[-1].double()
    scale = (state.pow(2).mean() + norm.variance_epsilon).rsqrt()
    read = weights @ (rows * norm.weight.detach().double() * scale)
    # The same reading of the whole state is the weighted logits: nothing else lies between.
    torch.testing.assert_close(read @ state, weights @ seen.logits[-1, tokens], atol=1e-5, rtol=1e-5)
    found = []
    for block, head in context.heads:
        values = seen.heads[block][-1, head].double()
        size = len(values)
        written = chat.model.model.layers[block].self_attn.o_proj.weight.detach()[:, head * size : (head + 1) * size]
        found.append(float(read @ (written.double() @ values)))
    return found, float(sum(read @ values[-1].double() for values in seen.mlps.values()))


def weights_of(context: Context, text: str) -> Tensor:
    """Slope of the log-odds at a prompt's own, unedited logits."""
    refusing, answering = context.openings.refusal_tokens, context.openings.answer_tokens
    logits = Pass(context.chat, text).logits[-1]
    return torch.cat([logits[list(refusing)].softmax(0), -logits[list(answering or ())].softmax(0)])


@pytest.mark.parametrize("knocked", [(), ((0, 1), (1, 3))])
def test_heads_and_mlps_equal_an_own_computation(knocked: tuple[Head, ...]) -> None:
    context = tiny_context()
    edits = interchange(context.report, "control", knocked) if knocked else None
    found = Attributor(context)(context.report, "sensitive", edits)
    assert found.residue < 1e-4
    for row, (text, donor) in enumerate(
        zip(texts(context, "report", "sensitive"), texts(context, "report", "control"), strict=True)
    ):
        given = Pass(context.chat, donor).heads
        changes = {(block, head): given[block][-1, head] for block, head in knocked}
        heads, mlps = by_hand(context, text, weights_of(context, text), changes)
        np.testing.assert_allclose(found.heads[row], heads, atol=1e-5)
        assert found.mlps[row] == pytest.approx(mlps, abs=1e-5)


def test_parts_sum_to_the_log_odds_where_each_side_has_one_token() -> None:
    several = tiny_context().openings
    assert several.answer_tokens is not None
    openings = FirstTokenJudge(several.refusal_tokens[:1], several.answer_tokens[:1])
    context = replace(tiny_context(), openings=openings)
    for side in ("sensitive", "control"):
        found = Attributor(context)(context.report, side)
        total = found.heads.sum(1) + found.mlps + found.rest
        wanted = [odds_of(context, Pass(context.chat, text).logits[-1]) for text in texts(context, "report", side)]
        np.testing.assert_allclose(total, wanted, atol=1e-4)
        assert found.residue < 1e-4


def test_prompts_in_several_parts_are_each_edited_with_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    context = tiny_context()
    edits = interchange(context.report, "control", [(0, 2), (1, 1)])
    whole = Attributor(context)(context.report, "sensitive", edits)
    parts = sum(context.chat.anatomy.heads) + 3 * context.chat.layers + 2
    monkeypatch.setattr("undertow.studies.routing.attribution._NUMBERS_AT_ONCE", 2 * parts * context.chat.width)
    again = Attributor(context)(context.report, "sensitive", edits)
    for name in ("heads", "mlps", "rest"):
        np.testing.assert_allclose(getattr(again, name), getattr(whole, name), atol=1e-5)
    unedited = Attributor(context)(context.report, "sensitive")
    assert np.abs(unedited.heads - whole.heads).max() > 1e-3


def test_squashed_logits_carry_their_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    context = small_context()
    attributor = Attributor(context)
    logits = torch.linspace(-40, 40, 12).reshape(3, 4)
    monkeypatch.setattr(context.chat.model.config, "final_logit_softcapping", 30.0, raising=False)
    given = logits.clone().requires_grad_()
    (30.0 * torch.tanh(given / 30.0)).sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(attributor._slope(logits), given.grad)
    monkeypatch.setattr(context.chat.model.config, "final_logit_softcapping", None, raising=False)
    with pytest.raises(CoverageError, match="squashes"):
        attributor._slope(logits)
