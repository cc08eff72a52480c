"""Weights in 8 and 4 bits by bitsandbytes and torchao, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from tests.builders import byte_level_tokenizer, tiny_chat, tiny_model
from tests.model.suite import QUESTIONS, everything_passes
from undertow.errors import CoverageError
from undertow.model import ChatModel
from undertow.model.variants import is_quantised

_REASON = "the extra 'quantised' is not installed; .ci/run installs it and runs these tests"
pytest.importorskip("bitsandbytes", reason=_REASON)
torchao = pytest.importorskip("torchao.quantization", reason=_REASON)

# bitsandbytes keeps one scale for 64 weights in a row, so every width is a multiple of 64.
SIZES: dict[str, Any] = {"layers": 2, "hidden_size": 64, "intermediate_size": 128}

SETTINGS: dict[str, Any] = {
    "bitsandbytes 8 bit": BitsAndBytesConfig(load_in_8bit=True),
    "bitsandbytes 4 bit": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    ),
    "torchao 8 bit": TorchAoConfig(torchao.Int8WeightOnlyConfig()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("model")
    tiny_model("llama", **SIZES).save_pretrained(place)
    return place


def quantised(folder: Path, name: str, dtype: torch.dtype = torch.bfloat16) -> ChatModel:
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=SETTINGS[name], dtype=dtype, device_map="cpu"
    )
    return ChatModel(model, byte_level_tokenizer())


@pytest.mark.parametrize("name", list(SETTINGS))
def test_quantised_models_pass_every_check(name: str, folder: Path) -> None:
    chat = quantised(folder, name)
    assert is_quantised(chat.model)
    assert everything_passes(chat)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_states_are_those_of_the_quantised_model_and_near_the_bare_one(name: str, folder: Path) -> None:
    chat, plain = quantised(folder, name), tiny_chat("llama", **SIZES)
    states = chat.capture(QUESTIONS, progress=False).values
    for row, question in enumerate(QUESTIONS):
        rendered = chat.render(question)
        with torch.no_grad():
            own = chat.model(input_ids=torch.tensor([rendered.ids]), use_cache=False, output_hidden_states=True)
        for state in range(chat.layers):
            columns = own.hidden_states[state][0, [rendered.t_inst, rendered.t_post]]
            assert (states[row, state] - columns).abs().max() <= 5e-2 * columns.abs().max()
    bare = plain.capture(QUESTIONS, progress=False).values
    away = float((states.float() - bare).norm() / bare.norm())
    assert 1e-4 < away < (0.3 if "4 bit" in name else 0.05)


def test_quantised_weights_are_not_compared_and_everything_else_is(folder: Path) -> None:
    chat = quantised(folder, "torchao 8 bit")
    assert chat.identity.weights_hash == ""
    assert chat.identity.differences(tiny_chat("llama", **SIZES).identity) == []
    assert chat.identity.differences(tiny_chat("llama", **{**SIZES, "layers": 3}).identity) == ["architecture"]


def test_an_adapter_on_quantised_weights_makes_another_model(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    chat = quantised(folder, "bitsandbytes 8 bit")
    base = chat.identity
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    wrapped = get_peft_model(chat.model, config).eval()
    adapted = ChatModel(wrapped, byte_level_tokenizer())
    assert adapted.identity.differences(base) == ["weights"]
    assert everything_passes(adapted)
    with wrapped.disable_adapter():
        assert adapted.identity.differences(base) == []


def test_quantised_in_place_without_transformers_knowing() -> None:
    model = tiny_model("llama", **SIZES)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    chat = ChatModel(model, byte_level_tokenizer())
    assert not getattr(model, "is_quantized", False) and is_quantised(model)
    assert chat.identity.weights_hash == ""
    assert everything_passes(chat)


def rounding_its_input(dtype: torch.dtype) -> ChatModel:
    model = tiny_model("llama", **SIZES).to(dtype)
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
    return ChatModel(model, byte_level_tokenizer())


def test_heads_of_a_projection_that_rounds_its_input_are_named_not_read_in_float32() -> None:
    """Rounding each token's input to 8 bits is no linear map: slices sent through alone do not sum exactly."""
    chat = rounding_its_input(torch.float32)
    assert chat.anatomy.heads == [0, 0] and any("heads cannot be read" in note for note in chat.anatomy.notes)
    with pytest.raises(CoverageError, match="heads"):
        chat.capture(QUESTIONS, heads=True, progress=False)


def test_rounding_of_the_input_disappears_in_bfloat16() -> None:
    chat = rounding_its_input(torch.bfloat16)
    assert chat.anatomy.heads == [4, 4]
    assert everything_passes(chat)
