"""Guards of random models for the export tests: nothing is fitted, so any architecture is ready at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from undertow.guard import Belief, Curve, LatentGuard, Threshold
from undertow.guard.rules import NormedRule
from undertow.model import ChatModel

SLOPE = 0.8


def threshold(value: float = 0.25) -> Threshold:
    return Threshold(value, 0.02, 1, 50, 0.1, 0.95, 0.9, 0.8, 0.95, 50, 149)


def random_guard(chat: ChatModel, state: int = 2, curve: Curve | None = None, seed: int = 0) -> LatentGuard:
    """A guard of the rule `normed` with a random weight."""
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(1, chat.width)) / np.sqrt(chat.width) * 3
    rule = NormedRule((state,), weight, {"regularisation": 0.03, **NormedRule.settings_for(chat)})
    belief = Belief("harmfulness", "t_inst", rule, curve or Curve(SLOPE), threshold(), "made up")
    training = {"harmful": 1, "harmless": 1, "held_out": 1, "seed": 0}
    metrics = {"area": 0.5, "threshold_sentence": "Nothing was measured."}
    return LatentGuard(chat, chat.identity, belief, None, training=training, metrics=metrics)


def states_by_transformers(chat: ChatModel, ids: list[list[int]], state: int) -> torch.Tensor:
    """State (n, d) of the last of the given tokens, from the model's own `hidden_states`; not its last state."""
    found = []
    with torch.no_grad():
        for row in ids:
            output: Any = chat.model(input_ids=torch.tensor([row]), output_hidden_states=True)
            found.append(output.hidden_states[state][0, -1].float())
    return torch.stack(found)
