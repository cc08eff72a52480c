from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.shrink import shrunk_model
from tests.builders import tiny_model
from undertow.errors import CoverageError
from undertow.model.anatomy import AnatomyHint
from undertow.model.anatomy.blocks import block_counts, find_blocks, follow, plain


def test_a_path_is_followed_and_a_missing_name_is_said() -> None:
    model = tiny_model("llama")
    assert follow(model, "model.layers.1.self_attn") is model.model.layers[1].self_attn
    with pytest.raises(CoverageError, match=r"declares 'model.layers.1.attn', and LlamaDecoderLayer has no 'attn'"):
        follow(model, "model.layers.1.attn")


def test_compiled_wrappers_are_looked_into() -> None:
    inner = nn.Linear(2, 2)
    compiled: Any = torch.compile(inner)
    assert plain(compiled) is inner and plain(inner) is inner


def test_the_largest_list_of_the_stated_length_is_taken() -> None:
    model = tiny_model("llama")
    model.model.small = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)) for _ in range(3)])
    model.model.longer = nn.ModuleList([nn.Sequential(nn.Linear(200, 200)) for _ in range(4)])
    model.model.leaves = nn.ModuleList([nn.Linear(500, 500) for _ in range(3)])
    assert find_blocks(model, AnatomyHint(), "llama") == list(model.model.layers)


def test_outer_lists_come_before_larger_ones_further_in() -> None:
    model = tiny_model("llama")
    model.model.side = nn.Module()
    model.model.side.inner = nn.ModuleList([nn.Sequential(nn.Linear(900, 900)) for _ in range(3)])
    assert find_blocks(model, AnatomyHint(), "llama") == list(model.model.layers)


def test_an_encoder_beside_the_decoder_is_left_alone() -> None:
    model = tiny_model("llama")
    model.tower = nn.ModuleList([nn.Sequential(nn.Linear(900, 900)) for _ in range(3)])
    assert find_blocks(model, AnatomyHint(), "llama") == list(model.model.layers)


def test_a_decoders_own_count_comes_first() -> None:
    bart = shrunk_model("bart", encoder_layers=2, decoder_layers=3)
    assert find_blocks(bart, AnatomyHint(), "bart") == list(bart.model.decoder.layers)
    config = type("Config", (), {"num_layers": 2, "num_decoder_layers": 5, "num_hidden_layers": None})()
    assert block_counts(config) == [5, 2]


def test_a_declared_list_needs_no_count() -> None:
    model = tiny_model("llama")
    model.config.num_hidden_layers = 7
    assert find_blocks(model, AnatomyHint(blocks="model.layers"), "llama") == list(model.model.layers)
    with pytest.raises(CoverageError, match=r"No list of 7 blocks .*register_anatomy\('llama', blocks=\.\.\.\)"):
        find_blocks(model, AnatomyHint(), "llama")
