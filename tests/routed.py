"""Small contexts of the routing study, made once a session for all its tests."""

from __future__ import annotations

from functools import cache

from undertow.model import load
from undertow.organism.pairs import matched_pairs
from undertow.studies.routing.context import Context, prepare


@cache
def small_context() -> Context:
    """16 choose and 16 report pairs on the trained organism; every figure has a small n."""
    chat = load("organism:aligned")
    return prepare(chat, matched_pairs(32, seed=0), seed=0, permutations=500)
