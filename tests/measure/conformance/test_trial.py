from __future__ import annotations

import pytest
import torch

from tests.builders import PROMPTS, tiny_chat
from undertow.errors import UndertowError
from undertow.measure.conformance.trial import NotApplicable, Trial, relative_difference
from undertow.model import ChatModel


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


@pytest.mark.parametrize("published", [True, False])
def test_plain_states_are_the_models_own_whether_it_publishes_them_or_not(published: bool) -> None:
    chat = tiny_chat("llama")
    if not published:
        chat.anatomy.published = []
    trial = Trial(chat, PROMPTS[:2], 0)
    ids = trial.rendered[1].ids
    with torch.no_grad():
        own = chat.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    found = trial.plain_states(ids)
    assert sorted(found) == ([0, 1, 2] if published else [1, 2, 3])
    for state in (1, 2):
        assert torch.equal(found[state], own[state][0])
    normed = trial.normed_state(ids)
    if published:
        assert normed is not None and torch.equal(normed, own[3][0])
    else:
        assert normed is None and chat.anatomy.final_norm is not None
        with torch.no_grad():
            torch.testing.assert_close(chat.anatomy.final_norm(found[3]), own[3][0])


def test_what_the_unembedding_returns_is_read_before_anything_is_done_to_it() -> None:
    chat = tiny_chat("gemma2", final_logit_softcapping=2.0)
    trial = Trial(chat, PROMPTS[:2], 0)
    ids = trial.rendered[0].ids
    found = trial.plain_unembedded(ids)
    torch.testing.assert_close(2 * torch.tanh(found / 2), trial.plain(ids).logits[0])
    assert float((found - trial.plain(ids).logits[0]).abs().max()) > 0.1


def test_tolerances_go_by_the_type_of_the_stream() -> None:
    chat = tiny_chat("llama")
    assert Trial(chat, PROMPTS[:2], 0).tolerance == 1e-5 and Trial(chat, PROMPTS[:2], 0).exact
    low = ChatModel(chat.model.to(torch.bfloat16), chat.tokenizer)
    assert Trial(low, PROMPTS[:2], 0).tolerance == 5e-2 and not Trial(low, PROMPTS[:2], 0).exact


def test_nothing_to_compare_is_not_applicable_and_other_shapes_are_an_error() -> None:
    with pytest.raises(NotApplicable):
        relative_difference(torch.empty(0, 3), torch.empty(0, 3))
    with pytest.raises(ValueError, match="differ"):
        relative_difference(torch.ones(2), torch.ones(3))
