"""The model of cost against operations counted in real passes of small models."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import benchmark_tokenizer
from benchmarks.cost import EIGHT, SEVENTY_TWO, Shape, capture, page, replay_chunk, result, screening
from undertow.model import ChatModel, Replace

SMALL = Shape("small", layers=3, width=48, heads=6, key_heads=2, head=8, mlp=80, vocabulary=4096)


def model_of(shape: Shape) -> LlamaForCausalLM:
    """A random Llama of this shape whose attention is written out in matrix products."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.head,
        pad_token_id=0,
        eos_token_id=2,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


def test_a_pass_costs_what_is_counted() -> None:
    model, ids = model_of(SMALL), torch.zeros(1, 37, dtype=torch.long)
    for columns in (1, 37):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(input_ids=ids, use_cache=False, logits_to_keep=columns)
        assert counter.get_total_flops() == SMALL.forward(37, columns)


def test_weights_are_those_of_the_model() -> None:
    with torch.device("meta"):
        model = model_of(SMALL)
    matrices = sum(weight.numel() for weight in model.parameters() if weight.dim() == 2)
    assert matrices == SMALL.decoder + 2 * SMALL.unembedding
    assert 8.1e9 < EIGHT.decoder + 2 * EIGHT.unembedding < 8.3e9
    assert 72.0e9 < SEVENTY_TWO.decoder + 2 * SEVENTY_TWO.unembedding < 73.5e9


def test_capture_and_stopped_capture_cost_what_undertow_really_does() -> None:
    chat = ChatModel(model_of(SMALL), benchmark_tokenizer())
    tokens = len(chat.render("abcdef"))
    for layers in (3, 2):
        with FlopCounterMode(display=False) as counter:
            chat.capture("abcdef", states=[layers], progress=False)
        assert counter.get_total_flops() == capture(SMALL, 1, tokens, 1, 2, layers)[-1].operations


def test_replay_and_the_loop_cost_what_undertow_really_does() -> None:
    chat = ChatModel(model_of(SMALL), benchmark_tokenizer())
    assert chat.replay_method == "tree"
    tokens = len(chat.render("abcdef"))
    value = torch.zeros(SMALL.head)
    branches = [[Replace(value, head=(block, head), span="t_post")] for block in range(3) for head in range(6)]
    ways = screening(SMALL, tokens, budget=7)
    # The first call at a length also tries the method out.
    chat.replay("abcdef", branches[:1], progress=False)
    with FlopCounterMode(display=False) as counter:
        chat.replay("abcdef", branches, branch_budget=7, progress=False)
    assert counter.get_total_flops() == ways[-1].operations
    with FlopCounterMode(display=False) as counter:
        chat.replay("abcdef", branches, method="loop", progress=False)
    assert counter.get_total_flops() == ways[0].operations


def test_held_bytes_are_those_of_the_tensors() -> None:
    naive, stacked, ours = capture(SMALL, 64, 20, 8, 2)
    assert stacked.held == torch.empty(4, 8, 20, 48, dtype=torch.bfloat16).nbytes
    assert ours.held == torch.empty(4, 8, 2, 48, dtype=torch.bfloat16).nbytes
    assert result(SMALL, 64, 2) == torch.empty(64, 4, 2, 48, dtype=torch.bfloat16).nbytes
    assert stacked.weights == ours.weights == 8 * SMALL.decoder * 2
    assert naive.operations > stacked.operations == ours.operations


def test_replay_gains_more_the_longer_the_prompt() -> None:
    gains = [
        ways[0].operations / ways[-1].operations for ways in (screening(EIGHT, tokens) for tokens in (32, 128, 512))
    ]
    assert gains == sorted(gains) and gains[0] > 10
    assert replay_chunk(EIGHT, 128, 2) > replay_chunk(EIGHT, 128, 1)


def test_the_page_in_the_documents_is_the_one_that_is_computed() -> None:
    assert (Path(__file__).parents[2] / "docs" / "cost.md").read_text(encoding="utf-8") == page()
