"""Where an architecture keeps its blocks, attention outputs, heads, final norm and unembedding.

Structure is searched for, not looked up by name: one short forward pass is recorded, and what ran, in which order and
with which numbers tells the parts apart. What a search cannot find is declared with `register_anatomy`, from outside if
need be. Everything found is held against arithmetic (design rule 6).
"""

from undertow.model.anatomy.find import find_anatomy
from undertow.model.anatomy.parts import (
    HINTS,
    Additive,
    Anatomy,
    AnatomyHint,
    Writer,
    first_tensor,
    hidden_input,
    register_anatomy,
    with_first_tensor,
)

__all__ = [
    "HINTS",
    "Additive",
    "Anatomy",
    "AnatomyHint",
    "Writer",
    "find_anatomy",
    "first_tensor",
    "hidden_input",
    "register_anatomy",
    "with_first_tensor",
]
