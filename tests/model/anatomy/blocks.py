"""Small blocks written by hand and what one pass through them leaves, for tests of the search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from undertow.model.anatomy.trace import BlockTrace, Trace

WIDTH, HEADS = 32, 4


class Attention(nn.Module):
    """Causal attention over 4 heads of size 8; `finish` says what becomes of the heads' outputs."""

    def __init__(
        self, finish: Callable[[Attention, Tensor, Tensor], Tensor] | None = None, eager: bool = False
    ) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, 3 * WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.finish, self.eager = finish, eager

    def forward(self, hidden: Tensor, residual: Tensor | None = None) -> Tensor:
        rows, tokens, _ = hidden.shape
        query, key, value = (
            part.view(rows, tokens, HEADS, -1).transpose(1, 2) for part in self.mix(hidden).chunk(3, dim=-1)
        )
        if self.eager:
            future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
            scores = (query @ key.transpose(-1, -2) / 8**0.5).masked_fill(future, -1e9)
            joined = functional.softmax(scores, dim=-1) @ value
        else:
            joined = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        joined = joined.transpose(1, 2).reshape(rows, tokens, WIDTH)
        if self.finish is not None:
            return self.finish(self, hidden, joined)
        return self.out(joined) if residual is None else self.out(joined) + residual


class Feed(nn.Module):
    """An MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(hidden)))


class Block(nn.Module):
    """``carry * x + a * attention + b * MLP``."""

    def __init__(self, attention: nn.Module | None = None, carry: float = 1.0, a: float = 1.0, b: float = 1.0) -> None:
        super().__init__()
        self.attention = attention if attention is not None else Attention()
        self.feed = Feed()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.carry, self.a, self.b = carry, a, b

    def forward(self, hidden: Tensor) -> Tensor:
        attended = self.attention(self.first(hidden))
        middle = hidden + attended
        return self.carry * hidden + self.a * attended + self.b * self.feed(self.second(middle))


class Config:
    """What the recording asks a configuration for."""

    model_type = "written"

    def get_text_config(self, decoder: bool = False) -> Config:
        return self


class Model(nn.Module):
    """A language model around blocks; `passes` names the order in which they run."""

    def __init__(self, blocks: list[nn.Module], passes: list[int] | None = None) -> None:
        super().__init__()
        self.config = Config()
        self.embedding = nn.Embedding(20, WIDTH)
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 20)
        self.passes = list(range(len(blocks))) if passes is None else passes

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **keywords: Any) -> Any:
        hidden = self.embedding(input_ids)
        states = [hidden]
        for index in self.passes:
            hidden = self.blocks[index](hidden)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            states.append(hidden)
        states[-1] = self.norm(hidden[..., :WIDTH])
        output = type("Output", (), {})()
        output.logits, output.hidden_states = self.head(states[-1]), tuple(states)
        return output


def traced(*blocks: nn.Module, passes: list[int] | None = None, seed: int = 0) -> Trace:
    """The recording of a random model of these blocks."""
    model = Model(list(blocks), passes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return Trace(model, list(model.blocks))


def record_of(block: nn.Module) -> BlockTrace:
    """The recording of one block."""
    return traced(block).records[0]
