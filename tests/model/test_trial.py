from __future__ import annotations

import pytest
import torch

from tests.builders import PROMPTS, tiny_chat
from undertow.errors import UndertowError
from undertow.model.trial import Trial, relative_difference


def test_plain_calls_are_transformers_own() -> None:
    chat = tiny_chat("llama")
    trial = Trial(chat, PROMPTS[:2], 0)
    ids = trial.rendered[1].ids
    with torch.no_grad():
        logits = chat.model(input_ids=torch.tensor([ids])).logits[0]
    assert torch.equal(trial.plain_logits(ids), torch.log_softmax(logits, -1))


@pytest.mark.parametrize("state", [0, 2, 3])
def test_a_vector_added_by_hand_reaches_its_columns_only_and_leaves_no_hook(state: int) -> None:
    trial = Trial(tiny_chat("gpt2"), PROMPTS[:2], 0)
    ids, vector = trial.rendered[0].ids, trial.vector(state)
    before = trial.plain_logits(ids)
    with trial.added_by_hand(state, vector, [5, 99]):
        edited = trial.plain_logits(ids)
    assert torch.equal(edited[:5], before[:5]) and not torch.allclose(edited[5], before[5])
    assert torch.equal(trial.plain_logits(ids), before)


def test_a_single_prompt_is_too_few() -> None:
    with pytest.raises(UndertowError, match="two prompts"):
        Trial(tiny_chat("llama"), PROMPTS[:1], 0)


def test_values_that_are_not_finite_never_pass() -> None:
    wanted = torch.tensor([1.0, 2.0])
    assert relative_difference(torch.tensor([1.0, float("nan")]), wanted) == float("inf")
    assert relative_difference(wanted, torch.tensor([1.0, float("nan")])) == float("inf")
    assert relative_difference(torch.tensor([-float("inf"), 2.0]), torch.tensor([-float("inf"), 2.0])) == 0
    assert relative_difference(torch.tensor([1.0, 2.5]), wanted) == pytest.approx(0.25)
