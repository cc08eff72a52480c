from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.builders import SHAPES, byte_level_tokenizer, tiny_chat, tiny_model
from undertow.errors import CoverageError
from undertow.model import ChatModel, register_anatomy
from undertow.model.anatomy import _HINTS, find_anatomy


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
    register_anatomy("llama", blocks="model.layers", attention="self_attn", projection="q_proj", mlp="nothing")
    try:
        anatomy = find_anatomy(model)
    finally:
        _HINTS.clear()
    assert anatomy.projections == [None] * 3 and anatomy.mlps == [None] * 3
    assert any("heads cannot be read" in note for note in anatomy.notes)
    assert any("no MLP" in note for note in anatomy.notes)


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
        _HINTS.clear()


def test_hooks_of_the_probe_are_removed() -> None:
    chat = tiny_chat("llama")

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in chat.model.modules())

    before = hooks()
    find_anatomy(chat.model)
    assert hooks() == before
