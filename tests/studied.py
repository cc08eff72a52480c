"""A small context of the beliefs study on the built-in organism, made once a session for all its tests."""

from __future__ import annotations

from functools import cache

from undertow.model import load
from undertow.prompts.wrappers import FAMILIES
from undertow.studies.beliefs.context import Context
from undertow.studies.beliefs.material import Material, prepare


@cache
def small_context() -> Context:
    """48 bare prompts of each class in each half, wrapped in the three families; every figure has a small n."""
    chat = load("organism:aligned")
    return prepare(chat, Material.gather(families=FAMILIES, most=48, seed=0), seed=0, most=12, progress=False)
