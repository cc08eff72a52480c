"""repeng: a control vector on a wrapped layer."""

from __future__ import annotations

from typing import Any

import harness
from harness import Action, Material

VARIANTS = {"steering": ("",)}
_LAST = "no such feature: it reads the last token only, while it trains a vector"
ABSENT = {
    "capture": _LAST,
    "interchange": "no such feature: it writes to whole blocks",
    "guard": _LAST,
}
NOTES: dict[str, str] = {}


def opened(material: Material) -> Any:
    """The model, one layer of which is wrapped."""
    from repeng import ControlModel

    return ControlModel(harness.plain_model(material.folder), [material.state - 1])


def make(task: str, variant: str, model: Any, material: Material) -> Action:
    """Steering."""
    from repeng import ControlVector

    vector = ControlVector("llama", {material.state - 1: material.values["vector"].numpy()})
    ids, mask, _ = material.padded("steering", list(range(len(material.items["steering"]))), left=True)

    def steer() -> Any:
        model.set_control(vector, 1.0)
        try:
            return harness.generate(model, ids, mask, material.tokens)
        finally:
            model.reset()

    return steer


def plain(task: str, model: Any, material: Material) -> Action | None:
    """Generation with the layer wrapped and no vector set."""
    ids, mask, _ = material.padded("steering", list(range(len(material.items["steering"]))), left=True)
    return lambda: harness.generate(model, ids, mask, material.tokens)
