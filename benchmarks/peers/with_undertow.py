"""Undertow: renders the prompts and finds the positions by itself, which the peers are given."""

from __future__ import annotations

from typing import Any

import torch
from harness import Action, Material

BOTH = "one prompt at a time"
VARIANTS = {"capture": ("", BOTH), "steering": ("",), "interchange": ("",), "guard": ("",)}
ABSENT: dict[str, str] = {}
NOTES = {
    "capture": "finds the positions itself",
    "interchange": "replay; its trial of the method, once a length, comes before",
    "guard": "LatentGuard, whole verdict",
}


def opened(material: Material) -> Any:
    """The model."""
    import undertow

    return undertow.load(str(material.folder))


def inner(chat: Any) -> Any:
    """The transformers model inside."""
    return chat.model


def plain(task: str, chat: Any, material: Material) -> Action | None:
    """Undertow's own generation without an edit."""
    if task != "steering":
        return None
    texts = [item.text for item in material.items["steering"]]
    return lambda: chat.generate(texts, material.tokens, progress=False)


def make(task: str, variant: str, chat: Any, material: Material) -> Action:
    """One task."""
    from undertow.model import Add, Replace

    texts = [item.text for item in material.items[task]]
    if task == "capture":
        budget = 1 if variant == BOTH else 1_024
        return lambda: chat.capture(texts, progress=False, tokens_per_batch=budget).values
    if task == "steering":
        edit = Add(material.values["vector"], state=material.state, span="all")

        def steer() -> list[str]:
            with chat.edit(edit):
                return chat.generate(texts, material.tokens, progress=False)

        return steer
    if task == "interchange":
        donors = material.values["donors"]

        def interchange() -> torch.Tensor:
            branches = [
                [Replace(donors[block, head], head=(block, head), span="t_post")]
                for block in range(donors.shape[0])
                for head in range(donors.shape[1])
            ]
            return chat.replay(texts[0], branches, progress=False)[0]

        return interchange
    guard = guard_of(chat, material)

    def judge() -> torch.Tensor:
        return torch.tensor([guard(text).harmfulness for text in texts])

    return judge


def guard_of(chat: Any, material: Material) -> Any:
    """A guard that reads one state with the centroid rule, put together from its parts."""
    from undertow.guard import LatentGuard
    from undertow.guard.belief import Belief
    from undertow.guard.calibration import Curve, Threshold
    from undertow.guard.rules.centroid import CentroidRule

    rule = CentroidRule(
        [material.state], material.values["harmful"][None].numpy(), material.values["harmless"][None].numpy()
    )
    threshold = Threshold(0.0, None, 0, 0, 1.0, 0.95, 0.0, 0.0, 1.0, 0, 0)
    belief = Belief("harmfulness", "t_inst", rule, Curve(slope=1.0), threshold, "made for a benchmark")
    return LatentGuard(chat, chat.identity, belief, None)
