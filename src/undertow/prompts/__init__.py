"""Labelled prompts: files, Hub datasets and the built-in set; matched pairs."""

from __future__ import annotations

from undertow.prompts.pairs import Pair, PairSet
from undertow.prompts.prompt import Message, Prompt, as_prompts
from undertow.prompts.promptset import PromptSet, Provenance
from undertow.prompts.read import iterate_prompts

__all__ = ["Message", "Pair", "PairSet", "Prompt", "PromptSet", "Provenance", "as_prompts", "iterate_prompts"]
