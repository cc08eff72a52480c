from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from undertow.errors import UndertowError
from undertow.measure.direction import Direction, DirectionError, difference_of_means, random_like, state_range
from undertow.measure.storage import StorageError


def make(seed: int = 0, **changes: object) -> Direction:
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
    return Direction(
        **({"values": values, "states": (0, 3, 5, 8), "kind": "harmfulness", "n": 7, "fingerprint": "abc"} | changes)
    )  # type: ignore[arg-type]


def test_difference_of_means_is_numpys() -> None:
    generator = torch.Generator().manual_seed(1)
    positive = torch.randn(9, 3, 5, generator=generator).half()
    negative = torch.randn(4, 3, 5, generator=generator).half()
    found = difference_of_means(
        positive, negative, states=(2, 4, 6), kind="refusal", position="t_post", fingerprint="f"
    )
    expected = positive.double().numpy().mean(0) - negative.double().numpy().mean(0)
    assert np.allclose(found.values.numpy(), expected, atol=1e-7)
    assert (found.states, found.kind, found.position, found.n) == ((2, 4, 6), "refusal", "t_post", 13)
    assert found.values.dtype == torch.float32 and found.fingerprint == "f"
    assert difference_of_means(positive, negative).states == (0, 1, 2)


def test_arithmetic() -> None:
    a, b = make(0), make(1, n=3)
    assert torch.equal((a + b).values, a.values + b.values)
    assert torch.equal((a - b).values, a.values - b.values)
    assert torch.equal((-a).values, -a.values)
    assert torch.equal((2 * a).values, 2 * a.values) and torch.equal((a * 0.5).values, (a / 2).values)
    assert (a + b).n == 3 and (a + b).kind == "harmfulness"
    assert (a - make(1, kind="refusal")).kind == "harmfulness - refusal"
    assert torch.equal(a[5], a.values[2])
    assert a.norm(3) == pytest.approx(float(np.linalg.norm(a.values[1].numpy())))
    expected = np.dot(a.values[1], b.values[1]) / np.linalg.norm(a.values[1]) / np.linalg.norm(b.values[1])
    assert a.cosine(b, 3) == pytest.approx(float(expected), abs=1e-6)
    assert a.cosine(a * 0.0, 3) == 0.0
    assert torch.equal(a.at([8, 0]).values, a.values[[3, 0]]) and a.at([8, 0]).states == (8, 0)
    assert a.width == 6


def test_random_like_has_the_same_norms_and_no_preferred_way() -> None:
    direction = Direction(torch.randn(3, 4096) * torch.tensor([[1.0], [10.0], [100.0]]), (0, 1, 2), fingerprint="m")
    control = random_like(direction, seed=4)
    for state in direction.states:
        assert control.norm(state) == pytest.approx(direction.norm(state), rel=1e-5)
        assert abs(control.cosine(direction, state)) < 0.08
    assert torch.equal(control.values, direction.random_like(4).values)
    assert not torch.equal(control.values, direction.random_like(5).values)
    assert control.kind == "random" and control.fingerprint == "m"


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (make(fingerprint="xyz"), "different models"),
        (make(fingerprint=None), "different models"),
        (Direction(torch.randn(4, 5), (0, 3, 5, 8), fingerprint="abc"), "different widths"),
        (make(states=(0, 1, 2, 3)), "different states"),
    ],
)
def test_directions_that_do_not_fit_are_refused(other: Direction, match: str) -> None:
    for combine in (lambda: make() + other, lambda: make() - other):
        with pytest.raises(UndertowError, match=match) as refusal:
            combine()
        assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


def test_bad_values_and_states_are_refused() -> None:
    for ask, match in (
        (lambda: make()[4], "no state 4"),
        (lambda: make().at([0, 1]), "no state 1"),
        (lambda: make(states=(0, 1)), "values of shape"),
        (lambda: make(states=(0, 0, 1, 2)), "twice"),
        (lambda: make(values=torch.full((4, 6), torch.nan)), "not finite"),
        (lambda: difference_of_means(torch.zeros(0, 2, 3), torch.zeros(1, 2, 3)), "at least one"),
        (lambda: difference_of_means(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4)), "same states"),
        (lambda: difference_of_means(torch.zeros(2, 3), torch.zeros(2, 3)), "states, width"),
    ):
        with pytest.raises(DirectionError, match=match):
            ask()
    with pytest.raises(TypeError):
        make() + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        make() * "2"  # type: ignore[operator]


def test_saved_and_loaded(tmp_path: Path) -> None:
    direction = make(position="t_post")
    loaded = Direction.load(direction.save(tmp_path / "folder" / "d.safetensors"))
    assert torch.equal(loaded.values, direction.values)
    for name in ("states", "kind", "position", "n", "fingerprint"):
        assert getattr(loaded, name) == getattr(direction, name)


def test_files_that_are_no_directions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    with pytest.raises(StorageError, match="no file"):
        Direction.load(path)
    path.write_text("words")
    with pytest.raises(StorageError, match="damaged"):
        Direction.load(path)
    save_file({"direction": torch.zeros(1, 2)}, str(path))
    with pytest.raises(StorageError, match="not written by Undertow"):
        Direction.load(path)
    save_file({"direction": torch.zeros(1, 2)}, str(path), metadata={"undertow": '{"kind": "centroids/1"}'})
    with pytest.raises(StorageError, match="was expected"):
        Direction.load(path)


def test_state_range() -> None:
    assert state_range((0, 1, 2, 3)) == "0 to 3" and state_range((1, 3)) == "1, 3"
