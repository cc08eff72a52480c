from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from undertow.errors import CoverageError
from undertow.measure.attribution import FrozenNorm


class RootMeanSquare(nn.Module):
    """x / rms(x) * (shift + weight), as Llama (shift 0) and Gemma (shift 1) have it."""

    def __init__(self, width: int, shift: float, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))
        self.shift, self.epsilon = shift, epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * (hidden.pow(2).mean(-1, keepdim=True) + self.epsilon).rsqrt() * (self.shift + self.weight)


def layer_norm(width: int, epsilon: float = 1e-5) -> nn.LayerNorm:
    norm = nn.LayerNorm(width, eps=epsilon)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(width))
        norm.bias.copy_(torch.randn(width))
    return norm


def plain_layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, elementwise_affine=False)


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "layer norm": layer_norm,
    "layer norm without gain": plain_layer_norm,
    "layer norm with a large epsilon": lambda width: layer_norm(width, 0.1),
    "llama": lambda width: RootMeanSquare(width, 0.0),
    "gemma": lambda width: RootMeanSquare(width, 1.0),
    "root mean square with a large epsilon": lambda width: RootMeanSquare(width, 0.0, 0.1),
}


def by_formula(norm: nn.Module, inputs: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(linear part of vectors at the inputs' scale, offset), written out by hand."""
    width = inputs.shape[-1]
    if isinstance(norm, nn.LayerNorm):
        weight = torch.ones(width) if norm.weight is None else norm.weight.detach()
        bias = torch.zeros(width) if norm.bias is None else norm.bias.detach()
        variance = ((inputs - inputs.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True)
        return weight * (vectors - vectors.mean(-1, keepdim=True)) / (variance + norm.eps).sqrt(), bias
    assert isinstance(norm, RootMeanSquare)
    size = ((inputs**2).mean(-1, keepdim=True) + norm.epsilon).sqrt()
    return (norm.shift + norm.weight.detach()) * vectors / size, torch.zeros(width)


@pytest.mark.parametrize("width", [8, 9, 63, 64])
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_linear_part_is_that_of_the_formula(kind: str, width: int) -> None:
    torch.manual_seed(width)
    norm = KINDS[kind](width)
    inputs, vectors = torch.randn(5, width) + 0.3, torch.randn(5, width)
    frozen = FrozenNorm(norm, width)
    scale = frozen.scale(inputs)
    assert scale.shape == (5, 1) and frozen.centres == isinstance(norm, nn.LayerNorm)
    linear, offset = by_formula(norm, inputs, vectors)
    torch.testing.assert_close(frozen.linear(vectors, scale), linear, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(frozen.offset, offset, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(frozen.linear(inputs, scale) + frozen.offset, norm(inputs), atol=1e-4, rtol=1e-4)


def test_parts_of_the_input_sum_to_the_norm_of_the_whole() -> None:
    torch.manual_seed(0)
    norm = layer_norm(32)
    parts = torch.randn(3, 7, 32)
    frozen = FrozenNorm(norm, 32)
    scale = frozen.scale(parts.sum(1)).unsqueeze(1)
    with torch.no_grad():
        wanted = norm(parts.sum(1))
    torch.testing.assert_close(frozen.linear(parts, scale).sum(1) + frozen.offset, wanted, atol=1e-5, rtol=1e-5)


def test_low_precision_norms_are_frozen_in_float32_and_left_as_they_are() -> None:
    torch.manual_seed(0)
    norm = RootMeanSquare(16, 0.0).bfloat16()
    frozen = FrozenNorm(norm, 16)
    inputs = torch.randn(4, 16)
    own = RootMeanSquare(16, 0.0)
    own.weight = nn.Parameter(norm.weight.detach().float())
    wanted, _ = by_formula(own, inputs, inputs)
    torch.testing.assert_close(frozen.linear(inputs, frozen.scale(inputs)), wanted, atol=1e-5, rtol=1e-5)
    assert norm.weight.dtype == torch.bfloat16


class Squashing(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(hidden)


class LargestValue(nn.Module):
    """Scales by the largest value instead of the root mean square: the same on vectors of one size, not on others."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden / hidden.abs().amax(-1, keepdim=True)


class InGroups(nn.Module):
    """Norms each half of the vector on its own."""

    def forward(self, hidden: Tensor) -> Tensor:
        halves = hidden.reshape(*hidden.shape[:-1], 2, -1)
        return (halves / halves.pow(2).mean(-1, keepdim=True).sqrt()).reshape(hidden.shape)


@pytest.mark.parametrize("module", [Squashing(), LargestValue(), nn.Identity(), nn.Linear(64, 64)])
def test_what_is_no_norm_is_refused(module: nn.Module) -> None:
    with pytest.raises(CoverageError, match="neither a layer norm nor a root-mean-square norm"):
        FrozenNorm(module, 64)


def test_norms_in_groups_are_refused_at_the_latest_where_their_halves_differ() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 64) * torch.tensor([1.0] * 32 + [5.0] * 32)
    with pytest.raises(CoverageError):
        FrozenNorm(InGroups(), 64).scale(inputs)


class Clipping(RootMeanSquare):
    """A norm that also bounds what it returns, out of reach of the large alternating vectors that it is asked about."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden).clamp(-2, 2)


def test_a_norm_that_does_more_than_scale_is_refused_at_the_input_that_shows_it() -> None:
    norm = Clipping(64, 0.0)
    nn.init.ones_(norm.weight)
    frozen = FrozenNorm(norm, 64)
    frozen.scale(torch.tensor([[1.0, -1.0] * 32]))
    outlier = torch.ones(1, 64)
    outlier[0, 5] = 50
    with pytest.raises(CoverageError, match="does more than centre and scale"):
        frozen.scale(outlier)
