"""Directions in the residual stream: one vector a state, with where it came from, saved as safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from undertow.errors import UndertowError
from undertow.measure.storage import load_tensors, save_tensors

KIND = "direction/1"


class DirectionError(UndertowError):
    """Directions do not fit each other, a state is missing, or a file of a direction cannot be read."""


@dataclass(frozen=True, eq=False)
class Direction:
    """Vectors of the residual stream, one a state, not normalised.

    Supports `+`, `-`, unary `-`, `*` and `/` by a number. Sums refuse directions of other models, widths or states.

    Attributes:
        values: Float32 tensor (states, width), in the residual stream's own unit.
        states: Which state each row belongs to; state l is the residual stream at the input of block l.
        kind: What it points to, such as `harmfulness` or `refusal`.
        position: Token position it was read at, `t_inst` or `t_post`.
        n: Number of prompts behind it.
        fingerprint: Fingerprint of the model it was read from; None if unknown.
    """

    values: torch.Tensor
    states: tuple[int, ...]
    kind: str = "direction"
    position: str = "t_inst"
    n: int = 0
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        states = tuple(int(state) for state in self.states)
        values = self.values.detach()
        if values.ndim != 2 or values.shape[0] != len(states) or values.shape[0] == 0 or values.shape[1] == 0:
            raise DirectionError(
                f"A direction over {len(states)} states needs values of shape (states, width), "
                f"not {tuple(values.shape)}."
            )
        if len(set(states)) != len(states):
            raise DirectionError("A direction names one of its states twice.")
        if not torch.isfinite(values).all():
            raise DirectionError(f"The {self.kind} direction holds values that are not finite.")
        object.__setattr__(self, "values", values.to(torch.float32))
        object.__setattr__(self, "states", states)

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(self.values.shape[1])

    def __getitem__(self, state: int) -> torch.Tensor:
        """Return the vector (width,) at a state.

        Raises:
            DirectionError: If the direction has no such state.
        """
        return self.values[self._row(state)]

    def norm(self, state: int) -> float:
        """Return the Euclidean norm at a state."""
        return float(self[state].double().norm())

    def cosine(self, other: Direction, state: int) -> float:
        """Return the cosine with another direction at a state; 0 where one of them has no length.

        Raises:
            DirectionError: If the two belong to different models or widths, or one lacks the state.
        """
        self._check_model(other)
        mine, theirs = self[state].double().cpu(), other[state].double().cpu()
        length = float(mine.norm() * theirs.norm())
        return float(mine @ theirs) / length if length > 0.0 else 0.0

    def at(self, states: Sequence[int]) -> Direction:
        """Return the same direction at some of its states only.

        Raises:
            DirectionError: If the direction lacks one of them.
        """
        rows = [self._row(state) for state in states]
        return replace(self, values=self.values[rows], states=tuple(states))

    def random_like(self, seed: int) -> Direction:
        """Return a random direction whose norm at every state equals this one's: the control for steering."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.values.shape, generator=generator, dtype=torch.float64)
        lengths = self.values.double().cpu().norm(dim=1, keepdim=True)
        values = noise / noise.norm(dim=1, keepdim=True) * lengths
        return replace(self, values=values.to(self.values.device, torch.float32), kind="random")

    def __add__(self, other: Direction) -> Direction:
        """Return the sum; its n is the smaller of both."""
        if not isinstance(other, Direction):
            return NotImplemented
        self._check_model(other)
        if self.states != other.states:
            raise DirectionError(
                f"Directions over different states cannot be combined: {state_range(self.states)} and "
                f"{state_range(other.states)}; take the shared ones with .at(states)."
            )
        values = self.values + other.values.to(self.values.device)
        return replace(
            self,
            values=values,
            kind=self.kind if self.kind == other.kind else f"{self.kind} + {other.kind}",
            position=self.position if self.position == other.position else "mixed",
            n=min(self.n, other.n),
        )

    def __sub__(self, other: Direction) -> Direction:
        """Return the difference."""
        if not isinstance(other, Direction):
            return NotImplemented
        total = self + (-other)
        return replace(total, kind=self.kind if self.kind == other.kind else f"{self.kind} - {other.kind}")

    def __neg__(self) -> Direction:
        """Return the reverse direction."""
        return replace(self, values=-self.values)

    def __mul__(self, factor: float) -> Direction:
        """Return the direction scaled by a number."""
        if not isinstance(factor, (int, float)):
            return NotImplemented
        return replace(self, values=self.values * float(factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Direction:
        """Return the direction divided by a number."""
        if not isinstance(divisor, (int, float)):
            return NotImplemented
        return replace(self, values=self.values / float(divisor))

    def save(self, path: str | Path) -> Path:
        """Write the direction as safetensors, with everything else as JSON in the file's metadata."""
        return save_tensors(
            path,
            KIND,
            {"direction": self.values},
            {
                "states": list(self.states),
                "kind_of_direction": self.kind,
                "position": self.position,
                "n": self.n,
                "fingerprint": self.fingerprint,
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> Direction:
        """Read a direction that `save` wrote.

        Raises:
            StorageError: If the file is missing or is not a saved direction.
        """
        tensors, about = load_tensors(path, KIND)
        return cls(
            values=tensors["direction"],
            states=tuple(about["states"]),
            kind=about["kind_of_direction"],
            position=about["position"],
            n=about["n"],
            fingerprint=about["fingerprint"],
        )

    def _row(self, state: int) -> int:
        if state not in self.states:
            known = state_range(self.states)
            raise DirectionError(f"The {self.kind} direction has no state {state}; it has {known}.")
        return self.states.index(state)

    def _check_model(self, other: Direction) -> None:
        if self.fingerprint != other.fingerprint:
            raise DirectionError(
                "Directions of different models cannot be combined: "
                f"one was read from {self.fingerprint or 'unknown'}, the other from {other.fingerprint or 'unknown'}."
            )
        if self.width != other.width:
            raise DirectionError(f"Directions of different widths cannot be combined: {self.width} and {other.width}.")


def random_like(direction: Direction, seed: int) -> Direction:
    """Return a random direction whose norm at every state equals the given one's."""
    return direction.random_like(seed)


def difference_of_means(
    positive: torch.Tensor,
    negative: torch.Tensor,
    *,
    states: Sequence[int] | None = None,
    kind: str = "harmfulness",
    position: str = "t_inst",
    fingerprint: str | None = None,
) -> Direction:
    """Return mean(positive) - mean(negative) at every state, not normalised.

    Source: Zhao et al. (arXiv 2507.11878): v(l) = mu(C+, l, p) - mu(C-, l, p). Means are taken in float64.

    Args:
        positive: States of the prompts to point to, (n, states, width).
        negative: States of the prompts to point away from, (m, states, width).
        states: Which states the middle axis holds; 0, 1, 2, ... by default.
        kind: What the direction points to.
        position: Token position the states were read at.
        fingerprint: Fingerprint of the model.

    Raises:
        DirectionError: If the shapes do not fit, a set is empty or values are not finite.
    """
    if positive.ndim != 3 or negative.ndim != 3 or positive.shape[1:] != negative.shape[1:]:
        raise DirectionError(
            "A difference of means needs two tensors (n, states, width) of the same states and width, "
            f"not {tuple(positive.shape)} and {tuple(negative.shape)}."
        )
    if positive.shape[0] == 0 or negative.shape[0] == 0:
        raise DirectionError("A difference of means needs at least one prompt on each side.")
    return Direction(
        values=(mean_state(positive) - mean_state(negative)).to(torch.float32),
        states=tuple(range(positive.shape[1])) if states is None else tuple(states),
        kind=kind,
        position=position,
        n=int(positive.shape[0] + negative.shape[0]),
        fingerprint=fingerprint,
    )


def state_range(states: Sequence[int]) -> str:
    """Return states in words: `0 to 28` for a run without gaps, else each of them."""
    if len(states) > 2 and list(states) == list(range(states[0], states[-1] + 1)):
        return f"{states[0]} to {states[-1]}"
    return ", ".join(str(state) for state in states)


def mean_state(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over the first axis, (states, width), in float64 where the device has it."""
    return values.to(precise(values)).mean(dim=0)


def precise(values: torch.Tensor) -> torch.dtype:
    """Return the widest float type of the tensor's device: float64, or float32 on Apple's GPUs."""
    return torch.float32 if values.device.type == "mps" else torch.float64
