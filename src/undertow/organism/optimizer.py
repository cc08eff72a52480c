"""Muon (Jordan et al., 2024) for the matrices of a small transformer: momentum, orthogonalised by Newton-Schulz
iterations.

On the organism it learns the exclusive-or in a fraction of the steps that AdamW takes. Matrices of equal shape are
updated together, which
makes the iterations cheap on a processor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Replaces the singular values of matrices (n, rows, columns) by values near one."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x


class Muon:
    """Muon with Nesterov momentum and decoupled weight decay.

    Updates are scaled by ``0.2 * sqrt(longer side)``, so that learning rates mean about what they mean for AdamW
    (Liu et al., 2025).

    Args:
        matrices: the parameters, all of two dimensions.
        learning_rate: step size; may be changed between steps.
        momentum: share of the running mean that is kept.
        weight_decay: share of the weights, times the learning rate, that is taken off at every step.
    """

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        learning_rate: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        import torch

        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self._groups: dict[tuple[int, ...], list[torch.nn.Parameter]] = {}
        for matrix in matrices:
            self._groups.setdefault(tuple(matrix.shape), []).append(matrix)
        self._means = {shape: torch.zeros(len(group), *shape) for shape, group in self._groups.items()}

    def step(self) -> None:
        """One update from the gradients."""
        import torch

        with torch.no_grad():
            for shape, group in self._groups.items():
                gradients = torch.stack([matrix.grad for matrix in group])  # type: ignore[misc]
                mean = self._means[shape].lerp_(gradients, 1 - self.momentum)
                update = orthogonalised(gradients.lerp(mean, self.momentum))
                scale = 0.2 * max(shape) ** 0.5 * self.learning_rate
                for matrix, change in zip(group, update, strict=True):
                    matrix.mul_(1 - self.learning_rate * self.weight_decay).add_(change, alpha=-scale)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for group in self._groups.values():
            for matrix in group:
                matrix.grad = None
