from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP

from benchmarks.shrink import shrunk_model
from tests.builders import SHAPES, byte_level_tokenizer, tiny_chat, tiny_model
from undertow.errors import CoverageError
from undertow.model import ChatModel, register_anatomy
from undertow.model.anatomy import HINTS, find_anatomy


@pytest.mark.parametrize("kind", list(SHAPES))
def test_parts_are_found_by_structure(kind: str) -> None:
    anatomy = find_anatomy(tiny_model(kind))
    assert len(anatomy.blocks) == 3 and anatomy.width == 64
    assert anatomy.heads == [4] * 3 and anatomy.head_sizes == [16] * 3
    assert None not in anatomy.mlps and None not in anatomy.projections
    assert anatomy.final_norm is not None and anatomy.unembedding is not None
    assert anatomy.notes == []


def test_hints_take_the_place_of_the_search_and_are_still_checked() -> None:
    model = tiny_model("llama")
    register_anatomy("llama", blocks="model.layers", attention="self_attn", projection="q_proj", mlp="mlp.up_proj")
    try:
        anatomy = find_anatomy(model)
    finally:
        HINTS.clear()
    assert anatomy.projections == [None] * 3 and anatomy.heads == [0] * 3
    assert anatomy.mlps == [layer.mlp.up_proj for layer in model.model.layers]
    assert anatomy.attentions == [layer.self_attn for layer in model.model.layers]
    assert "heads cannot be read in block 0, 1, 2: the declared projection does not end its attention" in anatomy.notes


def test_projections_that_are_not_linear_are_named_and_refused() -> None:
    model = tiny_model("llama")

    class Squashed(nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.tanh(super().forward(hidden))

    old = model.model.layers[1].self_attn.o_proj
    model.model.layers[1].self_attn.o_proj = Squashed(64, 64, bias=False)
    model.model.layers[1].self_attn.o_proj.weight = old.weight
    chat = ChatModel(model, byte_level_tokenizer())
    assert chat.anatomy.head_sizes == [16, 0, 16]
    assert "block 1" in chat.anatomy.notes[0]
    with pytest.raises(CoverageError, match="Block 1"):
        chat.capture("Hello", heads=[1], progress=False)


def test_models_without_a_block_list_are_refused_by_name() -> None:
    model = tiny_model("llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(CoverageError, match="register_anatomy"):
        find_anatomy(model)


def test_states_that_are_not_the_models_own_are_refused() -> None:
    model = tiny_model("llama")

    class Shifted(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, hidden: torch.Tensor, **keywords: object) -> torch.Tensor:
            return self.block(hidden + 1, **keywords)

    model.model.extra = nn.ModuleList([Shifted(block) for block in model.model.layers])
    register_anatomy("llama", blocks="model.extra")
    try:
        with pytest.raises(CoverageError):
            find_anatomy(model)
    finally:
        HINTS.clear()


def test_hooks_of_the_probe_are_removed() -> None:
    chat = tiny_chat("llama")

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in chat.model.modules())

    before = hooks()
    find_anatomy(chat.model)
    assert hooks() == before


@contextmanager
def declared(model_type: str, **paths: str) -> Iterator[None]:
    register_anatomy(model_type, **paths)
    try:
        yield
    finally:
        HINTS.clear()


def test_a_declared_anatomy_that_holds_equals_the_one_found() -> None:
    model = tiny_model("llama")
    found = find_anatomy(model)
    with declared(
        "llama",
        blocks="model.layers",
        attention="self_attn",
        projection="o_proj",
        mlp="mlp",
        final_norm="model.norm",
    ):
        assert find_anatomy(model) == found
    with declared("llama", projection="self_attn.o_proj"):
        assert find_anatomy(model) == found


def test_paths_that_lead_nowhere_and_wrong_norms_are_said() -> None:
    model = tiny_model("llama")
    with declared("llama", mlp="nothing"), pytest.raises(CoverageError, match="LlamaDecoderLayer has no 'nothing'"):
        find_anatomy(model)
    with declared("llama", final_norm="model.layers.0.input_layernorm"):
        anatomy = find_anatomy(model)
    assert anatomy.final_norm is None and any("final norm was not found" in note for note in anatomy.notes)


def test_a_declaration_for_the_text_part_of_a_model_counts_too() -> None:
    model = shrunk_model("gemma3")
    with declared("gemma3_text", attention="mlp"):
        anatomy = find_anatomy(model)
    assert anatomy.attentions == [block.mlp for block in anatomy.blocks]


def test_blocks_of_several_kinds_are_told_apart() -> None:
    model = shrunk_model("recurrent_gemma")
    anatomy = find_anatomy(model)
    kinds = ["attention" if hasattr(block.temporal_block, "o_proj") else "other" for block in model.model.layers]
    assert set(kinds) == {"attention", "other"}
    assert [count > 0 for count in anatomy.heads] == [kind == "attention" for kind in kinds]
    where = ", ".join(str(index) for index, kind in enumerate(kinds) if kind == "other")
    assert f"heads cannot be read in block {where}: no softmax attention runs in it" in anatomy.notes


def test_a_mixture_of_experts_is_one_mlp() -> None:
    model = shrunk_model("mixtral")
    assert find_anatomy(model).mlps == [layer.mlp for layer in model.model.layers]


class TwoFeeds(LlamaMLP):
    """Stands for shared experts beside routed ones, each of which the block adds by itself."""


def test_two_modules_beside_the_attention_are_no_single_mlp() -> None:
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.other = TwoFeeds(model.config)
        layer.__class__ = Beside
    anatomy = find_anatomy(model)
    assert anatomy.mlps == [None] * 3 and anatomy.heads == [4] * 3
    assert [len(sums.writers) if sums else 0 for sums in anatomy.additive] == [3] * 3
    assert "no single MLP module found in block 0, 1, 2" in anatomy.notes


class Beside(LlamaDecoderLayer):
    """A block with another MLP on what it was given."""

    other: nn.Module

    def forward(self, hidden_states: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        return super().forward(hidden_states, *arguments, **keywords) + self.other(hidden_states)


def test_a_part_that_serves_two_blocks_is_no_part_of_either() -> None:
    model = tiny_model("llama")
    layers = model.model.layers
    layers[2].mlp = layers[0].mlp
    anatomy = find_anatomy(model)
    assert anatomy.mlps == [None, layers[1].mlp, None]
    assert [sums is None for sums in anatomy.additive] == [True, False, True]
    assert "block 0, 2 does more than add outputs of its own parts to the stream" in anatomy.notes


def test_a_block_that_serves_twice_is_refused() -> None:
    model = tiny_model("llama")
    model.model.layers[2] = model.model.layers[0]
    with pytest.raises(CoverageError, match="same block more than once"):
        find_anatomy(model)


def test_a_model_that_cannot_be_read_is_refused_with_its_own_reason() -> None:
    model = tiny_model("llama")

    def broken(*arguments: Any, **keywords: Any) -> Any:
        raise ValueError("it wants\na picture")

    model.forward = broken
    with pytest.raises(CoverageError, match="'llama': it wants a picture"):
        find_anatomy(model)


def test_blocks_that_no_text_enters_are_left_out_with_a_note() -> None:
    model = tiny_model("llama")
    model.config.num_hidden_layers = 2
    with declared("llama", blocks="model.layers"):
        anatomy = find_anatomy(model)
    assert anatomy.blocks == list(model.model.layers)[:2]
    assert "1 blocks do not run on text alone and are left out of the count of blocks" in anatomy.notes
