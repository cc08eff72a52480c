from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.shrink import shrunk_model
from tests.model.anatomy.blocks import HEADS, WIDTH, Attention, Block, Feed, record_of, traced
from undertow.model.anatomy import find_anatomy
from undertow.model.anatomy.heads import Heads, find_heads, slices_sum
from undertow.model.anatomy.trace import Call
from undertow.model.anatomy.writers import find_additive


def heads_of(block: nn.Module) -> Heads:
    trace = traced(block)
    return find_heads(trace.records[0], find_additive(trace.records[0]), trace.runs)


@pytest.mark.parametrize("eager", [True, False])
def test_a_plain_projection_is_found(eager: bool) -> None:
    attention = Attention(eager=eager)
    found = heads_of(Block(attention))
    assert found == Heads(attention.out, attention, HEADS, WIDTH // HEADS)


def gated_before(attention: Attention, hidden: Tensor, joined: Tensor) -> Tensor:
    return attention.out(joined * torch.sigmoid(attention.gate(hidden)))


def gated_after(attention: Attention, hidden: Tensor, joined: Tensor) -> Tensor:
    return attention.out(joined) * torch.sigmoid(attention.gate(hidden))


def squashed(attention: Attention, hidden: Tensor, joined: Tensor) -> Tensor:
    return torch.tanh(attention.out(joined))


def without_projection(attention: Attention, hidden: Tensor, joined: Tensor) -> Tensor:
    return joined


def fused(attention: Attention, hidden: Tensor, joined: Tensor) -> Tensor:
    return attention.out(joined) @ attention.gate.weight


def test_a_gate_on_the_heads_before_the_projection_leaves_them_readable() -> None:
    attention = Attention(gated_before)
    assert heads_of(Block(attention)) == Heads(attention.out, attention, HEADS, WIDTH // HEADS)


@pytest.mark.parametrize("finish", [gated_after, squashed, fused])
def test_a_projection_whose_output_is_changed_on_its_way_to_the_stream_is_refused(finish: Any) -> None:
    found = heads_of(Block(Attention(finish)))
    assert found.projection is None and found.count == 0
    assert found.reason == "its attention's output does not go straight into the stream"


def test_attention_without_a_projection_is_refused() -> None:
    found = heads_of(Block(Attention(without_projection)))
    assert found.count == 0 and "no plain output projection" in found.reason


class Bloom(Block):
    """Adds the residual inside its attention module."""

    def forward(self, hidden: Tensor) -> Tensor:
        middle = self.attention(self.first(hidden), hidden)
        return middle + self.feed(self.second(middle))


def test_a_residual_added_inside_the_attention_module_leaves_the_projection_as_attention() -> None:
    attention = Attention()
    assert heads_of(Bloom(attention)) == Heads(attention.out, attention.out, HEADS, WIDTH // HEADS)
    model = shrunk_model("bloom")
    anatomy = find_anatomy(model)
    assert anatomy.attentions == anatomy.projections == [block.self_attention.dense for block in model.transformer.h]


class TwoAttentions(Block):
    """Attends twice."""

    def __init__(self) -> None:
        super().__init__()
        self.other = Attention()

    def forward(self, hidden: Tensor) -> Tensor:
        middle = hidden + self.attention(hidden)
        return middle + self.other(middle) + self.feed(middle)


class TwiceTheSame(Block):
    """Calls one attention module twice."""

    def forward(self, hidden: Tensor) -> Tensor:
        middle = hidden + self.attention(hidden)
        return middle + self.attention(middle)


def test_two_attentions_in_a_block_are_refused() -> None:
    assert heads_of(TwoAttentions()).reason == "it holds more than one attention"


def test_an_attention_that_runs_twice_is_refused() -> None:
    found = heads_of(TwiceTheSame())
    assert found.count == 0 and "runs twice" in found.reason


def test_an_attention_that_two_blocks_share_is_refused_in_both() -> None:
    shared = Attention()
    trace = traced(Block(shared), Block(shared), Block())
    found = [find_heads(record, find_additive(record), trace.runs) for record in trace.records]
    assert [one.count for one in found] == [0, 0, HEADS]
    assert found[0].reason == found[1].reason == "its attention is shared with another block or runs twice"


class NoAttention(Block):
    """Mixes tokens without attention."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.feed(hidden.cumsum(1))


def test_a_block_without_attention_is_named() -> None:
    assert heads_of(NoAttention()).reason == "no softmax attention runs in it"


class Between(Block):
    """A linear map of the block's input that runs after the softmax and before the projection, and takes as much."""

    def __init__(self, out: nn.Module) -> None:
        super().__init__(Attention(without_projection))
        self.square, self.out = nn.Linear(WIDTH, WIDTH), out

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.first(hidden)
        joined = self.attention(normed)
        return hidden + self.square(normed) + self.out(joined)


def test_a_linear_map_of_what_was_there_before_the_attention_is_not_the_projection() -> None:
    out = nn.Linear(WIDTH, WIDTH)
    assert heads_of(Between(out)) == Heads(out, out, HEADS, WIDTH // HEADS)


def test_a_declared_projection_is_the_only_candidate() -> None:
    attention = Attention()
    block = Block(attention)
    trace = traced(block)
    record, sums = trace.records[0], find_additive(trace.records[0])
    assert find_heads(record, sums, trace.runs, attention.out) == heads_of(block)
    assert find_heads(record, sums, trace.runs, attention.gate).count == 0


class StreamNorm(Block):
    """Norms the sum of stream and attention, so that the block is no sum."""

    def forward(self, hidden: Tensor) -> Tensor:
        middle = self.first(hidden + self.attention(hidden))
        return self.second(middle + self.feed(middle))


def test_heads_are_found_where_the_stream_itself_is_normed() -> None:
    attention = Attention()
    assert find_additive(record_of(StreamNorm())) is None
    assert heads_of(StreamNorm(attention)) == Heads(attention.out, attention, HEADS, WIDTH // HEADS)


class Outer(nn.Module):
    """Returns the attention's output unchanged, in a tuple."""

    def __init__(self, inner: Attention) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:
        return self.inner(hidden), None


class Unpacking(Block):
    """Takes its attention out of a tuple."""

    def forward(self, hidden: Tensor) -> Tensor:
        attended = self.attention(hidden)[0]
        return hidden + attended + self.feed(hidden + attended)


def test_the_attention_is_the_outermost_module_with_that_output() -> None:
    inner = Attention()
    block = Unpacking(Outer(inner))
    found = heads_of(block)
    assert found.attention is block.attention and found.projection is inner.out


def test_slices_sum_only_for_linear_maps_and_bias_counts_once() -> None:
    torch.manual_seed(0)
    entered = torch.randn(3, 6, WIDTH)
    for module, linear in ((nn.Linear(WIDTH, WIDTH), True), (Feed(), False), (nn.LayerNorm(WIDTH), False)):
        nn.init.normal_(next(p for name, p in module.named_parameters() if name.endswith("bias")))
        with torch.no_grad():
            call = Call("", module, 0, 1, entered, module(entered))
        assert slices_sum(call, HEADS) is linear
