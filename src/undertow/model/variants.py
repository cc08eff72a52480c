"""What may lie around a model without changing its architecture: compilation, offloading, adapters, quantisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from undertow.errors import CoverageError

_WRAPPING = frozenset({"base_layer", "original_module", "_orig_mod"})
"""Components of a parameter's name that a wrapper puts in; without them the name is the bare model's."""


def check_variant(model: Any) -> None:
    """Refuse what would make positions or states wrong without a sign.

    Raises:
        CoverageError: adapters that put virtual tokens in, attend to more than the prompt or depend on a token's
            place in the call; flex attention; quantisation in which a token's states depend on the rest of its batch.
    """
    for name in _active_names(model):
        adapter = getattr(model, "peft_config", {}).get(name)
        kind = str(getattr(getattr(adapter, "peft_type", None), "value", "unknown")).lower()
        advice = "load the base model without it, or use a LoRA adapter"
        if getattr(adapter, "is_prompt_learning", False):
            raise CoverageError(
                f"The adapter {name!r} is {kind}, whose virtual tokens shift every position of the prompt: {advice}."
            )
        if getattr(adapter, "is_adaption_prompt", False):
            raise CoverageError(
                f"The adapter {name!r} is {kind}, which runs each output projection a second time on its own tokens: "
                f"{advice}."
            )
        if getattr(adapter, "alora_invocation_tokens", None):
            raise CoverageError(
                f"The adapter {name!r} starts at invocation tokens that it looks for in each call, which goes wrong "
                f"where a prompt is continued from a cache: {advice}."
            )
    implementation = getattr(model.config.get_text_config(decoder=True), "_attn_implementation", None)
    if implementation == "flex_attention":
        raise CoverageError(
            "Flex attention compiles a kernel for every mask and is not covered: "
            "load the model with attn_implementation='sdpa' or 'eager'."
        )
    for module in model.modules():
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            raise CoverageError(
                "Dynamic quantisation by torch.ao scales activations by the whole batch, so that a prompt's states "
                "depend on its neighbours: quantise with bitsandbytes or torchao."
            )


def _active_names(model: Any) -> list[str]:
    """Names of the adapters in force on a PEFT model, none for any other."""
    if not isinstance(getattr(model, "peft_config", None), dict):
        return []
    active = getattr(model, "active_adapters", None) or getattr(model, "active_adapter", None) or []
    active = active() if callable(active) else active
    return [active] if isinstance(active, str) else list(active)


def is_quantised(model: Any) -> bool:
    """Whether weights are held in fewer bits than they compute with.

    A quantised layer that rounds its input too (LLM.int8, dynamic quantisation) is not quite linear in it.
    """
    if getattr(model, "quantization_method", None) or getattr(model, "is_quantized", False):
        return True
    # Quantisation puts a class of its own in place of a plain parameter.
    return any(type(parameter) is not nn.Parameter for parameter in model.parameters())


def innermost(model: Any) -> Any:
    """The model whose forward pass runs in the end, inside any PEFT wrapper."""
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        return model.get_base_model()
    return model


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run whatever was compiled with `torch.compile` as plain PyTorch.

    Compiled code skips hooks that were added after it was compiled, without a sign.
    """
    with torch.compiler.set_stance("force_eager"):
        yield


def input_device(model: Any) -> torch.device:
    """Where token ids go: the device of the embeddings, or the one that they are brought to for each call."""
    embedding = model.get_input_embeddings()
    weight = getattr(embedding, "weight", None)
    if isinstance(weight, Tensor) and weight.device.type != "meta":
        return weight.device
    for module in (embedding, model):
        for hook in _placements(module):
            if getattr(hook, "execution_device", None) is not None:
                return torch.device(hook.execution_device)
    device: torch.device = model.device
    return torch.device("cpu") if device.type == "meta" else device


def stored_value(model: nn.Module, name: str, parameter: Tensor) -> Tensor | None:
    """A parameter's values, from where they are kept between calls if it is offloaded; None if they cannot be had."""
    if not parameter.is_meta:
        return parameter.detach()
    path, _, last = name.rpartition(".")
    for hook in _placements(model.get_submodule(path)):
        kept = getattr(hook, "weights_map", None)
        if kept is not None:
            value: Tensor = kept[last]
            return None if value.is_meta else value.detach()
    return None


def _placements(module: Any) -> list[Any]:
    """The hooks by which accelerate brings a module's weights to where they are needed."""
    hook = getattr(module, "_hf_hook", None)
    return list(getattr(hook, "hooks", [hook])) if hook is not None else []


def bare_name(name: str) -> str:
    """A parameter's name as the unwrapped model has it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPING)


def adapter_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Modules that hold adapters, by name."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "adapter_layer_names")]


def adapter_state(model: nn.Module) -> tuple[Any, ...]:
    """Which adapters are in force and which are merged, layer by layer; empty for a model without."""
    return tuple(
        (bool(getattr(layer, "disable_adapters", False)), tuple(_names(layer)), tuple(_merged(layer)))
        for _, layer in adapter_layers(model)
    )


def adapter_parameters(model: nn.Module) -> dict[str, str | None]:
    """Every parameter that belongs to an adapter, and its name without the adapter's if it is in force.

    None stands for a parameter of an adapter that is disabled, not chosen, or merged into the weights.
    """
    found: dict[str, str | None] = {}
    for prefix, layer in adapter_layers(model):
        disabled = bool(getattr(layer, "disable_adapters", False))
        active = set() if disabled else set(_names(layer)) - set(_merged(layer))
        known = {key for kind in layer.adapter_layer_names for key in _keys(getattr(layer, kind, None))}
        for name, _ in layer.named_parameters(prefix=prefix, remove_duplicate=False):
            parts = name[len(prefix) + 1 :].split(".")
            if parts[0] in _WRAPPING:
                continue
            named = known & set(parts)
            in_force = bool((named or active) & active)
            inside = ".".join(part for part in parts if part not in named)
            found[name] = f"{bare_name(prefix)}.{inside}" if in_force else None
    return found


def adapter_scales(model: nn.Module) -> list[str]:
    """The factor of every adapter in force, layer by layer, as text."""
    found = []
    for name, layer in adapter_layers(model):
        scaling = getattr(layer, "scaling", None)
        if isinstance(scaling, dict) and not getattr(layer, "disable_adapters", False):
            in_force = [key for key in _names(layer) if key in scaling and key not in _merged(layer)]
            found += [f"{bare_name(name)} {scaling[key]!r}" for key in in_force]
    return found


def _names(layer: Any) -> list[str]:
    names = getattr(layer, "active_adapters", None) or []
    return [names] if isinstance(names, str) else list(names)


def _merged(layer: Any) -> list[str]:
    return list(getattr(layer, "merged_adapters", None) or [])


def _keys(holder: Any) -> list[str]:
    return list(holder.keys()) if hasattr(holder, "keys") else []
