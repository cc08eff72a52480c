"""transformers alone: output_hidden_states, and hooks written by hand where it has nothing of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import harness
import torch
from harness import Action, Material
from torch import Tensor, nn

ONE, ROWS = "one pass a head", "a batch of 96 rows"
VARIANTS = {"capture": ("",), "steering": ("",), "interchange": (ONE, ROWS), "guard": ("",)}
ABSENT: dict[str, str] = {}
NOTES = {
    "capture": "output_hidden_states; its last state is after the final norm",
    "steering": "hook by hand",
    "interchange": "hooks by hand",
    "guard": "output_hidden_states",
}
NORMED_LAST = True


def opened(material: Material) -> Any:
    """The model."""
    return harness.plain_model(material.folder)


def inner(model: Any) -> Any:
    """The transformers model, which it is."""
    return model


@contextmanager
def hooked(*hooks: Any) -> Iterator[None]:
    """Remove these hooks at the end."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def make(task: str, variant: str, model: Any, material: Material) -> Action:
    """One task."""
    if task == "capture":
        return lambda: capture(model, material)
    if task == "steering":
        return lambda: steer(model, material, list(range(len(material.items["steering"]))))
    if task == "interchange":
        return (lambda: interchange_rows(model, material)) if variant == ROWS else lambda: interchange(model, material)
    return lambda: material.scores(torch.cat([read(model, material, index) for index in indices(material)]))


def indices(material: Material) -> range:
    """The guard's prompts."""
    return range(len(material.items["guard"]))


def capture(model: Any, material: Material) -> Tensor:
    """States (n, L + 1, 2, d), stacked by transformers and then indexed."""
    found: dict[int, Tensor] = {}
    for batch in material.batches:
        ids, mask, before = material.padded("capture", batch)
        columns, rows = material.columns("capture", batch, before), torch.arange(len(batch))[:, None]
        with torch.no_grad():
            hidden = model.model(
                input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True
            ).hidden_states
        stacked = torch.stack([state[rows, columns] for state in hidden], dim=1)
        found.update(zip(batch, stacked, strict=True))
    return torch.stack([found[index] for index in range(len(found))])


def steer(model: Any, material: Material, batch: list[int]) -> Tensor:
    """New tokens under a vector added in front of the steered block."""
    vector = material.values["vector"]

    def add(module: nn.Module, arguments: Any, output: Any) -> Any:
        return output + vector if isinstance(output, Tensor) else (output[0] + vector, *output[1:])

    ids, mask, _ = material.padded("steering", batch, left=True)
    with hooked(model.model.layers[material.state - 1].register_forward_hook(add)):
        return harness.generate(model, ids, mask, material.tokens)


def interchange(model: Any, material: Material) -> Tensor:
    """One forward pass a head."""
    ids, donors = torch.tensor([material.items["interchange"][0].ids]), material.values["donors"]
    size = donors.shape[2]
    rows = []
    for layer in range(donors.shape[0]):
        for head in range(donors.shape[1]):

            def put(module: nn.Module, arguments: Any, layer: int = layer, head: int = head) -> Any:
                changed = arguments[0].clone()
                changed[:, -1, head * size : (head + 1) * size] = donors[layer, head]
                return (changed,)

            hook = model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(put)
            with hooked(hook), torch.no_grad():
                rows.append(model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1])
    return torch.log_softmax(torch.stack(rows).float(), -1)


def interchange_rows(model: Any, material: Material) -> Tensor:
    """One forward pass of a batch in which every row has its own head replaced."""
    ids, donors = torch.tensor([material.items["interchange"][0].ids]), material.values["donors"]
    layers, heads, size = donors.shape

    def putter(layer: int) -> Any:
        def put(module: nn.Module, arguments: Any) -> Any:
            changed = arguments[0].clone()
            for head in range(heads):
                changed[layer * heads + head, -1, head * size : (head + 1) * size] = donors[layer, head]
            return (changed,)

        return put

    hooks = [
        model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(putter(layer)) for layer in range(layers)
    ]
    with hooked(*hooks), torch.no_grad():
        logits = model(input_ids=ids.repeat(layers * heads, 1), use_cache=False, logits_to_keep=1).logits[:, -1]
    return torch.log_softmax(logits.float(), -1)


def read(model: Any, material: Material, index: int) -> Tensor:
    """(1, d): the guard's state of one prompt, all states being kept for it."""
    item = material.items["guard"][index]
    with torch.no_grad():
        hidden = model.model(
            input_ids=torch.tensor([item.ids]), use_cache=False, output_hidden_states=True
        ).hidden_states
    return hidden[material.state][:, item.t_inst]
