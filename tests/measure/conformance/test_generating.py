from __future__ import annotations

import pytest
import torch

from tests.builders import PROMPTS, tiny_chat
from undertow.errors import UndertowError
from undertow.measure.conformance import Trial
from undertow.measure.conformance.generating import check_generation, check_left_padding, check_replay
from undertow.model import ChatModel, replay
from undertow.model import edit as edits
from undertow.model.forward import Forward


def trial_of(chat: ChatModel) -> Trial:
    return Trial(chat, PROMPTS[:2], 0)


def test_branches_that_see_each_other_fail_the_replay_check(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat("llama")
    figure, detail = check_replay(trial_of(chat))
    assert figure <= 1e-5 and "'tree'" in detail and "all 12 heads" in detail
    monkeypatch.setattr(
        replay,
        "_tree_mask",
        lambda count, last, start, dtype, device: torch.zeros(1, 1, count * last, start + count * last, dtype=dtype),
    )
    assert check_replay(trial_of(chat))[0] > 1e-3


def test_without_heads_states_are_replayed() -> None:
    chat = tiny_chat("llama")
    chat.anatomy.heads = [0] * 3
    figure, detail = check_replay(trial_of(chat))
    assert figure <= 1e-5 and "3 states edited" in detail


def test_an_edit_that_forgets_generated_tokens_fails_the_generation_check(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat("llama")
    figure, detail = check_generation(trial_of(chat))
    assert figure <= 1e-5 and detail.startswith("16 tokens")
    right = edits.Edit.covers
    monkeypatch.setattr(edits.Edit, "covers", lambda self, rendered, prompt=0: (right(self, rendered, prompt)[0], None))
    try:
        assert check_generation(trial_of(chat))[0] > 1e-3
    except UndertowError as error:
        assert "other tokens" in str(error)


def test_padding_that_is_attended_to_fails_the_padding_check(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat("llama")
    figure, detail = check_left_padding(trial_of(chat))
    assert figure <= 1e-5 and "2 replies are the same" in detail
    right = Forward.pad_left
    monkeypatch.setattr(Forward, "pad_left", lambda self, rows: (right(self, rows)[0], None))
    with pytest.raises(UndertowError, match="change when prompts are generated together"):
        check_left_padding(trial_of(chat))


def test_models_that_cannot_be_padded_pass_since_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Forward.pad_left
    monkeypatch.setattr(Forward, "pad_left", lambda self, rows: (right(self, rows)[0], None))
    chat = tiny_chat("llama")
    assert not chat.decoding_for(16).left_padding
    assert check_left_padding(trial_of(chat))[0] <= 1e-5
