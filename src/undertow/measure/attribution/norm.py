"""A norm with its scale held fixed, which makes it linear, whatever its class calls gain, offset and epsilon."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from undertow.errors import CoverageError

_LARGE = 1e3
_EXACT = 1e-3


class FrozenNorm:
    """A layer norm or root-mean-square norm as ``scale(y) * gain * (v - mean(v)) + offset``.

    Gain and offset are read off the module's answers to large alternating vectors, so that gains stored as
    ``1 + weight`` need no special case; the scale of each row is read off its own answer, epsilon included.

    Args:
        module: the norm.
        width: size of the vectors it norms.

    Raises:
        CoverageError: the module is neither kind of norm.
    """

    def __init__(self, module: nn.Module, width: int) -> None:
        own = next(iter(module.parameters()), torch.empty(0))
        self.module = (
            copy.deepcopy(module).float() if own.device.type != "meta" and own.dtype != torch.float32 else module
        )
        self.device = own.device if own.device.type != "meta" else torch.device("cpu")
        signs = torch.ones(width)
        signs[1::2] = -1
        if width % 2:
            signs[-1] = 0
        up, down = self._ask(signs * _LARGE), self._ask(-signs * _LARGE)
        root = signs.pow(2).mean().sqrt()
        safe = torch.where(signs == 0, torch.ones_like(signs), signs / root)
        self.gain = (up - down) / 2 / safe
        self.offset = (up + down) / 2
        if width % 2:
            self.gain[-1] = (self._ask(signs.roll(1) * _LARGE)[-1] - self.offset[-1]) / (signs.roll(1)[-1] / root)
        lifted = signs + 1
        answer = self._ask(lifted * _LARGE) - self.offset
        centred = self.gain * (lifted - lifted.mean()) / (lifted - lifted.mean()).pow(2).mean().sqrt()
        plain = self.gain * lifted / lifted.pow(2).mean().sqrt()
        size = answer.abs().max().clamp_min(1e-12)
        self.centres = bool((answer - centred).abs().max() / size < _EXACT)
        if not self.centres and not bool((answer - plain).abs().max() / size < _EXACT):
            raise CoverageError(f"{type(module).__name__} is neither a layer norm nor a root-mean-square norm.")

    def _ask(self, vector: Tensor) -> Tensor:
        with torch.no_grad():
            answer: Tensor = self.module(vector.to(self.device)[None, None])
        return answer[0, 0].float().cpu()

    def scale(self, inputs: Tensor) -> Tensor:
        """The factor of each row.

        Args:
            inputs: (n, d_model) float32, what the norm is given.

        Returns:
            (n, 1).

        Raises:
            CoverageError: the norm's answer is not a multiple of the centred input.
        """
        with torch.no_grad():
            answer = self.module(inputs.to(self.device).unsqueeze(1))[:, 0].float().cpu() - self.offset
        shaped = self.gain * self._centred(inputs)
        scale = (answer * shaped).sum(1, keepdim=True) / shaped.pow(2).sum(1, keepdim=True).clamp_min(1e-30)
        if bool((answer - scale * shaped).abs().max() > _EXACT * answer.abs().max().clamp_min(1e-12)):
            raise CoverageError(f"{type(self.module).__name__} does more than centre and scale its input.")
        return scale

    def linear(self, vectors: Tensor, scale: Tensor) -> Tensor:
        """The norm's linear part at a fixed scale.

        Args:
            vectors: (..., d_model) float32.
            scale: broadcastable to (..., 1).
        """
        return scale * self.gain * self._centred(vectors)

    def _centred(self, vectors: Tensor) -> Tensor:
        return vectors - vectors.mean(-1, keepdim=True) if self.centres else vectors
