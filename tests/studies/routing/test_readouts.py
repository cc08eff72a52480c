"""Readouts against plain passes, and where the openings of the log-odds come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.builders import byte_level_tokenizer, tiny_chat
from tests.studies.routing.plain import Pass, built_context, plain_odds, texts, tiny_context, token_ids
from undertow.errors import UndertowError
from undertow.measure.judge import FirstTokenJudge
from undertow.model import Scale
from undertow.studies.routing.readouts import ControlLoss, LogOdds, Projection, openings_of


def first(text: str) -> int:
    return int(byte_level_tokenizer().encode(text, add_special_tokens=False)[0])


def test_log_odds_equal_plain_passes() -> None:
    context = tiny_context()
    for side in ("sensitive", "control"):
        found = context.read(context.report, side, [[]])[:, 0]
        np.testing.assert_allclose(found, plain_odds(context, "report", side), atol=1e-5)


def test_without_answer_tokens_all_others_answer() -> None:
    context = tiny_context()
    refusing = list(context.openings.refusal_tokens)
    readout = LogOdds(FirstTokenJudge(tuple(refusing)))
    prompts = context.report.prompts("control")[:2]
    found = readout.branches(context.chat, prompts, prompts, [[], [Scale(0.0, mlp=1, span="t_post")]])
    for row, prompt in enumerate(prompts):
        chances = Pass(context.chat, prompt.text).logits[-1].softmax(0)
        share = float(chances[refusing].sum())
        assert found[row, 0] == pytest.approx(np.log(share / (1 - share)), abs=1e-5)
    assert np.abs(found[:, 1] - found[:, 0]).max() > 1e-3


def test_weights_are_the_slope_of_the_log_odds() -> None:
    context = tiny_context()
    readout = LogOdds(context.openings)
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    odds = logits[:, :2].logsumexp(1) - logits[:, 2:].logsumexp(1)
    (slope,) = torch.autograd.grad(odds.sum(), logits)
    torch.testing.assert_close(readout.weights(logits.detach()), slope)


def test_the_loss_of_a_reply_equals_teacher_forcing() -> None:
    context = tiny_context(readout="control-loss")
    assert isinstance(context.readout, ControlLoss)
    assert set(context.readout.continuations) == {
        *texts(context, "choose", "control"),
        *texts(context, "report", "control"),
    }
    found = context.read(context.report, "sensitive", [[]])[:, 0]
    for row, (text, control) in enumerate(
        zip(texts(context, "report", "sensitive"), texts(context, "report", "control"), strict=True)
    ):
        ids = context.readout.continuations[control]
        assert 1 <= len(ids) <= 5
        start = len(token_ids(context.chat, text)) - 1
        scores = Pass(context.chat, text, reply=ids[:-1]).logits.log_softmax(-1)
        assert found[row] == pytest.approx(
            -np.mean([float(scores[start + n, one]) for n, one in enumerate(ids)]), abs=1e-5
        )


def test_an_empty_reply_is_the_end_token_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat()
    controls = tiny_context().report.prompts("control")[:1]
    monkeypatch.setattr(chat, "generate", lambda prompts, **options: [""] * len(prompts))
    assert ControlLoss.of(chat, controls).continuations == {controls[0].text: [min(chat.stop_ids)]}
    monkeypatch.setattr(chat, "stop_ids", frozenset())
    with pytest.raises(UndertowError, match="empty reply"):
        ControlLoss.of(chat, controls)


def test_a_projection_is_on_the_direction_of_choose_pairs_that_no_test_uses() -> None:
    context = tiny_context(readout="projection")
    readout = context.readout
    assert isinstance(readout, Projection)
    sides = {side: texts(context, "choose", side) for side in ("sensitive", "control")}
    held = [row for row, text in enumerate(sides["sensitive"]) if text in readout.fitted]
    assert 0 < len(held) < len(context.choose) / 2 + 1
    assert readout.fitted == {sides[side][row] for side in sides for row in held}
    means = {
        side: torch.stack([Pass(context.chat, sides[side][row]).states[-1] for row in held]).double().mean(0)
        for side in sides
    }
    unit = means["sensitive"] - means["control"]
    unit = unit / unit.norm()
    found = context.read(context.report, "control", [[]])[:, 0]
    wanted = [
        float(Pass(context.chat, text).states[-1].double() @ unit) for text in texts(context, "report", "control")
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert "t_post" in readout.name and "refusal" in readout.name and str(context.chat.layers) in readout.name


def test_openings_are_stated_or_the_models_own_or_the_published() -> None:
    tokenizer = byte_level_tokenizer()
    stated, source = openings_of(tokenizer, [], [], refusal_tokens=["Q"], answer_tokens=["Y"])
    assert (stated.refusal_tokens, stated.answer_tokens, source) == (
        (first("Q"),),
        (first("Y"),),
        "first tokens as stated",
    )
    own, source = openings_of(tokenizer, ["Never", "table", " "], [True, False, True], controls=["ignored"])
    assert (own.refusal_tokens, own.answer_tokens) == ((first("Never"),), (first("table"),))
    assert "own replies" in source and "100% of its refusals and 100% of its answers" in source
    # Both begin alike, so they tell nothing apart.
    published, source = openings_of(tokenizer, ["tab", "table"], [True, False], controls=["ok", "Yes"])
    assert first("Sorry") in published.refusal_tokens and first("cannot") in published.refusal_tokens
    assert published.answer_tokens == tuple(sorted({first("ok"), first("Yes")})) and "published" in source


def test_an_opening_of_both_sides_goes_to_the_side_that_uses_it_more() -> None:
    tokenizer = byte_level_tokenizer()
    replies = [*["I cannot"] * 9, "As a", *["Sure"] * 4, "I can"]
    refused = [True] * 10 + [False] * 5
    own, source = openings_of(tokenizer, replies, refused)
    assert set(own.refusal_tokens) == {first("I"), first("As")} and own.answer_tokens == (first("Sure"),)
    assert "100% of its refusals and 80% of its answers" in source


def test_openings_that_tell_nothing_are_refused() -> None:
    tokenizer = byte_level_tokenizer()
    with pytest.raises(UndertowError, match="both refusals and answers"):
        openings_of(tokenizer, [], [], refusal_tokens=["No"])
    with pytest.raises(UndertowError, match="--refusal-token"):
        openings_of(tokenizer, ["Sorry"], [True], controls=[])


def test_openings_come_from_choose_pairs_alone() -> None:
    context = built_context()
    replies = {*context.choose.sensitive.replies, *context.choose.control.replies}
    tokenizer = context.chat.tokenizer
    own, _ = openings_of(
        tokenizer,
        [*context.choose.sensitive.replies, *context.choose.control.replies],
        [*context.choose.sensitive.refused, *context.choose.control.refused],
    )
    seen = {tokenizer.encode(reply, add_special_tokens=False)[0] for reply in replies}
    assert set(own.refusal_tokens) | set(own.answer_tokens or ()) <= seen
    assert own == context.openings
