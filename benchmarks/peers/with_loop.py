"""The paper's way: the whole model on one prompt at a time, output_hidden_states, every state of every token kept."""

from __future__ import annotations

from typing import Any

import harness
import torch
import with_transformers
from harness import Action, Material
from torch import Tensor

VARIANTS = {"capture": ("",), "steering": ("",), "guard": ("",)}
ABSENT = {"interchange": "not in the paper; transformers, one pass a head, is the same loop"}
NOTES = {"capture": "batch 1; its last state is after the final norm", "steering": "batch 1", "guard": "batch 1"}
NORMED_LAST = True


def opened(material: Material) -> Any:
    """The model."""
    return harness.plain_model(material.folder)


def inner(model: Any) -> Any:
    """The transformers model, which it is."""
    return model


def states(model: Any, ids: list[int]) -> tuple[Tensor, ...]:
    """Every state (1, tokens, d) of one prompt."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states


def make(task: str, variant: str, model: Any, material: Material) -> Action:
    """One task."""
    items = material.items[task]

    def capture() -> Tensor:
        rows = []
        for item in items:
            rows.append(torch.stack([state[0, [item.t_inst, item.t_post]] for state in states(model, item.ids)]))
        return torch.stack(rows)

    def steer() -> Tensor:
        return torch.cat([with_transformers.steer(model, material, [index]) for index in range(len(items))])

    def judge() -> Tensor:
        return material.scores(torch.stack([states(model, item.ids)[material.state][0, item.t_inst] for item in items]))

    return {"capture": capture, "steering": steer, "guard": judge}[task]
