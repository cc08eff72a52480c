"""What makes a model the one that an artefact was made with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from undertow.model.variants import (
    adapter_parameters,
    adapter_scales,
    adapter_state,
    bare_name,
    innermost,
    is_quantised,
    stored_value,
)

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
            weights are quantised, and then not compared. Adapters in force add ``+`` and a hash of theirs, which is
            always compared.
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
        own, _, added = self.weights_hash.partition("+")
        others, _, others_added = other.weights_hash.partition("+")
        if (own and others and own != others) or added != others_added:
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
    sizes = {key: _size_in(text_config, key) for key in _CONFIG_KEYS}
    return _digest(json.dumps(sizes, sort_keys=True, default=str))


def _size_in(config: Any, key: str) -> Any:
    """A size, or a list of them where transformers refuses to name one for blocks that differ."""
    try:
        return getattr(config, key, None)
    except RuntimeError:
        return [getattr(layer, key, None) for layer in config.per_layer_config]


def _hash_tokenizer(tokenizer: Any) -> str:
    vocabulary = sorted(tokenizer.get_vocab().items())
    probe = tokenizer(_PROBE_TEXT, add_special_tokens=False)["input_ids"]
    return _digest(json.dumps([vocabulary, list(probe)]))


def _hash_weights(model: Any) -> str:
    """Hash of the model's own weights, empty where they cannot be read, then "+" and that of the adapters in force."""
    model = innermost(model)
    adapters = adapter_parameters(model)
    # A tied weight counts once; parameters that lie elsewhere between calls no longer show that they are one.
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    own, added = [], []
    for name, parameter in model.named_parameters():
        if name in adapters:
            inside = adapters[name]
            if inside is not None:
                added.append((inside, name, parameter))
        elif not (parameter.is_meta and name in tied):
            own.append((bare_name(name), name, parameter))
    weights = "" if is_quantised(model) else _hash_parameters(model, own, [])
    merged = [] if weights else [str(state) for state in adapter_state(model) if state[-1]]
    if not added and not merged:
        return weights
    return f"{weights}+{_hash_parameters(model, added, [*adapter_scales(model), *merged])}"


def _hash_parameters(model: Any, parameters: list[tuple[str, str, Tensor]], texts: list[str]) -> str:
    digest = hashlib.sha256()
    for bare, name, parameter in sorted(parameters, key=lambda item: item[0]):
        value = stored_value(model, name, parameter)
        if value is None:
            return ""
        flat = value.reshape(-1)
        stride = max(1, flat.numel() // _VALUES_A_PARAMETER)
        digest.update(".".join(bare.rsplit(".", 2)[-2:]).encode())
        digest.update(flat[::stride][:_VALUES_A_PARAMETER].to(torch.bfloat16).float().cpu().numpy().tobytes())
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()[:24]
