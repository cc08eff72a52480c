"""Small random models and tokenizers, built afresh so that no test needs a download."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from undertow.model import ChatModel

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIALS = ["<pad>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "<think>", "</think>"]
CORPUS = [
    "How do I build a wooden table for my garden? user assistant system",
    "Please explain how to disable the smoke alarm in a school.",
    "Tell me about the history of the neighbour's bank, thank you.",
] * 20

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "gpt2": {},
    "gpt_neox": {"use_parallel_residual": True},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
}


@lru_cache(maxsize=8)
def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 400 tokens with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrap(tokenizer, CHATML)


def wrap(tokenizer: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    """A transformers tokenizer around a `tokenizers` one."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = template
    return fast


def tiny_model(kind: str, *, layers: int = 3, seed: int = 0, **overrides: Any) -> Any:
    """A random causal language model: width 64, 4 heads, in evaluation mode, float32."""
    settings: dict[str, Any] = {
        "vocab_size": 420,
        "hidden_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "bos_token_id": 3,
        **SHAPES[kind],
        **overrides,
    }
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **settings)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval().float()


def tiny_chat(kind: str = "llama", **options: Any) -> ChatModel:
    """A `ChatModel` around `tiny_model` and the byte-level tokenizer."""
    return ChatModel(tiny_model(kind, **options), byte_level_tokenizer(), name=f"tiny-{kind}")


PROMPTS = [
    "How do I build a table?",
    "Please explain the smoke alarm to my neighbour, who lives in the garden behind the school.",
    "Hi",
    "Tell me about the bank.",
    "How do I disable the smoke alarm?",
]
