from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from undertow.errors import ArrayError
from undertow.measure.arrays import centroids_of, load_arrays, score_states

LAYERS, COUNT, WIDTH = 5, 4, 16


@pytest.fixture
def matrix() -> torch.Tensor:
    return torch.randn(LAYERS, WIDTH, generator=torch.Generator().manual_seed(1)).half()


@pytest.fixture
def states() -> torch.Tensor:
    return torch.randn(LAYERS, COUNT, 2, WIDTH, generator=torch.Generator().manual_seed(2)).half()


def test_the_wanted_kind_must_fit(tmp_path: Path, matrix: torch.Tensor, states: torch.Tensor) -> None:
    torch.save(matrix, tmp_path / "direction.pt")
    torch.save(states, tmp_path / "states.pt")
    assert load_arrays(tmp_path / "direction.pt").kind == "direction"
    assert load_arrays(tmp_path / "direction.pt", "centroids").kind == "centroids"
    with pytest.raises(ArrayError, match="states need"):
        load_arrays(tmp_path / "direction.pt", "states")
    with pytest.raises(ArrayError, match="direction need"):
        load_arrays(tmp_path / "states.pt", "direction")
    with pytest.raises(ArrayError, match="not as guard"):
        load_arrays(tmp_path / "states.pt", "guard")  # type: ignore[arg-type]
    with pytest.raises(ArrayError, match="not a direction"):
        load_arrays(tmp_path / "states.pt").direction()


def published_notebook(testq: np.ndarray, cluster1: np.ndarray, cluster2: np.ndarray) -> np.ndarray:
    """The rule written again in numpy: mean over layers of one cosine less the other, in float64."""

    def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = a.astype(np.float64), b.astype(np.float64)
        return np.array([x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for x, y in zip(a, b, strict=True)])

    rows = [cosine(testq[:, i], cluster1) - cosine(testq[:, i], cluster2) for i in range(testq.shape[1])]
    return np.array([row.mean() for row in rows])


@pytest.mark.parametrize(("position", "index"), [("t_inst", 0), ("t_post", 1)])
def test_score_states_applies_the_published_rule(
    tmp_path: Path, states: torch.Tensor, position: str, index: int
) -> None:
    generator = torch.Generator().manual_seed(5)
    harmful, harmless = (torch.randn(LAYERS, WIDTH, generator=generator).half() for _ in range(2))
    for name, held in (("s", states), ("a", harmful.numpy()), ("b", harmless)):
        torch.save(held, tmp_path / f"{name}.pt")
    loaded = [load_arrays(tmp_path / f"{name}.pt") for name in "sab"]
    beliefs = score_states(*loaded, position=position)
    expected = published_notebook(states.numpy()[:, :, index], harmful.numpy(), harmless.numpy())
    assert beliefs.shape == (COUNT,)
    assert np.allclose(beliefs.numpy(), expected, atol=1e-12)
    assert centroids_of(loaded[1], loaded[2]).states == tuple(range(LAYERS))


def test_score_states_refuses_what_does_not_fit(states: torch.Tensor, matrix: torch.Tensor) -> None:
    with pytest.raises(ArrayError, match="different models"):
        score_states(states, matrix[:3], matrix[:3])
    with pytest.raises(ArrayError, match="differ in shape"):
        score_states(states, matrix[:3], matrix)
    with pytest.raises(ArrayError, match=r"third|shape"):
        score_states(states[:, :, :1], matrix, matrix)
    with pytest.raises(ArrayError, match="not of t_end"):
        score_states(states, matrix, matrix, position="t_end")
