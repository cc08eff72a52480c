from __future__ import annotations

import pytest
import torch

from tests.builders import PROMPTS, tiny_chat
from undertow.model import ChatModel
from undertow.model.generate import Generator, Sampling
from undertow.model.hooks import attached
from undertow.model.program import Program
from undertow.model.rows import Rows, advance, columns_of, keep, merge, plain_layers
from undertow.prompts import as_prompts


@pytest.fixture(scope="module")
def chat() -> ChatModel:
    return tiny_chat("llama")


def prefilled(chat: ChatModel, texts: list[str]) -> Rows:
    rendered = chat.renderer.render_many(as_prompts(texts))
    program = Program(chat.anatomy, (), rendered)
    rows, _ = Generator(chat, rendered, Sampling(8), program).prefill(list(range(len(texts))), program, look=False)
    return rows


def fresh_logits(chat: ChatModel, text: str, tokens: list[int]) -> torch.Tensor:
    """What plain transformers gives for the whole sequence, without cache or padding."""
    with torch.no_grad():
        return chat.model(input_ids=torch.tensor([chat.render(text).ids + tokens]), use_cache=False).logits[0, -1]


def step(chat: ChatModel, rows: Rows, tokens: list[int]) -> None:
    with attached(chat.anatomy, []):
        advance(chat.forward, rows, torch.tensor(tokens))


def test_rows_move_on_as_a_fresh_pass_would(chat: ChatModel) -> None:
    rows = prefilled(chat, PROMPTS)
    step(chat, rows, [20, 21, 22, 23, 24])
    step(chat, rows, [30, 31, 32, 33, 34])
    for index, text in enumerate(PROMPTS):
        wanted = fresh_logits(chat, text, [20 + index, 30 + index])
        torch.testing.assert_close(rows.logits[index], wanted, atol=1e-4, rtol=1e-4)


def test_kept_rows_lose_common_padding_and_go_on_alike(chat: ChatModel) -> None:
    rows = prefilled(chat, PROMPTS)
    kept = keep(rows, [2, 0])
    assert kept is not None
    assert kept.width == max(len(chat.render(PROMPTS[index]).ids) for index in (0, 2)) < rows.width
    step(chat, kept, [40, 41])
    for row, (index, token) in enumerate([(2, 40), (0, 41)]):
        torch.testing.assert_close(kept.logits[row], fresh_logits(chat, PROMPTS[index], [token]), atol=1e-4, rtol=1e-4)
    alone = keep(kept, [0])
    assert alone is not None and alone.mask is None and alone.width == len(chat.render(PROMPTS[2]).ids) + 1


def test_merged_batches_equal_each_prompt_alone(chat: ChatModel) -> None:
    first, second = prefilled(chat, PROMPTS[:2]), prefilled(chat, PROMPTS[2:3])
    step(chat, first, [50, 51])
    merged = merge(first, second)
    assert merged is not None and merged.width == first.width
    step(chat, merged, [60, 61, 62])
    kept = keep(merged, [0, 2])
    assert kept is not None
    third = merge(kept, prefilled(chat, PROMPTS[3:4]))
    assert third is not None
    step(chat, third, [70, 71, 72])
    wanted = [(PROMPTS[0], [50, 60, 70]), (PROMPTS[2], [62, 71]), (PROMPTS[3], [72])]
    for row, (text, tokens) in enumerate(wanted):
        torch.testing.assert_close(third.logits[row], fresh_logits(chat, text, tokens), atol=1e-4, rtol=1e-4)


def test_a_sliding_window_cache_is_neither_kept_nor_merged() -> None:
    chat = tiny_chat("gemma2")
    rows = prefilled(chat, PROMPTS[:2])
    assert plain_layers(rows.cache) is None
    assert keep(rows, [0]) is None
    assert merge(rows, prefilled(chat, PROMPTS[2:3])) is None


def test_columns_count_each_prompts_own_tokens() -> None:
    found = columns_of([-2, 0], 4, torch.device("cpu"))
    assert found.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
