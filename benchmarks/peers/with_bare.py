"""The bare pass measured as if it were a tool: its ratio to itself shows the noise, its peak what the pass needs."""

from __future__ import annotations

from typing import Any

import harness
from harness import Action, Material

CHECKED = False


def opened(material: Material) -> Any:
    """The model."""
    return harness.plain_model(material.folder)


def inner(model: Any) -> Any:
    """The transformers model, which it is."""
    return model


def make(task: str, variant: str, model: Any, material: Material) -> Action:
    """The bare pass of a task."""
    return harness.bare(task, model, material)


VARIANTS = dict.fromkeys(harness.TASKS, ("",))
ABSENT: dict[str, str] = {}
NOTES: dict[str, str] = {"steering": "transformers' own generate", "interchange": "one pass of the prompt"}
