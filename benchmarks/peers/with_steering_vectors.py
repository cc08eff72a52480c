"""steering-vectors: record_activations and SteeringVector.apply on a transformers model."""

from __future__ import annotations

from typing import Any

import harness
import torch
from harness import Action, Material
from torch import Tensor

VARIANTS = {"capture": ("",), "steering": ("",), "guard": ("",)}
ABSENT = {"interchange": "no such feature: it reads and writes whole blocks, attentions and MLPs, not heads"}
NOTES = {
    "capture": "record_activations of decoder blocks: 12 of 13 states, the embeddings are none of its layers",
    "guard": "record_activations of one layer, whole pass",
}
STATES = range(1, 13)


def opened(material: Material) -> Any:
    """The model."""
    return harness.plain_model(material.folder)


def inner(model: Any) -> Any:
    """The transformers model, which it is."""
    return model


def make(task: str, variant: str, model: Any, material: Material) -> Action:
    """One task."""
    functions = {"capture": capture, "steering": steer, "guard": judge}
    return lambda: functions[task](model, material)


def capture(model: Any, material: Material) -> Tensor:
    """States 1 to L: (n, L, 2, d)."""
    from steering_vectors import record_activations

    found: dict[int, Tensor] = {}
    for batch in material.batches:
        ids, mask, before = material.padded("capture", batch)
        columns, rows = material.columns("capture", batch, before), torch.arange(len(batch))[:, None]
        with torch.no_grad(), record_activations(model, layer_type="decoder_block") as recorded:
            model.model(input_ids=ids, attention_mask=mask, use_cache=False)
        gathered = torch.stack([recorded[layer][0][rows, columns] for layer in sorted(recorded)], dim=1)
        found.update(zip(batch, gathered, strict=True))
    return torch.stack([found[index] for index in range(len(found))])


def steer(model: Any, material: Material) -> Tensor:
    """New tokens under a steering vector."""
    from steering_vectors import SteeringVector

    vector = SteeringVector({material.state - 1: material.values["vector"]}, layer_type="decoder_block")
    ids, mask, _ = material.padded("steering", list(range(len(material.items["steering"]))), left=True)
    with vector.apply(model):
        return harness.generate(model, ids, mask, material.tokens)


def judge(model: Any, material: Material) -> Tensor:
    """Scores of the guard's prompts, one at a time."""
    from steering_vectors import record_activations

    place, states = material.state - 1, []
    for item in material.items["guard"]:
        with (
            torch.no_grad(),
            record_activations(model, layer_type="decoder_block", layer_nums=[place]) as recorded,
        ):
            model.model(input_ids=torch.tensor([item.ids]), use_cache=False)
        states.append(recorded[place][0][0, item.t_inst])
    return material.scores(torch.stack(states))
