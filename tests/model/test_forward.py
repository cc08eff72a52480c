from __future__ import annotations

import pytest
import torch

from benchmarks.shrink import shrunk_model
from tests.builders import byte_level_tokenizer, tiny_chat
from undertow.errors import CoverageError, EditError
from undertow.model import ChatModel


def test_padding_on_either_side() -> None:
    forward = tiny_chat("llama").forward
    ids, mask = forward.pad_right([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]] and mask is not None and mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    ids, mask = forward.pad_left([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]] and mask is not None and mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert forward.pad_right([[5, 6], [7, 8]])[1] is None


def test_chosen_columns_equal_the_whole_and_spare_the_unembedding() -> None:
    chat = tiny_chat("llama")
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    whole, cache = chat.forward(ids)
    assert cache is None
    rows = []
    assert chat.anatomy.unembedding is not None
    handle = chat.anatomy.unembedding.register_forward_hook(lambda module, inputs, output: rows.append(output.shape))
    some, _ = chat.forward(ids, columns=torch.tensor([[1], [3]]))
    handle.remove()
    torch.testing.assert_close(some[:, 0], whole[[0, 1], [1, 3]])
    assert rows == [(2, 1, 420)]


def test_cached_continuation_equals_one_pass() -> None:
    chat = tiny_chat("llama")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    whole, _ = chat.forward(ids)
    _, cache = chat.forward(ids[:, :3], use_cache=True)
    rest, _ = chat.forward(ids[:, 3:], position_ids=torch.tensor([[3, 4]]), cache=cache, use_cache=True)
    torch.testing.assert_close(rest, whole[:, 3:], atol=1e-5, rtol=1e-5)


def test_foreign_calls_are_refused_only_while_asked() -> None:
    chat = tiny_chat("llama")
    ids = torch.tensor([[5, 6]])
    with chat.forward.refuse_foreign_calls():
        chat.forward(ids)
        with pytest.raises(EditError, match="would not be edited"):
            chat.model(input_ids=ids)
    chat.model(input_ids=ids)


def test_position_ids_are_passed_only_where_they_are_taken() -> None:
    chat = tiny_chat("gpt2")
    ids, far = torch.tensor([[5, 6, 7]]), torch.tensor([[7, 8, 9]])
    plain, _ = chat.forward(ids)
    assert chat.forward.accepts_positions and chat.forward.takes_positions
    moved, _ = chat.forward(ids, position_ids=far)
    with torch.no_grad():
        torch.testing.assert_close(moved, chat.model(input_ids=ids, position_ids=far, use_cache=False).logits)
    assert not torch.allclose(moved, plain, atol=1e-3)
    chat.forward.takes_positions = False
    assert torch.equal(chat.forward(ids, position_ids=far)[0], plain)
    mamba = ChatModel(shrunk_model("mamba"), byte_level_tokenizer())
    assert not mamba.forward.accepts_positions and not mamba.forward.takes_positions
    assert torch.equal(mamba.forward(ids, position_ids=far)[0], mamba.forward(ids)[0])


def test_models_that_read_both_ways_without_a_mask_are_refused() -> None:
    chat = tiny_chat("llama")
    chat.forward.check_causal()
    plain = chat.model.model.layers[0].self_attn.forward

    def both_ways(*arguments: object, **keywords: object) -> object:
        output, weights = plain(*arguments, **keywords)
        return output + 0.1 * output.mean(1, keepdim=True), weights

    chat.model.model.layers[0].self_attn.forward = both_ways
    with pytest.raises(CoverageError, match="later tokens or on other prompts"):
        chat.forward.check_causal()


def test_models_whose_rows_see_each_other_are_refused() -> None:
    chat = tiny_chat("llama")
    plain = chat.model.model.layers[0].mlp.forward

    def across(hidden: torch.Tensor) -> torch.Tensor:
        # What only the other row's last token brings in.
        output = plain(hidden)
        return output + 0.1 * output[:, -1:].flip(0)

    chat.model.model.layers[0].mlp.forward = across
    with pytest.raises(CoverageError, match="other prompts of the batch"):
        chat.forward.check_causal()
