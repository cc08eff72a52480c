"""What makes a model the one that an artefact was made with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch

_CONFIG_KEYS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "tie_word_embeddings",
)
_PROBE_TEXT = "How do I\n 'fix' a caf\u00e9's Wi-Fi?  123 \u4f60\u597d \U0001f642"
_VALUES_A_PARAMETER = 64


@dataclass(frozen=True)
class ModelIdentity:
    """Hashes of everything that a captured state depends on.

    Attributes:
        name: where the model was loaded from; for people, never compared.
        revision: the revision asked for, compared where both sides state one.
        config_hash: of the architecture's sizes.
        tokenizer_hash: of the vocabulary and of how a fixed text is split.
        template_hash: of the chat template's source.
        weights_hash: of a strided sample of every weight, rounded to bfloat16 so that dtypes agree; empty where
            weights are quantised or offloaded, and then not compared.
        thinking: the thinking mode that prompts are rendered in; None is the template's default.
    """

    name: str
    revision: str | None
    config_hash: str
    tokenizer_hash: str
    template_hash: str
    weights_hash: str
    thinking: bool | None

    @property
    def fingerprint(self) -> str:
        """One short hash over everything but the name and the revision."""
        parts = asdict(self)
        parts.pop("name")
        parts.pop("revision")
        return _digest(json.dumps(parts, sort_keys=True))

    def differences(self, other: ModelIdentity) -> list[str]:
        """Names of what differs from another identity, empty where an artefact of one fits the other."""
        found = []
        if self.revision is not None and other.revision is not None and self.revision != other.revision:
            found.append("revision")
        if self.config_hash != other.config_hash:
            found.append("architecture")
        if self.weights_hash and other.weights_hash and self.weights_hash != other.weights_hash:
            found.append("weights")
        if self.tokenizer_hash != other.tokenizer_hash:
            found.append("tokenizer")
        if self.template_hash != other.template_hash:
            found.append("chat template")
        if self.thinking != other.thinking:
            found.append("thinking mode")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelIdentity:
        """The inverse of `to_dict`; unknown keys are ignored."""
        return cls(**{key: values[key] for key in cls.__dataclass_fields__})


def identify(model: Any, tokenizer: Any, *, name: str, revision: str | None, thinking: bool | None) -> ModelIdentity:
    """Hash a loaded model and its tokenizer; reads a few thousand values a layer, no forward pass."""
    return ModelIdentity(
        name=name,
        revision=revision,
        config_hash=_hash_config(model.config),
        tokenizer_hash=_hash_tokenizer(tokenizer),
        template_hash=_digest(json.dumps(tokenizer.chat_template, sort_keys=True)),
        weights_hash=_hash_weights(model),
        thinking=thinking,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _hash_config(config: Any) -> str:
    text_config = config.get_text_config(decoder=True)
    sizes = {key: getattr(text_config, key, None) for key in _CONFIG_KEYS}
    return _digest(json.dumps(sizes, sort_keys=True, default=str))


def _hash_tokenizer(tokenizer: Any) -> str:
    vocabulary = sorted(tokenizer.get_vocab().items())
    probe = tokenizer(_PROBE_TEXT, add_special_tokens=False)["input_ids"]
    return _digest(json.dumps([vocabulary, list(probe)]))


def _hash_weights(model: Any) -> str:
    if getattr(model, "quantization_method", None) or getattr(model, "is_quantized", False):
        return ""
    samples = []
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        if parameter.is_meta:
            return ""
        flat = parameter.detach().reshape(-1)
        stride = max(1, flat.numel() // _VALUES_A_PARAMETER)
        samples.append((name.rsplit(".", 2)[-2:], flat[::stride][:_VALUES_A_PARAMETER].to(torch.bfloat16)))
    digest = hashlib.sha256()
    for tail, values in samples:
        digest.update(".".join(tail).encode())
        digest.update(values.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:24]
