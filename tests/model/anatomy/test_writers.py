from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.builders import tiny_model
from tests.model.anatomy.blocks import WIDTH, Attention, Block, Feed, record_of
from undertow.model.anatomy import find_anatomy
from undertow.model.anatomy.trace import Call
from undertow.model.anatomy.writers import distinct_outputs, find_additive, ignores_scale


@pytest.mark.parametrize(("carry", "a", "b"), [(1.0, 1.0, 1.0), (1.0, 0.3, 2.0), (0.5, 1.0, -0.7), (-1.0, 0.01, 1.0)])
def test_the_factors_of_a_sum_are_solved_for(carry: float, a: float, b: float) -> None:
    block = Block(carry=carry, a=a, b=b)
    found = find_additive(record_of(block))
    assert found is not None and found.carry == pytest.approx(carry, abs=1e-4)
    assert [(writer.name, writer.module) for writer in found.writers] == [
        ("attention", block.attention),
        ("feed", block.feed),
    ]
    assert [writer.scale for writer in found.writers] == pytest.approx([a, b], abs=1e-4)
    assert [writer.source for writer in found.writers] == [None, None]


class Multiplying(Block):
    """Gates the stream with its MLP, so that the output is no sum of outputs."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.attention(hidden) * torch.sigmoid(self.feed(hidden))


class NormingTheStream(Block):
    """Norms what it passes on, as the first transformer did."""

    def forward(self, hidden: Tensor) -> Tensor:
        middle = self.first(hidden + self.attention(hidden))
        return self.second(middle + self.feed(middle))


class Shifting(Block):
    """Adds a constant that no module returned."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden) + torch.arange(WIDTH) / WIDTH


@pytest.mark.parametrize("kind", [Multiplying, NormingTheStream, Shifting])
def test_what_is_no_sum_has_no_solution(kind: type[Block]) -> None:
    assert find_additive(record_of(kind())) is None


class PostNormed(Block):
    """Norms what its parts return before adding it."""

    def forward(self, hidden: Tensor) -> Tensor:
        middle = hidden + self.first(self.attention(hidden))
        return middle + self.second(self.feed(middle))


def test_a_norm_after_a_part_is_the_writer_and_the_part_its_source() -> None:
    block = PostNormed()
    found = find_additive(record_of(block))
    assert found is not None
    assert [(one.module, one.source) for one in found.writers] == [
        (block.first, block.attention),
        (block.second, block.feed),
    ]


class LinearAfter(Block):
    """Sends the attention through one more linear map, which is no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.more(self.attention(hidden))


def test_a_linear_map_after_a_part_has_no_source() -> None:
    block = LinearAfter()
    found = find_additive(record_of(block))
    assert found is not None and [(one.module, one.source) for one in found.writers] == [(block.more, None)]


class ThreeWriters(Block):
    """Attention and two MLPs in parallel, run in another order than they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = Feed()

    def forward(self, hidden: Tensor) -> Tensor:
        shared, routed = self.shared(hidden), self.feed(hidden)
        return hidden + self.attention(hidden) + 0.25 * routed + shared


def test_three_writers_are_told_apart_and_listed_as_they_ran() -> None:
    found = find_additive(record_of(ThreeWriters()))
    assert found is not None
    assert [one.name for one in found.writers] == ["shared", "feed", "attention"]
    assert [one.scale for one in found.writers] == pytest.approx([1.0, 0.25, 1.0], abs=1e-4)


class Flat(Block):
    """An MLP that is given (rows x tokens, width), as routed experts are."""

    def forward(self, hidden: Tensor) -> Tensor:
        middle = hidden + self.attention(hidden)
        return middle + self.feed(middle.reshape(-1, WIDTH)).reshape(hidden.shape)


def test_outputs_without_a_row_axis_count() -> None:
    block = Flat()
    found = find_additive(record_of(block))
    assert found is not None and [one.module for one in found.writers] == [block.attention, block.feed]


def test_of_equal_outputs_the_outermost_is_kept_and_what_came_in_is_none() -> None:
    block = Block(nn.Sequential(nn.Sequential(Attention()), nn.Identity()))
    record = record_of(block)
    names = [call.name for call in distinct_outputs(record)]
    assert names == ["first", "attention", "second", "feed"]


@pytest.mark.parametrize(
    ("module", "norm"),
    [
        (nn.LayerNorm(WIDTH), True),
        (nn.RMSNorm(WIDTH), True),
        (nn.Linear(WIDTH, WIDTH), False),
        (nn.Identity(), False),
        (nn.Linear(WIDTH, 5), False),
        (nn.Bilinear(WIDTH, WIDTH, WIDTH), False),
    ],
)
def test_norms_are_told_by_what_a_doubled_input_does(module: nn.Module, norm: bool) -> None:
    assert ignores_scale(Call("", module, 0, 1, torch.randn(3, 6, WIDTH))) is norm


def test_real_blocks_hold_to_their_sum() -> None:
    model = tiny_model("gemma2")
    for layer, found in zip(model.model.layers, find_anatomy(model).additive, strict=True):
        assert found is not None and found.carry == 1
        assert [(one.module, one.scale, one.source) for one in found.writers] == [
            (layer.post_attention_layernorm, 1, layer.self_attn),
            (layer.post_feedforward_layernorm, 1, layer.mlp),
        ]
