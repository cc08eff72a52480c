"""Muon against its definition."""

from __future__ import annotations

import pytest
import torch

from undertow.organism.optimizer import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrices))
    assert values.min() > 0.3 and values.max() < 1.4
    # the singular vectors stay: U V^T of both agree in direction
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    exact = left @ right
    cosine = (
        (orthogonalised(matrices) * exact).sum(dim=(1, 2))
        / exact.norm(dim=(1, 2))
        / orthogonalised(matrices).norm(dim=(1, 2))
    )
    assert cosine.min() > 0.9


def test_first_step_by_hand() -> None:
    start = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    gradient = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    matrix = torch.nn.Parameter(start.clone())
    matrix.grad = gradient.clone()
    muon = Muon([matrix], learning_rate=0.1, weight_decay=0.5)
    muon.step()
    expected = start * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 6**0.5 * orthogonalised(gradient[None])[0]
    torch.testing.assert_close(matrix.detach(), expected, rtol=1e-4, atol=1e-5)


def test_it_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    target, inputs = torch.randn(5, 7, generator=generator), torch.randn(100, 7, generator=generator)
    matrix = torch.nn.Parameter(torch.zeros(5, 7))
    muon = Muon([matrix], learning_rate=0.05)
    losses = []
    for step in range(200):
        muon.learning_rate = 0.05 * (1 - step / 200)
        loss = ((inputs @ (matrix - target).T) ** 2).mean()
        loss.backward()
        muon.step()
        muon.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
