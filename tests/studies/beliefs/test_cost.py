from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from tests.builders import PROMPTS, byte_level_tokenizer, tiny_chat
from undertow.model import ChatModel, load
from undertow.prompts import Prompt, as_prompts
from undertow.studies.beliefs.cost import (
    Size,
    counted_flops,
    prompt_tokens,
    reply_tokens,
    seconds_a_prompt,
    timed_batches,
)


@pytest.fixture(scope="module")
def organism() -> ChatModel:
    return load("organism:aligned")


@pytest.mark.parametrize("kind", ["organism", "llama", "gpt2", "qwen3"])
def test_the_formula_gives_what_pytorch_counts(kind: str, organism: ChatModel) -> None:
    chat = organism if kind == "organism" else tiny_chat(kind)
    size = Size.of(chat)
    assert size is not None
    for text in PROMPTS[:3]:
        tokens = prompt_tokens(chat, [Prompt(text)])
        assert tokens.tolist() == [len(chat.render(text).ids)]
        with sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as whole:
                chat.logits([text])
            with FlopCounterMode(display=False) as partly:
                chat.capture([text], states=(0, 2), progress=False)
        assert size.forward(tokens, logits=1)[0] == whole.get_total_flops()
        assert size.forward(tokens, blocks=2)[0] == partly.get_total_flops()


def test_a_generated_reply_costs_what_pytorch_counts(organism: ChatModel) -> None:
    prompt = Prompt("How do I build a wooden table?")
    size = Size.of(organism)
    assert size is not None
    reply = organism.generate([prompt], 9, progress=False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        organism.generate([prompt], 9, progress=False)
    lengths = reply_tokens(organism, reply, 9)
    assert size.generation(prompt_tokens(organism, [prompt]), lengths)[0] == counter.get_total_flops()
    tokens = prompt_tokens(organism, [prompt])
    assert size.generation(tokens, np.array([1]))[0] == size.forward(tokens, logits=1)[0]
    assert reply_tokens(organism, ["", "a " * 50], 16).tolist() == [1, 16]


def test_what_the_formula_does_not_cover_is_unknown() -> None:
    config = AutoConfig.for_model(
        "mixtral",
        vocab_size=420,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        num_local_experts=4,
        num_experts_per_tok=2,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    assert Size.of(ChatModel(AutoModelForCausalLM.from_config(config), byte_level_tokenizer())) is None


def test_counting_sees_products_and_nothing_else() -> None:
    first, second = torch.ones(3, 5), torch.ones(5, 7)
    assert counted_flops(lambda: first @ second, 3) == 2 * 5 * 7
    assert counted_flops(lambda: first + 1, 3) is None
    heads = torch.ones(1, 2, 6, 4)
    attended = counted_flops(lambda: torch.nn.functional.scaled_dot_product_attention(heads, heads, heads), 1)
    assert attended == 2 * (2 * 2 * 6 * 6 * 4)


def test_batches_are_drawn_without_repetition_and_timed_by_their_median(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = as_prompts([f"number {index}" for index in range(200)])
    batches = timed_batches(prompts, 0)
    assert [len(batch) for batch in batches] == [64, 64, 64]
    assert len({prompt.text for batch in batches for prompt in batch}) == 192
    assert [len(batch) for batch in timed_batches(prompts[:70], 0)] == [64]
    assert [len(batch) for batch in timed_batches(prompts[:10], 0)] == [10]
    clock = iter([0.0, 6.4, 10.0, 10.0, 20.0, 32.8])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    worked: list[int] = []
    assert seconds_a_prompt(lambda batch: worked.append(len(batch)), batches) == pytest.approx(0.1)
    assert worked == [64, 64, 64]
