from __future__ import annotations

import pytest
import torch

from tests.builders import tiny_chat
from undertow.errors import EditError


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
