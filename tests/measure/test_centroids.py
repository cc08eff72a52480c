from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine as cosine_distance

from undertow.measure.centroids import CentroidError, Centroids, cosine_difference, published_belief


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    positive = torch.randn(7, 4, 8, generator=generator) + 0.5
    negative = torch.randn(5, 4, 8, generator=generator) - 0.5
    return positive, negative, torch.randn(6, 4, 8, generator=generator)


def test_scores_and_belief_are_the_published_rule() -> None:
    positive, negative, hidden = data()
    centroids = Centroids.fit(positive, negative, fingerprint="f")
    mean_positive, mean_negative = positive.double().numpy().mean(0), negative.double().numpy().mean(0)
    expected = np.array(
        [
            [
                cosine_distance(hidden[i, state], mean_negative[state])
                - cosine_distance(hidden[i, state], mean_positive[state])
                for state in range(4)
            ]
            for i in range(6)
        ]
    )
    assert np.allclose(centroids.scores(hidden).numpy(), expected, atol=1e-6)
    assert np.allclose(centroids.belief(hidden).numpy(), expected.mean(1), atol=1e-6)
    assert (centroids.n, centroids.states, centroids.width) == ((7, 5), (0, 1, 2, 3), 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_half_precision_states_neither_overflow_nor_lose_the_sign(dtype: torch.dtype) -> None:
    hidden = torch.tensor([[[60000.0, 60000.0, 100.0]]]).to(dtype)
    belief = published_belief(hidden, hidden[0].float(), -hidden[0].float())
    assert belief.tolist() == pytest.approx([2.0])


def test_a_vector_without_length_has_cosine_zero() -> None:
    zero, one = torch.zeros(1, 1, 3), torch.ones(1, 3)
    assert cosine_difference(zero, one, -one).tolist() == [[0.0]]
    assert cosine_difference(one[None], one, torch.zeros(1, 3)).tolist() == [[pytest.approx(1.0)]]


def test_equal_centroids_say_nothing() -> None:
    hidden = torch.randn(3, 2, 4)
    assert published_belief(hidden, torch.ones(2, 4), torch.ones(2, 4)).tolist() == [0.0] * 3


def test_direction_and_subset() -> None:
    positive, negative, hidden = data()
    centroids = Centroids.fit(positive, negative, states=(0, 2, 4, 6), kind="refusal", position="t_post")
    direction = centroids.direction()
    assert torch.allclose(direction[4], positive.mean(0)[2] - negative.mean(0)[2], atol=1e-6)
    assert (direction.kind, direction.position, direction.n) == ("refusal", "t_post", 12)
    assert torch.allclose(centroids.at([6]).belief(hidden[:, 3:]), centroids.scores(hidden)[:, 3])
    with pytest.raises(CentroidError, match="no state 1"):
        centroids.at([1])


def test_saved_and_loaded(tmp_path: Path) -> None:
    positive, negative, hidden = data()
    centroids = Centroids.fit(positive, negative, states=(1, 2, 3, 9), fingerprint="f")
    loaded = Centroids.load(centroids.save(tmp_path / "c.safetensors"))
    assert torch.equal(loaded.belief(hidden), centroids.belief(hidden))
    for name in ("states", "kind", "position", "n", "fingerprint"):
        assert getattr(loaded, name) == getattr(centroids, name)


def test_shapes_that_do_not_fit_are_refused() -> None:
    for ask in (
        lambda: cosine_difference(torch.zeros(2, 3, 4), torch.zeros(3, 5), torch.zeros(3, 5)),
        lambda: cosine_difference(torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(3, 4)),
        lambda: Centroids.fit(torch.zeros(0, 3, 4), torch.zeros(1, 3, 4)),
        lambda: Centroids.fit(torch.zeros(1, 3, 4), torch.zeros(1, 2, 4)),
        lambda: Centroids(torch.zeros(2, 4), torch.zeros(2, 5), (0, 1)),
        lambda: Centroids(torch.zeros(2, 4), torch.zeros(2, 4), (0, 1, 2)),
        lambda: Centroids(torch.full((1, 2), torch.nan), torch.zeros(1, 2), (0,)),
    ):
        with pytest.raises(CentroidError):
            ask()
