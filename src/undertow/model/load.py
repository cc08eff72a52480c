"""Opening a chat model by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from undertow.model.chat import ChatModel
from undertow.model.source import load_pretrained


def load(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    thinking: bool | None = None,
) -> ChatModel:
    """Open a chat model from the Hub, a folder, or the built-in organisms (``organism:NAME``).

    Args:
        name_or_path: Hub id, folder, or ``organism:NAME``.
        revision: branch, tag or commit on the Hub.
        dtype: ``auto`` keeps the checkpoint's; else ``float32``, ``bfloat16``, ``float16`` or a torch dtype.
        device_map: as in transformers; None loads on the GPU if there is one, else on the CPU.
        attn_implementation: as in transformers.
        trust_remote_code: whether code from the checkpoint may run.
        thinking: thinking mode that prompts are rendered in; None is the template's default.

    Raises:
        ModelError: the model or its tokenizer cannot be loaded; the message says why.
        CoverageError, PositionError: see `ChatModel`.
    """
    model, tokenizer = load_pretrained(
        str(name_or_path),
        revision=revision,
        dtype=dtype,
        device_map=device_map,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    return ChatModel(model, tokenizer, name=str(name_or_path), revision=revision, thinking=thinking)
