from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from torch import nn

import undertow as ut
from tests.builders import byte_level_tokenizer, tiny_chat, tiny_model
from tests.model.suite import QUESTIONS, everything_passes
from undertow.errors import CoverageError, ModelError
from undertow.model import Add, ChatModel
from undertow.model.variants import input_device


def saved(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return str(folder)


def opened(model: Any) -> ChatModel:
    return ChatModel(model, byte_level_tokenizer())


# Precision, attention, tied weights


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_every_precision(kind: str, dtype: torch.dtype) -> None:
    chat = opened(tiny_model(kind).to(dtype))
    assert everything_passes(chat)
    assert chat.capture(QUESTIONS, progress=False).values.dtype == chat.dtype == dtype


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float64"])
def test_precision_by_name_when_loading(name: str, tmp_path: Path) -> None:
    assert ut.load(saved(tiny_model("llama"), tmp_path), dtype=name).dtype == getattr(torch, name)


def test_numbers_too_large_for_half_precision_are_refused() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 1e6
    assert torch.isfinite(opened(copy.deepcopy(model)).capture(QUESTIONS, progress=False).values).all()
    chat = opened(tiny_model("llama").half())
    with torch.no_grad():
        chat.model.model.layers[1].mlp.down_proj.weight.fill_(6e4)
    with pytest.raises(ModelError, match=r"not all finite in torch\.float16"):
        chat.capture(QUESTIONS, progress=False)
    with pytest.raises(ModelError, match=r"not numbers in torch\.float16"):
        chat.logits(QUESTIONS)


@pytest.mark.parametrize(
    ("kind", "implementation"), [("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa"), ("gemma2", "eager")]
)
def test_attention_implementations(kind: str, implementation: str, tmp_path: Path) -> None:
    chat = ut.load(saved(tiny_model(kind), tmp_path), attn_implementation=implementation)
    assert chat.model.config._attn_implementation == implementation
    assert everything_passes(chat)
    assert chat.replay_method == "tree"


def test_flex_attention_is_refused_before_it_runs(tmp_path: Path) -> None:
    with pytest.raises(CoverageError, match="attn_implementation='sdpa'"):
        ut.load(saved(tiny_model("llama"), tmp_path), attn_implementation="flex_attention")


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("gpt2", False)])
def test_tied_and_untied_embeddings(kind: str, tied: bool) -> None:
    model = tiny_model(kind, tie_word_embeddings=tied)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    assert everything_passes(model)


# Compiled models


def whole(model: Any, backend: Any) -> Any:
    return torch.compile(model, backend=backend)


def in_place(model: Any, backend: Any) -> Any:
    model.compile(backend=backend)
    return model


def each_block(model: Any, backend: Any) -> Any:
    for index, block in enumerate(model.model.layers):
        model.model.layers[index] = torch.compile(block, backend=backend)
    return model


def each_block_in_place(model: Any, backend: Any) -> Any:
    for block in model.model.layers:
        block.compile(backend=backend)
    return model


def parts(model: Any, backend: Any) -> Any:
    for block in model.model.layers:
        block.self_attn.compile(backend=backend)
        block.mlp = torch.compile(block.mlp, backend=backend)
    return model


@pytest.mark.parametrize("compiled", [whole, in_place, each_block, each_block_in_place, parts])
def test_compiled_code_never_skips_a_reading_or_an_edit(compiled: Callable[[Any, Any], Any]) -> None:
    runs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*values: Any) -> Any:
            runs.append(1)
            return graph.forward(*values)

        return run

    torch._dynamo.reset()
    model = compiled(tiny_model("llama"), backend)
    ids = torch.arange(3, 20).unsqueeze(0)
    with torch.no_grad():
        before = model(input_ids=ids, use_cache=False).logits
    assert runs
    chat, plain = opened(model), tiny_chat("llama")
    # Compiled code that runs even once here would have skipped the hooks put in after it was compiled.
    runs.clear()
    read, wanted = (one.capture(QUESTIONS, heads=True, progress=False) for one in (chat, plain))
    assert read.heads is not None and wanted.heads is not None
    assert torch.equal(read.values, wanted.values) and torch.equal(read.heads, wanted.heads)
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0))
    with chat.edit(Add(vector, state=1)), plain.edit(Add(vector, state=1)):
        assert torch.equal(chat.logits(QUESTIONS), plain.logits(QUESTIONS))
        assert chat.generate(QUESTIONS, 4, progress=False) == plain.generate(QUESTIONS, 4, progress=False)
    assert not runs
    assert chat.identity.differences(plain.identity) == []
    assert everything_passes(chat)
    with torch.no_grad():
        after = model(input_ids=ids, use_cache=False).logits
    assert runs and torch.equal(before, after)


# Offloaded models


def placed(**where: str) -> dict[str, str]:
    parts = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    return {**parts, **{f"model.layers.{index}": "cpu" for index in range(3)}, **where}


MAPS: dict[str, Any] = {
    "some blocks": placed(**{"model.layers.1": "disk", "model.layers.2": "disk"}),
    "embeddings and head": placed(**{"model.embed_tokens": "disk", "lm_head": "disk", "model.norm": "disk"}),
    "everything": {"": "disk"},
    "auto": "auto",
}


@pytest.mark.parametrize("name", list(MAPS))
def test_disk_offload_by_device_map(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tiny_model("llama"), tmp_path)
    monkeypatch.chdir(tmp_path)
    chat, plain = ut.load(folder, device_map=MAPS[name]), tiny_chat("llama")
    offloaded = [parameter.is_meta for parameter in chat.model.parameters()]
    assert any(offloaded) == (name != "auto") and all(offloaded) == (name == "everything")
    assert chat.device.type == "cpu"
    assert everything_passes(chat)
    assert torch.equal(chat.capture(QUESTIONS, progress=False).values, plain.capture(QUESTIONS, progress=False).values)
    # The weights on disk are hashed too, so that a guard knows its model there as well.
    assert chat.identity.weights_hash == plain.identity.weights_hash
    assert [parameter.is_meta for parameter in chat.model.parameters()] == offloaded


def test_offload_by_accelerate(tmp_path: Path) -> None:
    for model in (
        cpu_offload(tiny_model("llama"), execution_device="cpu"),
        disk_offload(tiny_model("llama"), str(tmp_path), execution_device="cpu"),
    ):
        assert all(parameter.is_meta for parameter in model.parameters())
        assert input_device(model) == torch.device("cpu")
        assert everything_passes(model)
        other = tiny_chat("llama", seed=1)
        assert opened(model).identity.differences(other.identity) == ["weights"]


def test_tied_weights_on_disk_are_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    monkeypatch.chdir(tmp_path)
    chat = ut.load(saved(model, tmp_path), device_map={"": "disk"})
    assert everything_passes(chat)
    assert chat.identity.differences(opened(model).identity) == []


# What a checkpoint must hold


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(saved(tiny_model("llama"), tmp_path))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights .*model\.layers\.1\.mlp\.up_proj\.weight"):
        ut.load(folder)


@pytest.mark.filterwarnings("ignore")
def test_quantisation_by_the_whole_batch_is_refused() -> None:
    dynamic: Any = torch.ao.quantization.quantize_dynamic  # type: ignore[attr-defined]
    model = dynamic(tiny_model("llama"), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(CoverageError, match="depend on its neighbours"):
        opened(model)
