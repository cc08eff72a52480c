from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.builders import PROMPTS, tiny_chat
from undertow.errors import UndertowError
from undertow.measure.attribution import LogitAttribution
from undertow.measure.conformance import NotApplicable, Trial
from undertow.measure.conformance.reading import (
    check_addition,
    check_attribution,
    check_heads,
    check_identity,
    check_positions,
    check_states,
)
from undertow.model import ChatModel, program
from undertow.model import edit as edits
from undertow.model.anatomy import Additive


def trial_of(chat: ChatModel) -> Trial:
    return Trial(chat, PROMPTS[:2], 0)


def test_an_instruction_span_that_is_short_by_a_token_fails_the_positions_check() -> None:
    trial = trial_of(tiny_chat("llama"))
    assert check_positions(trial)[0] == 0
    first = trial.rendered[0]
    trial.rendered[0] = replace(first, instruction=range(first.instruction.start + 1, first.instruction.stop))
    assert check_positions(trial)[0] == 1
    trial.rendered[1] = replace(trial.rendered[1], ids=[*trial.rendered[1].ids[:-1], 0])
    assert check_positions(trial)[0] == 2


def test_blocks_in_the_wrong_order_fail_the_states_check() -> None:
    chat = tiny_chat("llama")
    assert check_states(trial_of(chat))[0] <= 1e-5
    chat.anatomy.blocks = [chat.anatomy.blocks[index] for index in (1, 0, 2)]
    assert check_states(trial_of(chat))[0] > 0.1


def test_the_last_state_is_held_against_the_published_one_through_the_final_norm() -> None:
    chat = tiny_chat("llama")
    chat.anatomy.final_norm = torch.nn.Identity()
    assert check_states(trial_of(chat))[0] > 0.1


def test_arithmetic_that_is_slightly_off_fails_identity_and_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat("llama")
    assert check_identity(trial_of(chat))[0] == 0 and check_addition(trial_of(chat))[0] <= 1e-5
    right = edits.transform
    monkeypatch.setattr(program, "transform", lambda *given: right(*given) * 1.001)
    assert check_identity(trial_of(chat))[0] > 0 and check_addition(trial_of(chat))[0] > 1e-5


def test_an_edit_that_is_never_applied_is_no_proof_of_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "transform", lambda kind, hidden, value, coefficient: hidden)
    with pytest.raises(UndertowError, match="changes nothing"):
        check_addition(trial_of(tiny_chat("llama")))


def test_a_wrong_projection_fails_the_heads_check() -> None:
    chat = tiny_chat("gpt2")
    assert check_heads(trial_of(chat))[0] <= 1e-5
    chat.anatomy.projections[1] = chat.anatomy.projections[2]
    assert check_heads(trial_of(chat))[0] > 1e-2


def test_an_attention_output_that_the_heads_do_not_sum_to_fails_the_heads_check() -> None:
    chat = tiny_chat("gpt2")
    chat.anatomy.attentions[1] = chat.anatomy.mlps[1]
    assert check_heads(trial_of(chat))[0] > 1e-2


def test_heads_that_cannot_be_read_are_not_applicable() -> None:
    chat = tiny_chat("llama")
    chat.anatomy.heads = [0] * chat.layers
    chat.anatomy.notes = ["heads cannot be read in block 0, 1, 2: it is a test"]
    with pytest.raises(NotApplicable, match="in block 0, 1, 2: it is a test"):
        check_heads(trial_of(chat))


def test_attribution_through_the_wrong_parts_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat("llama")
    assert check_attribution(trial_of(chat))[0] <= 1e-5
    right = chat.anatomy.additive[1]
    assert right is not None
    chat.anatomy.additive[1] = Additive(right.carry, right.writers[:1])
    assert check_attribution(trial_of(chat))[0] > 1e-2
    monkeypatch.setattr(LogitAttribution, "_carried", lambda self: [2.0] * 4)
    chat.anatomy.additive[1] = right
    assert check_attribution(trial_of(chat))[0] > 1e-2


def test_attribution_of_a_stream_that_is_no_sum_is_not_applicable() -> None:
    chat = tiny_chat("llama")
    chat.anatomy.additive = [None] * 3
    with pytest.raises(NotApplicable, match="no sum of parts"):
        check_attribution(trial_of(chat))
