from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.builders import tiny_chat
from undertow.model import ChatModel, conformance, program, replay
from undertow.model import edit as edits
from undertow.model.conformance import CHECKS, Check, check_positions
from undertow.model.forward import Forward
from undertow.model.trial import Trial


def outcome(chat: ChatModel, name: str) -> Check:
    return next(check for check in conformance.conformance(chat, progress=False) if check.name == name)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_every_check_passes_in_float32_with_a_figure_within_its_tolerance(kind: str) -> None:
    checks = conformance.conformance(tiny_chat(kind), progress=False)
    assert [check.name for check in checks] == list(CHECKS)
    assert {check.status for check in checks} == {"passed"}
    for check in checks:
        assert check.figure is not None and check.tolerance is not None and check.figure <= check.tolerance <= 1e-5
        assert check.detail.endswith(".")
    assert {check.name for check in checks if check.tolerance == 0} == {"positions", "identity edit"}


def test_low_precision_passes_with_a_wider_tolerance() -> None:
    chat = tiny_chat("llama")
    chat = ChatModel(chat.model.to(torch.bfloat16), chat.tokenizer)
    checks = conformance.conformance(chat, progress=False)
    assert {check.status for check in checks} == {"passed"}
    assert max(check.figure or 0.0 for check in checks) > 1e-5


def test_a_model_without_readable_heads_is_checked_without_them() -> None:
    chat = tiny_chat("llama")
    chat.anatomy.projections = [None] * chat.layers
    chat.anatomy.heads = chat.anatomy.head_sizes = [0] * chat.layers
    found = {check.name: check for check in conformance.conformance(chat, progress=False)}
    assert found["heads"].status == "not applicable" and found["heads"].figure is None
    assert found["replay"].status == "passed" and "3 states edited" in found["replay"].detail
    assert {check.status for name, check in found.items() if name != "heads"} == {"passed"}


def test_blocks_in_the_wrong_order_fail_the_states_check() -> None:
    chat = tiny_chat("llama")
    chat.anatomy.blocks = [chat.anatomy.blocks[index] for index in (1, 0, 2)]
    assert outcome(chat, "states").status == "failed"


def test_arithmetic_that_is_slightly_off_fails_identity_and_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    right = edits.transform
    monkeypatch.setattr(program, "transform", lambda *given: right(*given) * 1.001)
    chat = tiny_chat("llama")
    assert outcome(chat, "identity edit").status == "failed"
    assert outcome(chat, "additive edit").status == "failed"


def test_an_edit_that_is_never_applied_fails_the_addition_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "transform", lambda kind, hidden, value, coefficient: hidden)
    assert outcome(tiny_chat("llama"), "additive edit").status == "failed"


def test_a_wrong_projection_fails_the_heads_check() -> None:
    chat = tiny_chat("gpt2")
    chat.anatomy.projections[1] = chat.anatomy.projections[2]
    assert outcome(chat, "heads").status == "failed"


def test_branches_that_see_each_other_fail_the_replay_check(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat("llama")
    assert chat.replay_method == "tree"
    monkeypatch.setattr(replay, "_tree_mask", lambda count, last, start, dtype, device: None)
    assert outcome(chat, "replay").status == "failed"


def test_an_edit_that_forgets_generated_tokens_fails_the_generation_check(monkeypatch: pytest.MonkeyPatch) -> None:
    right = edits.Edit.covers
    monkeypatch.setattr(edits.Edit, "covers", lambda self, rendered: (right(self, rendered)[0], None))
    assert outcome(tiny_chat("llama"), "edited generation").status == "failed"


def test_padding_that_is_attended_to_fails_the_padding_check(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Forward.pad_left
    monkeypatch.setattr(Forward, "pad_left", lambda self, rows: (right(self, rows)[0], None))
    assert outcome(tiny_chat("llama"), "left padding").status == "failed"


def test_an_instruction_span_that_is_short_by_a_token_fails_the_positions_check() -> None:
    trial = Trial(tiny_chat("llama"), ["How do I build a table?", "Tell me about the bank."], 0)
    assert check_positions(trial)[0] == 0
    first = trial.rendered[0]
    trial.rendered[0] = replace(first, instruction=range(first.instruction.start + 1, first.instruction.stop))
    assert check_positions(trial)[0] == 1


def test_a_check_that_raises_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(trial: Trial) -> Any:
        raise RuntimeError("the mask\nhas no shape")

    monkeypatch.setitem(CHECKS, "replay", broken)
    check = outcome(tiny_chat("llama"), "replay")
    assert (check.status, check.figure) == ("failed", None)
    assert check.detail == "It could not be carried out: the mask has no shape"
