"""Multimodal models given text only: found by `undertow.load` whichever class holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

import undertow as ut
from tests.builders import byte_level_tokenizer
from tests.model.suite import QUESTIONS, everything_passes
from undertow.errors import CoverageError
from undertow.model import ChatModel

TEXT: dict[str, Any] = {
    "vocab_size": 420,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": 3,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
TOWER: dict[str, Any] = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 64}
IMAGE: dict[str, Any] = {"image_token_id": 402, "image_token_index": 402}
THREE_AXES: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
MARKS: dict[str, Any] = {"video_token_id": 403, "vision_start_token_id": 404, "vision_end_token_id": 405}

SHAPES: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {
            **TEXT,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 64,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "boi_token_index": 400,
        "eoi_token_index": 401,
        "image_token_index": 402,
    },
    "llava": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"model_type": "clip_vision_model", **VISION},
        **IMAGE,
    },
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_parameters": THREE_AXES},
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4},
        **IMAGE,
        **MARKS,
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": THREE_AXES},
        "vision_config": {**TOWER, "fullatt_block_indexes": [1]},
        **IMAGE,
        **MARKS,
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "head_dim": 16, "rope_parameters": {**THREE_AXES, "mrope_interleaved": True}},
        "vision_config": {**TOWER, "deepstack_visual_indexes": [0]},
        **IMAGE,
        **MARKS,
    },
    "idefics3": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": VISION,
        "image_token_id": 402,
        "scale_factor": 2,
    },
    "mistral3": {
        "text_config": {"model_type": "mistral", **TEXT},
        "vision_config": {"model_type": "pixtral", **VISION},
        **IMAGE,
    },
    # Its causal class is the text part alone, read out of the multimodal checkpoint.
    "llama4": {
        "text_config": {
            **TEXT,
            "head_dim": 16,
            "num_local_experts": 2,
            "intermediate_size_mlp": 96,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "attention_chunk_size": 64,
        },
        "vision_config": {
            **VISION,
            "intermediate_size": 64,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
    },
    # Blocks 1 and 3 attend to an image and do not run without one.
    "mllama": {
        "text_config": {
            **TEXT,
            "num_hidden_layers": 5,
            "cross_attention_layers": [1, 3],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "image_size": 28,
            "patch_size": 14,
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 96,
            "supported_aspect_ratios": [[1, 1]],
            "max_num_tiles": 1,
        },
        "image_token_index": 402,
    },
    "paligemma": {
        "text_config": {"model_type": "gemma", **TEXT, "head_dim": 16},
        "vision_config": {"model_type": "siglip_vision_model", **VISION},
        "projection_dim": 64,
        "image_token_index": 402,
    },
    "blip-2": {
        "text_config": {
            "model_type": "opt",
            "vocab_size": 420,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "ffn_dim": 96,
            "word_embed_proj_dim": 64,
        },
        "vision_config": VISION,
        "qformer_config": {**VISION, "encoder_hidden_size": 32, "vocab_size": 420},
        "image_token_index": 402,
    },
}
COVERED = [name for name in SHAPES if name not in ("paligemma", "blip-2")]


def multimodal(kind: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **SHAPES[kind]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval().float()


@pytest.mark.parametrize("kind", COVERED)
def test_a_multimodal_folder_is_read_as_a_text_model(kind: str, tmp_path: Path) -> None:
    model = multimodal(kind)
    model.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    chat = ut.load(tmp_path)
    assert (chat.layers, chat.width) == (3, 64)
    assert everything_passes(chat)
    whole = ChatModel(model, byte_level_tokenizer())
    states = whole.capture(QUESTIONS, progress=False).values
    assert torch.equal(chat.capture(QUESTIONS, progress=False).values, states)


def test_positions_of_three_axes_count_a_text_from_its_own_start() -> None:
    """Rotary positions in three axes: a prompt padded on the left equals the same prompt run alone without help."""
    model = multimodal("qwen2_vl")
    chat = ChatModel(model, byte_level_tokenizer())
    wanted = []
    for question in QUESTIONS:
        ids = chat.render(question).ids
        for _ in range(5):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
            ids = [*ids, int(logits[0, -1].argmax())]
        wanted.append(chat.tokenizer.decode(ids[-5:], skip_special_tokens=True))
    assert chat.generate(QUESTIONS, 5, progress=False) == wanted


@pytest.mark.parametrize(("kind", "reason"), [("paligemma", "no causal language model"), ("blip-2", "pixel_values")])
def test_a_model_that_does_not_read_text_alone_from_left_to_right_is_refused(kind: str, reason: str) -> None:
    with pytest.raises(CoverageError, match=reason):
        ChatModel(multimodal(kind), byte_level_tokenizer())
