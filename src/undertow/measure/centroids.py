"""The published score and belief: which of two centroids a state lies nearer to, by cosine.

Source: Zhao et al. (arXiv 2507.11878) and its release:

    s(l, h) = cos(h, mu_positive(l)) - cos(h, mu_negative(l)),  belief = mean of s over ALL states.

At `t_inst`, with the centroids of refused harmful and accepted harmless prompts, that is the belief of harmfulness; at
`t_post`, with those of refused and accepted prompts, the belief of refusal. Nothing is standardised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from undertow.errors import UndertowError
from undertow.measure.direction import Direction, mean_state, precise, state_range
from undertow.measure.storage import load_tensors, save_tensors

KIND = "centroids/1"


class CentroidError(UndertowError):
    """States and centroids do not fit each other."""


def cosine_difference(states: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Return s(l, h) for every prompt and state, (n, states), in float64 (float32 on Apple's GPUs).

    A vector of no length has cosine 0 with everything.

    Args:
        states: States of the prompts at one position, (n, states, width).
        positive: Centroid of the positive cluster, (states, width).
        negative: Centroid of the negative cluster, (states, width).

    Raises:
        CentroidError: If the shapes do not fit.
    """
    if states.ndim != 3 or positive.shape != states.shape[1:] or negative.shape != states.shape[1:]:
        raise CentroidError(
            f"States {tuple(states.shape)} must be (n, states, width) and both centroids (states, width), "
            f"not {tuple(positive.shape)} and {tuple(negative.shape)}."
        )
    wide = precise(states)
    hidden = states.to(wide)

    def cosine(centroid: torch.Tensor) -> torch.Tensor:
        centre = centroid.to(hidden.device, wide)
        dot = (hidden * centre).sum(dim=-1)
        lengths = hidden.norm(dim=-1) * centre.norm(dim=-1)
        return torch.where(lengths > 0, dot / lengths.clamp_min(torch.finfo(wide).tiny), torch.zeros_like(dot))

    return cosine(positive) - cosine(negative)


def published_belief(states: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Return the published belief of every prompt, (n,): the mean of s over all states. At or above 0 is positive.

    Args:
        states: States of the prompts at one position, (n, states, width); all states 0..L for the published rule.
        positive: Centroid of the positive cluster, (states, width).
        negative: Centroid of the negative cluster, (states, width).

    Raises:
        CentroidError: If the shapes do not fit.
    """
    return cosine_difference(states, positive, negative).mean(dim=1)


@dataclass(frozen=True, eq=False)
class Centroids:
    """Two centroids a state: the published rule's whole memory.

    Attributes:
        positive: Float32 mean of the positive cluster (refused harmful, or refused), (states, width).
        negative: Float32 mean of the negative cluster (accepted harmless, or accepted), (states, width).
        states: Which state each row belongs to.
        kind: What the positive side means: `harmfulness` or `refusal`.
        position: Token position, `t_inst` or `t_post`.
        n: Number of prompts behind the positive and the negative centroid.
        fingerprint: Fingerprint of the model; None if unknown.
    """

    positive: torch.Tensor
    negative: torch.Tensor
    states: tuple[int, ...]
    kind: str = "harmfulness"
    position: str = "t_inst"
    n: tuple[int, int] = (0, 0)
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        for name in ("positive", "negative"):
            centre = getattr(self, name).detach()
            if centre.ndim != 2 or centre.shape[0] != len(self.states) or centre.numel() == 0:
                raise CentroidError(
                    f"The {name} centroid over {len(self.states)} states must be (states, width), "
                    f"not {tuple(centre.shape)}."
                )
            if not torch.isfinite(centre).all():
                raise CentroidError(f"The {name} centroid holds values that are not finite.")
            object.__setattr__(self, name, centre.to(torch.float32))
        if self.positive.shape != self.negative.shape:
            raise CentroidError("The two centroids differ in width.")
        object.__setattr__(self, "states", tuple(int(state) for state in self.states))

    @classmethod
    def fit(
        cls,
        positive: torch.Tensor,
        negative: torch.Tensor,
        *,
        states: Sequence[int] | None = None,
        kind: str = "harmfulness",
        position: str = "t_inst",
        fingerprint: str | None = None,
    ) -> Centroids:
        """Return the means of two clusters, taken in float64.

        Args:
            positive: States of the positive cluster, (n, states, width).
            negative: States of the negative cluster, (m, states, width).
            states: Which states the middle axis holds; 0, 1, 2, ... by default.
            kind: What the positive side means.
            position: Token position the states were read at.
            fingerprint: Fingerprint of the model.

        Raises:
            CentroidError: If the shapes do not fit or a cluster is empty.
        """
        if positive.ndim != 3 or negative.ndim != 3 or positive.shape[1:] != negative.shape[1:]:
            raise CentroidError(
                "Centroids need two tensors (n, states, width) of the same states and width, "
                f"not {tuple(positive.shape)} and {tuple(negative.shape)}."
            )
        if positive.shape[0] == 0 or negative.shape[0] == 0:
            raise CentroidError("Centroids need at least one prompt in each cluster.")
        return cls(
            positive=mean_state(positive).to(torch.float32),
            negative=mean_state(negative).to(torch.float32),
            states=tuple(range(positive.shape[1])) if states is None else tuple(states),
            kind=kind,
            position=position,
            n=(int(positive.shape[0]), int(negative.shape[0])),
            fingerprint=fingerprint,
        )

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(self.positive.shape[1])

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Return s(l, h), (n, states), for states (n, states, width) in the order of `.states`.

        Raises:
            CentroidError: If the shapes do not fit.
        """
        return cosine_difference(states, self.positive, self.negative)

    def belief(self, states: torch.Tensor) -> torch.Tensor:
        """Return the published belief, (n,), for states (n, states, width) in the order of `.states`.

        Raises:
            CentroidError: If the shapes do not fit.
        """
        return published_belief(states, self.positive, self.negative)

    def direction(self) -> Direction:
        """Return positive - negative at every state, not normalised."""
        return Direction(
            values=self.positive - self.negative,
            states=self.states,
            kind=self.kind,
            position=self.position,
            n=sum(self.n),
            fingerprint=self.fingerprint,
        )

    def at(self, states: Sequence[int]) -> Centroids:
        """Return the same centroids at some of their states only.

        Raises:
            CentroidError: If one of them is missing.
        """
        missing = [state for state in states if state not in self.states]
        if missing:
            raise CentroidError(f"The centroids have no state {missing[0]}; they have {state_range(self.states)}.")
        rows = [self.states.index(state) for state in states]
        return Centroids(
            positive=self.positive[rows],
            negative=self.negative[rows],
            states=tuple(states),
            kind=self.kind,
            position=self.position,
            n=self.n,
            fingerprint=self.fingerprint,
        )

    def save(self, path: str | Path) -> Path:
        """Write the centroids as safetensors, with everything else as JSON in the file's metadata."""
        return save_tensors(
            path,
            KIND,
            {"positive": self.positive, "negative": self.negative},
            {
                "states": list(self.states),
                "kind_of_centroids": self.kind,
                "position": self.position,
                "n": list(self.n),
                "fingerprint": self.fingerprint,
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> Centroids:
        """Read centroids that `save` wrote.

        Raises:
            StorageError: If the file is missing or holds no saved centroids.
        """
        tensors, about = load_tensors(path, KIND)
        return cls(
            positive=tensors["positive"],
            negative=tensors["negative"],
            states=tuple(about["states"]),
            kind=about["kind_of_centroids"],
            position=about["position"],
            n=tuple(about["n"]),
            fingerprint=about["fingerprint"],
        )
