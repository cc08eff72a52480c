"""Published arrays: directions, centroids and states shared as `.pt` files, read safely, and scored without any model.

The release of Zhao et al. (arXiv 2507.11878) shares float16 arrays: (L+1, d) for directions and centroids,
(L+1, n, 2, d) for the states of n prompts at (t_inst, t_post); some are numpy arrays pickled inside the `.pt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from undertow.errors import ArrayError
from undertow.measure.array_files import read_array_tree
from undertow.measure.array_parts import ArrayFileError
from undertow.measure.centroids import Centroids, published_belief
from undertow.measure.direction import Direction

ArrayKind = Literal["direction", "centroids", "states"]
KINDS: tuple[ArrayKind, ...] = ("direction", "centroids", "states")
POSITIONS = ("t_inst", "t_post")


@dataclass(frozen=True, eq=False)
class PublishedArrays:
    """One or several arrays of the same kind and shape out of one file.

    Attributes:
        arrays: Float32 tensors by name: (states, width) for directions and centroids, (states, n, 2, width) for
            states at (t_inst, t_post). A file of a single bare array names it `array`.
        kind: `direction`, `centroids` or `states`; by shape alone a centroid cannot be told from a direction, so that
            `centroids` is only ever what the caller said.
        source: The file's name.
    """

    arrays: dict[str, torch.Tensor]
    kind: ArrayKind
    source: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, in the file's order."""
        return tuple(self.arrays)

    @property
    def values(self) -> torch.Tensor:
        """The only array.

        Raises:
            ArrayError: If there are several.
        """
        if len(self.arrays) > 1:
            listed = ", ".join(self.names[:6])
            raise ArrayError(f"{self.source} holds {len(self.arrays)} arrays ({listed}): choose one by its name.")
        return next(iter(self.arrays.values()))

    @property
    def states(self) -> int:
        """Number of states, L + 1."""
        return int(next(iter(self.arrays.values())).shape[0])

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(next(iter(self.arrays.values())).shape[-1])

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return an array by its name.

        Raises:
            ArrayError: If there is none of that name.
        """
        if name not in self.arrays:
            raise ArrayError(f"{self.source} holds no array {name}; it has {', '.join(self.names[:6])}.")
        return self.arrays[name]

    def select(self, name: str) -> PublishedArrays:
        """Return the one array of that name, alone.

        Raises:
            ArrayError: If there is none of that name.
        """
        return PublishedArrays({name: self[name]}, self.kind, self.source)

    def direction(
        self, *, kind: str = "harmfulness", position: str = "t_inst", fingerprint: str | None = None
    ) -> Direction:
        """Return the only array as a Direction over states 0..L.

        Raises:
            ArrayError: If the file holds states, or several arrays.
        """
        self._check_rank_two("a direction")
        return Direction(
            values=self.values,
            states=tuple(range(self.states)),
            kind=kind,
            position=position,
            fingerprint=fingerprint,
        )

    def _check_rank_two(self, wanted: str) -> None:
        if self.kind == "states":
            raise ArrayError(f"{self.source} holds states of shape (states, n, 2, width), not {wanted}.")


def load_arrays(path: str | Path, kind: ArrayKind | None = None) -> PublishedArrays:
    """Read published arrays; no code in the file is ever run, and anything but plain float arrays is refused.

    Reads torch files (zip and legacy), pickled numpy arrays (any protocol, numpy 1 and 2), `.npy`, `.npz` and
    `.safetensors`, told by content. Arrays may stand alone, under names in a dict, or as one array a state in a list or
    a dict with states as keys, which are stacked.

    Args:
        path: The file.
        kind: What the arrays are; by default told by shape: rank 2 is a direction, rank 4 are states.

    Raises:
        ArrayError: If the file is missing, damaged, or holds anything but such arrays, all finite.
    """
    file = Path(path)
    if kind is not None and kind not in KINDS:
        raise ArrayError(f"Arrays are read as {', '.join(KINDS)}, not as {kind}.")
    try:
        tree = read_array_tree(file)
        arrays = {name: _tensor(name, array) for name, array in _named(tree).items()}
    except ArrayFileError as error:
        raise ArrayError(f"{file} cannot be read as arrays: it {error}.") from None
    except FileNotFoundError:
        raise ArrayError(f"There is no file {file}.") from None
    except OSError as error:
        raise ArrayError(f"{file} cannot be read: {error.strerror or error}.") from None
    shapes = {tuple(array.shape[:1] + array.shape[-1:]) for array in arrays.values()}
    ranks = {array.ndim for array in arrays.values()}
    if len(ranks) > 1 or len(shapes) > 1:
        raise ArrayError(f"{file} mixes arrays of different kinds, states or widths: split it into files of one kind.")
    found: ArrayKind = "states" if ranks == {4} else "direction"
    if kind is not None and (kind == "states") != (found == "states"):
        wanted = "(states, n, 2, width)" if kind == "states" else "(states, width)"
        shape = tuple(next(iter(arrays.values())).shape)
        raise ArrayError(f"{file} holds an array of shape {shape}, and {kind} need {wanted}.")
    return PublishedArrays(arrays, kind or found, file.name)


def centroids_of(
    positive: PublishedArrays | torch.Tensor,
    negative: PublishedArrays | torch.Tensor,
    *,
    kind: str = "harmfulness",
    position: str = "t_inst",
    fingerprint: str | None = None,
) -> Centroids:
    """Return two published centroids as Centroids over states 0..L.

    Raises:
        ArrayError: If their shapes differ or are not (states, width).
    """
    high, low = _centroid(positive), _centroid(negative)
    if high.shape != low.shape:
        raise ArrayError(f"The two centroids differ in shape: {tuple(high.shape)} and {tuple(low.shape)}.")
    return Centroids(
        positive=high,
        negative=low,
        states=tuple(range(high.shape[0])),
        kind=kind,
        position=position,
        fingerprint=fingerprint,
    )


def score_states(
    states: PublishedArrays | torch.Tensor,
    positive: PublishedArrays | torch.Tensor,
    negative: PublishedArrays | torch.Tensor,
    *,
    position: str = "t_inst",
) -> torch.Tensor:
    """Apply the published rule to states without any model; return the belief of every prompt, (n,), float64.

    A prompt is harmful (or about to be refused) iff its belief is at or above 0, the published threshold.

    Args:
        states: States of n prompts, (states, n, 2, width).
        positive: Centroid of refused harmful prompts at `t_inst` (of refused ones at `t_post`), (states, width).
        negative: Centroid of accepted harmless prompts (of accepted ones), (states, width).
        position: `t_inst` for the belief of harmfulness, `t_post` for that of refusal.

    Raises:
        ArrayError: If the shapes do not fit or the position is neither.
    """
    if position not in POSITIONS:
        raise ArrayError(f"Published states are of t_inst and t_post, not of {position}.")
    values = states.values if isinstance(states, PublishedArrays) else states
    if values.ndim != 4 or values.shape[2] != 2:
        raise ArrayError(f"States must be of shape (states, n, 2, width), not {tuple(values.shape)}.")
    centroids = centroids_of(positive, negative)
    if (values.shape[0], values.shape[3]) != tuple(centroids.positive.shape):
        raise ArrayError(
            f"States of {values.shape[0]} layers and width {values.shape[3]} do not fit centroids of "
            f"{centroids.positive.shape[0]} and {centroids.width}: they come from different models."
        )
    chosen = values[:, :, POSITIONS.index(position)].transpose(0, 1)
    return published_belief(chosen, centroids.positive, centroids.negative)


def _centroid(centroid: PublishedArrays | torch.Tensor) -> torch.Tensor:
    if isinstance(centroid, PublishedArrays):
        centroid._check_rank_two("a centroid")
        centroid = centroid.values
    if centroid.ndim != 2:
        raise ArrayError(f"A centroid must be of shape (states, width), not {tuple(centroid.shape)}.")
    return centroid.to(torch.float32)


def _named(tree: Any) -> dict[str, np.ndarray]:
    """Flatten containers to names, stacking one array a state where that is what they hold."""
    if isinstance(tree, np.ndarray):
        return {"array": tree}
    stacked = _stacked(tree)
    if stacked is not None:
        return {"array": stacked}
    pairs: Sequence[tuple[Any, Any]]
    pairs = list(tree.items()) if isinstance(tree, dict) else [(str(index), part) for index, part in enumerate(tree)]
    named: dict[str, np.ndarray] = {}
    for key, part in pairs:
        for name, array in _named(part).items():
            named[str(key) if name == "array" else f"{key}.{name}"] = array
    if not named:
        raise ArrayFileError("holds no array")
    return named


def _stacked(tree: Any) -> np.ndarray | None:
    """Return one array (states, ...) if the container holds one array of rank 1 or 3 for every state, else None."""
    if isinstance(tree, dict):
        if not tree or set(tree) != set(range(len(tree))):
            return None
        parts = [tree[state] for state in range(len(tree))]
    else:
        parts = list(tree)
    if not parts or not all(isinstance(part, np.ndarray) for part in parts):
        return None
    shapes = {part.shape for part in cast(list[np.ndarray], parts)}
    if len(shapes) != 1 or len(next(iter(shapes))) not in (1, 3):
        return None
    return np.stack(parts)


def _tensor(name: str, array: np.ndarray) -> torch.Tensor:
    """Check one array's shape and content; return it as contiguous float32."""
    shape = "(" + ", ".join(str(size) for size in array.shape) + ")"
    if array.size == 0:
        raise ArrayFileError(f"holds an empty array of shape {shape}")
    if array.ndim not in (2, 4):
        raise ArrayFileError(f"holds an array of shape {shape}, neither (states, width) nor (states, n, 2, width)")
    if array.ndim == 4 and array.shape[2] != 2:
        raise ArrayFileError(
            f"holds states of shape {shape}, whose third axis should be 2, for the positions t_inst and t_post"
        )
    with np.errstate(over="ignore"):
        values = np.array(array, dtype=np.float32, order="C")
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        where = "" if name == "array" else f" in {name}"
        raise ArrayFileError(f"holds {wrong} of {values.size} values{where} that are not finite (NaN or infinity)")
    return torch.from_numpy(values)
