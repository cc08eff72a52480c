from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.shrink import shrunk_model
from tests.builders import tiny_model
from tests.model.anatomy.blocks import HEADS, WIDTH, Attention, Block, Model, traced
from undertow.errors import CoverageError
from undertow.model.anatomy.trace import KEPT, ROWS, TOKENS, Trace, _inputs


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_states_are_the_models_own_and_attention_is_seen(kind: str, implementation: str) -> None:
    model = tiny_model(kind, attn_implementation=implementation)
    blocks = model.transformer.h if kind == "gpt2" else model.model.layers
    trace = Trace(model, list(blocks))
    with torch.no_grad():
        own = model(**_inputs(model), output_hidden_states=True, use_cache=False)
    for state, tensor in zip(trace.states[:-1], own.hidden_states[:-1], strict=True):
        assert torch.equal(state, tensor)
    assert torch.equal(trace.logits, own.logits) and trace.skipped == 0 and trace.streams == 1
    for record in trace.records:
        [operation] = record.operations
        assert operation.heads == 4 and operation.size in (16, None)
        assert (operation.size is None) == (implementation == "eager")


class Folded(nn.Module):
    """Attention whose heads are folded into the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        rows, tokens, _ = hidden.shape
        folded = hidden.view(rows, tokens, HEADS, -1).transpose(1, 2).reshape(rows * HEADS, tokens, -1)
        future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        scores = torch.bmm(folded, folded.transpose(1, 2)).masked_fill(future, -1e9)
        joined = torch.bmm(functional.softmax(scores, dim=-1), folded)
        return self.out(joined.view(rows, HEADS, tokens, -1).transpose(1, 2).reshape(rows, tokens, WIDTH))


def test_heads_folded_into_the_rows_are_counted() -> None:
    [operation] = traced(Block(Folded())).records[0].operations
    assert (operation.heads, operation.size) == (HEADS, None)


class Routed(Block):
    """Chooses between experts by a softmax, which is no attention."""

    def forward(self, hidden: Tensor) -> Tensor:
        weights = functional.softmax(hidden[..., :5], dim=-1)
        return super().forward(hidden) + weights.sum(-1, keepdim=True)


def test_a_softmax_over_experts_is_no_attention() -> None:
    assert len(traced(Routed()).records[0].operations) == 1


def test_calls_are_recorded_in_order_with_copies_of_what_went_in_and_out() -> None:
    block = Block()
    record = traced(block).records[0]
    calls = {call.name: call for call in record.calls}
    assert set(calls) == {
        "first",
        "attention",
        "attention.mix",
        "attention.out",
        "second",
        "feed",
        "feed.up",
        "feed.down",
    }
    attention, out = calls["attention"], calls["attention.out"]
    assert attention.begun < record.operations[0].at < out.begun < out.ended < attention.ended < calls["feed"].begun
    assert attention.entered is not None and attention.left is not None
    with torch.no_grad():
        assert torch.equal(block.first(record.entered), attention.entered)
        assert torch.equal(block.attention(attention.entered), attention.left)


class InPlace(Block):
    """Changes its stream in place after its parts have seen it."""

    def forward(self, hidden: Tensor) -> Tensor:
        hidden += self.attention(self.first(hidden))
        hidden += self.feed(self.second(hidden))
        return hidden


def test_what_is_changed_in_place_later_stays_as_it_was_seen() -> None:
    plain, changed = traced(Block()), traced(InPlace())
    for one, other in zip(plain.states, changed.states, strict=True):
        torch.testing.assert_close(one, other)


def test_blocks_that_do_not_run_are_left_out_and_counted() -> None:
    trace = traced(Block(), Block(), Block(), passes=[0, 2])
    assert len(trace.blocks) == len(trace.records) == 2 and trace.skipped == 1
    with pytest.raises(CoverageError, match="No block of the list"):
        traced(Block(), passes=[])


def test_a_block_that_runs_twice_is_refused_and_leaves_no_hook() -> None:
    model = Model([Block(), Block()], [0, 1, 0])
    with pytest.raises(CoverageError, match="the same block more than once"):
        Trace(model, list(model.blocks))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_module_shared_by_two_blocks_is_counted_in_both() -> None:
    shared = Attention()
    trace = traced(Block(shared), Block(shared))
    assert trace.runs[id(shared)] == 2 and trace.runs[id(trace.blocks[0].feed)] == 1


def test_only_what_is_given_the_last_state_comes_after() -> None:
    trace = traced(Block(), Block())
    [call] = trace.after
    assert isinstance(call.module, nn.LayerNorm) and call.entered is not None
    assert torch.equal(call.entered, trace.states[-1])


class TwoStreams(Block):
    """Passes on two tensors of the stream's shape."""

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(hidden), hidden * 2


def test_streams_are_counted() -> None:
    assert traced(TwoStreams()).streams == 2 and traced(Block()).streams == 1


def test_three_rows_differ_in_their_last_token_and_their_padding() -> None:
    given = _inputs(tiny_model("llama"))
    ids, mask = given["input_ids"], given["attention_mask"]
    assert ids.shape == mask.shape == (ROWS, TOKENS)
    assert (ids[0] != ids[1]).tolist() == [False] * 5 + [True] and torch.equal(ids[0], ids[2])
    assert mask.tolist() == [[1] * 6, [1] * 6, [1] * KEPT + [0] * (TOKENS - KEPT)]


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_the_attention_implementation_and_the_mode_are_put_back(kind: str) -> None:
    model = shrunk_model(kind)
    model.set_attn_implementation("flex_attention")
    model.train()
    trace = Trace(model, list(model.model.layers))
    assert model.config._attn_implementation == "flex_attention" and model.training
    assert [[one.heads for one in record.operations] for record in trace.records] == [[4], [4], [4]]
