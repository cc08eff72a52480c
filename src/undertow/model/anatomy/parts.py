"""The parts of an architecture that Undertow reads and writes, and declarations for what a search cannot find."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from undertow.errors import CoverageError


@dataclass(frozen=True)
class AnatomyHint:
    """Dotted paths for what a structural search misses in one model type; None leaves a part to the search.

    Attributes:
        blocks: from the model to the list of blocks.
        attention: from a block to its attention module.
        projection: from the attention module (or the block, where that is not declared) to its output projection.
        mlp: from a block to its MLP.
        final_norm: from the model to the norm after the last block.
    """

    blocks: str | None = None
    attention: str | None = None
    projection: str | None = None
    mlp: str | None = None
    final_norm: str | None = None


HINTS: dict[str, AnatomyHint] = {}
"""What `register_anatomy` has declared, by model type; empty, since nothing known needs a declaration."""


def register_anatomy(
    model_type: str,
    *,
    blocks: str | None = None,
    attention: str | None = None,
    projection: str | None = None,
    mlp: str | None = None,
    final_norm: str | None = None,
) -> None:
    """Declare where a model type keeps its parts, for architectures that the search does not understand.

    What is declared is held against the same arithmetic as what is found.

    Args:
        model_type: ``config.model_type`` of the model.
        blocks: dotted path from the model to the list of blocks, such as ``"model.layers"``.
        attention: dotted path from a block to its attention module.
        projection: dotted path from the attention module to its output projection.
        mlp: dotted path from a block to its MLP.
        final_norm: dotted path from the model to the final norm.
    """
    HINTS[model_type] = AnatomyHint(blocks, attention, projection, mlp, final_norm)


@dataclass(frozen=True)
class Writer:
    """A module whose output a block adds to the residual stream.

    Attributes:
        name: path of the module within its block.
        module: the module itself.
        scale: what its output is multiplied by before it is added.
        source: the module whose output this one norms (a post-attention norm), or None.
    """

    name: str
    module: nn.Module
    scale: float
    source: nn.Module | None = None


@dataclass(frozen=True)
class Additive:
    """How a block changes the stream: ``state[l + 1] = carry * state[l] + sum of scale * output of each writer``.

    Attributes:
        carry: factor of what the block was given, 1 in nearly every architecture.
        writers: the modules that add to it, in the order in which they run.
    """

    carry: float
    writers: tuple[Writer, ...]


@dataclass
class Anatomy:
    """The parts of a loaded model that Undertow reads and writes.

    Attributes:
        blocks: the L transformer blocks; state l is the input of block l, state L the output of the last.
        attentions: the module whose output is each block's attention output, None where it has none.
        projections: each block's attention output projection, None where heads cannot be read.
        mlps: the module whose output is each block's MLP output, None where it has none of its own.
        final_norm: the norm after the last block, None where there is none.
        unembedding: the module that maps to the vocabulary.
        heads: attention heads of each block (0 where not readable).
        head_sizes: width of one head's output in each block (0 where not readable).
        width: size of the residual stream (d_model).
        dtype: floating-point type of the residual stream.
        additive: how each block adds to the stream, None where it does more than add.
        published: for each of the model's own ``hidden_states``, the state that it is, None for the one that has been
            through the final norm; empty where the model publishes none.
        notes: what is not covered, a sentence each.
    """

    blocks: list[nn.Module]
    attentions: list[nn.Module | None]
    projections: list[nn.Module | None]
    mlps: list[nn.Module | None]
    final_norm: nn.Module | None
    unembedding: nn.Module | None
    heads: list[int]
    head_sizes: list[int]
    width: int
    dtype: torch.dtype = torch.float32
    additive: list[Additive | None] = field(default_factory=list)
    published: list[int | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def first_tensor(output: Any) -> Tensor:
    """The hidden states in a module's output, which may be a tensor or a tuple that starts with one."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise CoverageError(f"A module returned {type(output).__name__}, in which no hidden states can be found.")


def with_first_tensor(output: Any, changed: Tensor) -> Any:
    """A module's output with other hidden states, of the same type otherwise."""
    if isinstance(output, Tensor):
        return changed
    if hasattr(output, "_replace"):
        return output._replace(**{output._fields[0]: changed})
    return type(output)([changed, *output[1:]])


def hidden_input(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    """The hidden states among a module's inputs: the first positional tensor, or the one named so."""
    if arguments and isinstance(arguments[0], Tensor):
        return arguments[0]
    if isinstance(keywords.get("hidden_states"), Tensor):
        return keywords["hidden_states"]
    raise CoverageError("A block was called without hidden states as its first argument.")
