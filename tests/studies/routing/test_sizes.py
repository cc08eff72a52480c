"""Sizes of models against operations and weights counted in real ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from tests.builders import tiny_chat
from undertow.model import load
from undertow.studies.routing.sizes import SHAPES, ModelShape, Speed


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
def test_a_pass_costs_what_is_counted(kind: str) -> None:
    chat = tiny_chat(kind, attn_implementation="eager")
    shape = ModelShape.of(chat)
    for tokens, columns in ((37, 1), (12, 12)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            chat.model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False, logits_to_keep=columns)
        assert counter.get_total_flops() == shape.flop(tokens, tokens, columns)


def test_an_opened_model_has_its_own_sizes() -> None:
    chat = tiny_chat("qwen3")
    shape = ModelShape.of(chat)
    assert (shape.layers, shape.width, shape.heads, shape.key_heads, shape.head) == (3, 64, 4, 2, 16)
    assert (shape.inner, shape.vocabulary, shape.item, shape.eager) == (96, 420, 4, False)
    matrices = sum(weight.numel() for weight in chat.model.parameters() if weight.ndim == 2)
    assert shape.parameters == matrices
    organism = load("organism:aligned")
    weights = {id(weight): weight for weight in organism.model.parameters() if weight.ndim == 2}
    assert ModelShape.of(organism).parameters == sum(weight.numel() for weight in weights.values())


def test_the_two_stated_shapes_are_those_of_real_models() -> None:
    for shape, kind, least, most in ((SHAPES[0], "qwen3", 8.1e9, 8.3e9), (SHAPES[1], "qwen2", 72.0e9, 73.5e9)):
        config = AutoConfig.for_model(
            kind,
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_heads,
            head_dim=shape.head,
            tie_word_embeddings=False,
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        assert shape.parameters == sum(weight.numel() for weight in model.parameters() if weight.ndim == 2)
        assert least < shape.parameters < most and shape.weight_bytes == 2 * shape.parameters
    assert SHAPES[0].cache_bytes == 36 * 2 * 8 * 128 * 2


def test_speed_is_stated_or_measured() -> None:
    stated = Speed.assumed(SHAPES[0], 1e12)
    assert stated.flops == 1e12 and "as stated: 1 TFLOP/s" in stated.source
    assert "assumed" in Speed.assumed(SHAPES[0]).source
    measured = Speed.measured(tiny_chat("llama"), 16)
    assert math.isfinite(measured.flops) and measured.flops > 1e6 and 0 < measured.latency < 5
