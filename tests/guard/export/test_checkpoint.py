from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM

from tests.builders import PROMPTS, byte_level_tokenizer, tiny_chat, tiny_model
from tests.guard.export.made import random_guard
from undertow.errors import GuardError
from undertow.guard.export.checkpoint import (
    build_classifier,
    check_exportable,
    classifier_class,
    read_log_odds,
    write_checkpoint,
)
from undertow.guard.export.template import cut_template
from undertow.model import ChatModel
from undertow.prompts import Prompt


def test_weights_are_shared_with_the_model_not_copied() -> None:
    chat = tiny_chat("llama")
    classifier = build_classifier(chat, 2, np.ones(64), {})
    own, source = dict(classifier.model.named_parameters()), dict(chat.model.model.named_parameters())
    assert own["layers.1.mlp.up_proj.weight"].data_ptr() == source["layers.1.mlp.up_proj.weight"].data_ptr()
    assert len(classifier.model.layers) == 2


def test_the_model_keeps_its_own_norm() -> None:
    chat = tiny_chat("llama")
    before = chat.model.model.norm.weight.clone()
    classifier = build_classifier(chat, 2, np.ones(64), {})
    assert torch.equal(chat.model.model.norm.weight, before) and not torch.equal(before, torch.ones(64))
    assert torch.equal(classifier.model.norm.weight, torch.ones(64))


def test_lists_with_a_value_a_block_are_cut() -> None:
    chat = tiny_chat("gemma2", layers=4)
    assert len(chat.model.config.layer_types) == 4
    classifier = build_classifier(chat, 3, np.ones(64), {})
    assert classifier.config.layer_types == chat.model.config.layer_types[:3]


def test_batches_of_any_length_give_what_single_prompts_give(tmp_path: Path) -> None:
    chat = tiny_chat("llama")
    guard = random_guard(chat)
    classifier = build_classifier(chat, 2, guard.harmfulness.rule.tensors()["weight"][0], {})
    write_checkpoint(classifier, chat, cut_template(chat), tmp_path)
    prompts = [Prompt(text) for text in PROMPTS * 5]
    together = read_log_odds(tmp_path, prompts, torch.device("cpu"), torch.float32)
    alone = [read_log_odds(tmp_path, [prompt], torch.device("cpu"), torch.float32)[0] for prompt in prompts[:5]]
    np.testing.assert_allclose(together, alone * 5, atol=1e-5)
    np.testing.assert_allclose(together, guard.score(prompts), atol=2e-5)


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    chat = tiny_chat("llama")
    write_checkpoint(build_classifier(chat, 2, np.ones(64), {}), chat, cut_template(chat), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GuardError, match=r"does not load whole: score\.weight"):
        read_log_odds(tmp_path, [Prompt("Hi")], torch.device("cpu"), torch.float32)


def refused(chat: ChatModel, words: str, state: int = 2) -> None:
    with pytest.raises(GuardError, match=words) as caught:
        check_exportable(chat, state)
    assert str(caught.value).count(". ") == 0


def test_state_0_is_refused() -> None:
    refused(tiny_chat("llama"), "token embeddings", state=0)


def test_an_architecture_without_a_stock_class_is_refused_by_name() -> None:
    config = AutoConfig.for_model("granite", vocab_size=420, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    assert classifier_class(config) is None
    sizes: dict[str, Any] = {"num_key_value_heads": 2}
    from tests.builders import SHAPES

    SHAPES.setdefault("granite", sizes)
    try:
        refused(tiny_chat("granite"), "no sequence classifier for 'granite'")
    finally:
        SHAPES.pop("granite")


def test_adapters_are_refused() -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        tiny_model("llama"), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    refused(ChatModel(adapted, byte_level_tokenizer(), name="adapted"), "carries adapters; merge them")


def test_offloaded_weights_are_refused() -> None:
    chat = tiny_chat("llama")
    chat.model.lm_head.weight = torch.nn.Parameter(torch.empty(420, 64, device="meta"))
    refused(chat, "offloaded")


def test_quantised_weights_are_refused() -> None:
    chat = tiny_chat("llama")
    chat.model.is_quantized = True
    refused(chat, "weights are quantised")


def test_code_of_its_own_is_refused() -> None:
    class Strange(LlamaForCausalLM):
        pass

    model = Strange(tiny_model("llama").config).eval()
    refused(ChatModel(model, byte_level_tokenizer(), name="strange"), "code of its own")
