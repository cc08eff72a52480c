from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.shrink import shrunk_model
from tests.model.anatomy.blocks import WIDTH, Attention, Block, traced
from undertow.errors import CoverageError
from undertow.model.anatomy import find_anatomy
from undertow.model.anatomy.trace import TOKENS, Trace
from undertow.model.anatomy.verify import check_causal, check_stream, match_published


def test_one_causal_stream_passes() -> None:
    trace = traced(Block(), Block())
    check_stream(trace, "written")
    check_causal(trace, "written")


class Wider(Block):
    """Passes on a wider stream than it is given."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([hidden, super().forward(hidden)], dim=-1)


class Twofold(Block):
    """Passes on two streams."""

    def forward(self, hidden: torch.Tensor) -> Any:
        return super().forward(hidden), hidden * 2


@pytest.mark.parametrize("kind", [Wider, Twofold])
def test_streams_that_are_not_one_of_constant_width_are_refused(kind: type[Block]) -> None:
    with pytest.raises(CoverageError, match="one residual stream of constant width"):
        check_stream(traced(kind()), "written")


def test_a_stream_that_is_changed_between_blocks_is_refused() -> None:
    trace = traced(Block(), Block())
    trace.records[1].entered = trace.records[1].entered + 1
    with pytest.raises(CoverageError, match="between blocks 0 and 1"):
        check_stream(trace, "written")


class LookingAhead(nn.Module):
    """Attention's place taken by a mean over all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.out(hidden.mean(1, keepdim=True).expand_as(hidden))


def test_blocks_that_see_later_tokens_are_refused() -> None:
    with pytest.raises(CoverageError, match="earlier tokens see later ones"):
        check_causal(traced(Block(LookingAhead())), "written")


def test_padding_that_leaks_backwards_is_refused() -> None:
    trace = traced(Block(Attention()))
    left = trace.records[0].left
    assert left is not None
    left[2, 1] += 0.01
    with pytest.raises(CoverageError, match="padding changes the states"):
        check_causal(trace, "written")


def test_padded_tokens_themselves_may_be_anything() -> None:
    trace = traced(Block())
    left = trace.records[0].left
    assert left is not None and left.shape[1] == TOKENS
    left[2, -1] += 5
    left[1, -1] -= 5
    check_causal(trace, "written")


def test_encoders_that_read_both_ways_are_refused_and_pass_as_decoders() -> None:
    with pytest.raises(CoverageError, match=r"earlier tokens see later ones.*is_decoder=True"):
        find_anatomy(shrunk_model("bert", is_decoder=False))
    assert len(find_anatomy(shrunk_model("bert", is_decoder=True)).blocks) == 3


def test_published_inputs_and_a_normed_end_are_matched() -> None:
    model = shrunk_model("llama")
    trace = Trace(model, list(model.model.layers))
    assert match_published(trace, model.model.norm, "llama") == ([0, 1, 2, None], True)
    assert match_published(trace, nn.LayerNorm(64), "llama") == ([0, 1, 2, None], False)
    assert match_published(trace, None, "llama") == ([0, 1, 2, None], False)


def test_published_outputs_are_matched_one_state_on() -> None:
    model = shrunk_model("mamba")
    anatomy = find_anatomy(model)
    ids = torch.arange(5, 11).unsqueeze(0)
    seen: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda module, arguments, output: seen.append(output))
        for block in model.backbone.layers
    ]
    with torch.no_grad():
        own = model(input_ids=ids, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    matched = {state: tensor for state, tensor in zip(anatomy.published, own, strict=True) if state is not None}
    assert sorted(matched) == [1, 2, 3] or sorted(matched) == [0, 1, 2]
    for state, tensor in matched.items():
        if state > 0:
            torch.testing.assert_close(tensor, seen[state - 1], atol=0, rtol=0)


def test_a_last_state_that_is_published_as_it_is_needs_no_norm() -> None:
    trace = traced(Block(), Block())
    assert trace.published is not None
    trace.published = (*trace.published[:-1], trace.states[-1])
    assert match_published(trace, None, "written") == ([0, 1, 2], True)


def test_outputs_published_without_the_embedding_are_counted_from_one() -> None:
    trace = traced(Block(), Block(), Block())
    states = trace.states
    trace.published = (states[1], states[2], states[3])
    assert match_published(trace, None, "written") == ([1, 2, 3], True)


def test_a_model_that_publishes_nothing_is_not_held_against_it() -> None:
    trace = traced(Block())
    trace.published = None
    assert match_published(trace, None, "written") == ([], True)


def test_published_states_that_are_others_are_refused() -> None:
    trace = traced(Block(), Block())
    assert trace.published is not None
    trace.published = (trace.published[0], trace.published[1] + 1e-3, trace.published[2])
    with pytest.raises(CoverageError, match="not the model's own hidden states"):
        match_published(trace, None, "written")
