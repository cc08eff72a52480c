"""Small random models of every causal LM type that transformers maps, for the architecture zoo.

A configuration's own defaults are kept but for sizes, which go by names that most configurations share. What a type
wants beyond that stands in `SETTINGS`, one entry a type.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "decoder_vocab_size": 512,
    "vocab_size_per_layer_input": 512,
    "hidden_size": 64,
    "d_model": 64,
    "n_embd": 64,
    "emb_dim": 64,
    "embedding_size": 64,
    "input_embedding_size": 64,
    "output_embedding_size": 64,
    "word_embed_proj_dim": 64,
    "attention_hidden_size": 64,
    "num_hidden_layers": 3,
    "num_layers": 3,
    "n_layer": 3,
    "n_layers": 3,
    "num_blocks": 3,
    "decoder_layers": 3,
    "encoder_layers": 2,
    "num_decoder_layers": 3,
    "num_encoder_layers": 2,
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 16,
    "swa_head_dim": 16,
    "kv_channels": 16,
    "query_pre_attn_scalar": 16,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "qk_head_dim": 16,
    "intermediate_size": 96,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 48,
    "shared_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 48,
    "dense_intermediate_size": 96,
    "intermediate_size_mlp": 96,
    "prefix_dense_intermediate_size": 96,
    "expert_ffn_hidden_size": 48,
    "ffn_hidden_size": 96,
    "ffn_dim": 96,
    "dff": 96,
    "n_inner": 96,
    "d_inner": 96,
    "decoder_ffn_dim": 96,
    "encoder_ffn_dim": 96,
    "feed_forward_size": 96,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 512,
    "n_positions": 512,
    "n_ctx": 512,
    "max_seq_len": 512,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "mamba_expand": 2,
    "ssm_state_size": 8,
    "state_size": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "lru_width": 64,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 256,
    "linear_head_dim": 16,
    "linear_num_heads": 4,
    "dim_head": 16,
    "dim_ff": 96,
    "rotary_dim": 8,
    "attention_head_size": 16,
    "attention_head_dim": 16,
    "sliding_window": 16,
    "sliding_window_size": 16,
    "attention_window_size": 16,
    "window_size": 16,
    "attention_chunk_size": 16,
    "n_shared_experts": 1,
    "is_decoder": True,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": 3,
}
"""Sizes by the names that configurations give them."""

_EQUAL_HEADS = {"num_key_value_heads": 4}
_LATENT = {"num_key_value_heads": 4, "head_dim": 8}
_INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 256,
    "indexer_compress_ratio": 4,
}

_WINDOWS = ("sliding_window", "sliding_window_size", "attention_window_size", "window_size", "attention_chunk_size")

SETTINGS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
        }
    },
    "cpmant": {"prompt_length": 4},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "dots1": {"first_k_dense_replace": 1},
    "dots3_note": {
        "text_config": {"num_key_value_heads": 4, "head_dim": 24},
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 64},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 64},
    },
    "dots3_note_text": {"num_key_value_heads": 4, "head_dim": 24},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 1,
        "intermediate_size": [96] * 4,
        "laurel_rank": 8,
        "hidden_size_per_layer_input": 8,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    },
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "granitemoehybrid": {"layers_block_type": ["linear_attention", "full_attention", "linear_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "longcat_flash": {"zero_expert_num": 2, "num_layers": 2},
    "mllama": {"text_config": {"cross_attention_layers": [1]}},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "qwen4_exp": {"text_config": _INDEXER},
    "qwen4_exp_text": _INDEXER,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "attn_layers": ["local", "lsh", "local"],
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [16, 48],
        "num_buckets": 8,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 32},
}
"""What single types want beyond `SIZES`."""

PARTS: dict[str, Any] = {
    "hidden_size": 32,
    "d_model": 32,
    "embed_dim": 32,
    "num_hidden_layers": 1,
    "depth": 1,
    "num_layers": 1,
    "num_attention_heads": 2,
    "num_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 16,
    "vocab_size": 64,
    "out_hidden_size": 64,
}
"""Sizes of the parts beside the text model: vision and audio towers that no text ever enters."""

_TEXT = ("text_config", "decoder", "global_config", "decoder_config", "encoder_config", "patcher_config")


def types() -> list[str]:
    """Every model type that transformers maps to a causal language model, in its order."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def shrunk_config(model_type: str, **settings: Any) -> Any:
    """A small configuration of a model type.

    Args:
        model_type: ``config.model_type``.
        settings: fields that override sizes and the type's own settings; a dict value overrides within a part.
    """
    from transformers import CONFIG_MAPPING

    return _shrunk(CONFIG_MAPPING[model_type], SIZES, {**SETTINGS.get(model_type, {}), **settings})


def _shrunk(kind: Any, sizes: dict[str, Any], settings: dict[str, Any]) -> Any:
    names = {one.name for one in dataclasses.fields(kind)} | set(getattr(kind, "attribute_map", {}))
    default = kind()
    values: dict[str, Any] = {name: value for name, value in sizes.items() if name in names}
    for name in _WINDOWS:
        if getattr(default, name, None) is None:
            values.pop(name, None)
    for part, inner in (getattr(kind, "sub_configs", None) or {}).items():
        own = settings.get(part, {})
        if not dataclasses.is_dataclass(inner):
            inner = type(getattr(default, part))
        if own is None or not dataclasses.is_dataclass(inner):
            continue
        values[part] = _shrunk(inner, SIZES if part in _TEXT else PARTS, own)
    if "kv_lora_rank" in names:
        values.update({name: value for name, value in _LATENT.items() if name in names})
    fields = {one.name for one in dataclasses.fields(kind)}
    values.update(_mixture(default, fields - settings.keys(), values))
    values.update(
        {name: value for name, value in settings.items() if not isinstance(value, dict) or name not in values}
    )
    return kind(**values)


def _mixture(default: Any, names: set[str], values: dict[str, Any]) -> dict[str, Any]:
    """One block of every kind that the configuration's defaults mix, so that none goes unseen."""
    found: dict[str, Any] = {}
    layers = values.get("num_hidden_layers")
    for name in ("layer_types", "layers_block_type", "mlp_layer_types"):
        if name not in names or layers is None:
            continue
        own = getattr(default, name, None) or []
        kinds = sorted(dict.fromkeys(own), key=lambda one: (one == "full_attention", one != "dense"))
        if len(kinds) > 1:
            found[name] = [kinds[max(0, index - layers + len(kinds))] for index in range(layers)]
    return found


def shrunk_model(model_type: str, *, seed: int = 0, noise: float = 0.05, **settings: Any) -> Any:
    """A random model of a type, float32, in evaluation mode.

    Noise on every weight keeps norms, gates and biases off the neutral values they start from, at which much that is
    wrong goes unseen.

    Args:
        model_type: ``config.model_type``.
        seed: of the weights.
        noise: standard deviation of what is added to every parameter.
        settings: see `shrunk_config`.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(shrunk_config(model_type, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * noise)
    return model.eval().float()
