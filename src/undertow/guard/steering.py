"""The refusal direction that a guard steers with: where, how strongly, and how well it worked on held-out prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.errors import GuardError
from undertow.guard.rules.base import Array
from undertow.prompts import Prompt

if TYPE_CHECKING:
    from undertow.measure.judge import RefusalJudge
    from undertow.model import Add, ChatModel

COEFFICIENTS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_SCREENING_COEFFICIENTS = (1.0, 2.0, 4.0)
_SCREENING_PROMPTS = 12
_TELLING = 0.25
_UNTRIED = 2.0
_WANTED = 0.9
_PROMPTS = 24
_LEAST = 4


@dataclass(frozen=True)
class Strength:
    """How hard to push in one way, and what it did to held-out prompts.

    Attributes:
        coefficient: multiplies the direction; the smallest tried that flips at least 90 % of the prompts, or the best
            one.
        flipped, prompts: how many development prompts changed from answered to refused (or back), of how many.
        kind: what those prompts were, in words.
        tried: (coefficient, share flipped) of every attempt.
    """

    coefficient: float
    flipped: int
    prompts: int
    kind: str
    tried: tuple[tuple[float, float], ...] = ()

    @property
    def verified(self) -> bool:
        """Whether at least 90 % of the development prompts flipped."""
        return self.prompts > 0 and self.flipped >= _WANTED * self.prompts


@dataclass(frozen=True)
class Steering:
    """A refusal direction at one state, added to the template tail.

    Attributes:
        state: the state it is added at.
        direction: (d,) float32, mean state of refused minus answered prompts at t_post, harmful and harmless ones
            weighing the same where both kinds occur on both sides.
        refuse: strength toward refusal.
        release: strength away from it (subtracted).
    """

    state: int
    direction: Array = field(repr=False)
    refuse: Strength
    release: Strength

    def edits(self, toward: str) -> tuple[Add, ...]:
        """The edits for `undertow.model.generate.Steer`; `toward` is "refusal" or "answer"."""
        from undertow.model import Add

        coefficient = self.refuse.coefficient if toward == "refusal" else -self.release.coefficient
        return (Add(_tensor(self.direction), coefficient, state=self.state, span="tail"),)

    def notes(self) -> tuple[str, ...]:
        """Sentences on what did not work or was never tried."""
        found = []
        for name, strength in (("toward refusal", self.refuse), ("away from refusal", self.release)):
            if strength.prompts == 0:
                found.append(
                    f"Steering {name} was never tried, as there were no held-out prompts to try it on "
                    f"({strength.kind})."
                )
            elif not strength.verified:
                found.append(
                    f"Steering {name} flips only {strength.flipped} of {strength.prompts} held-out prompts "
                    f"({strength.kind}) at its best."
                )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the direction, as plain values for JSON."""
        return {"state": self.state, "refuse": _plain(self.refuse), "release": _plain(self.release)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], direction: Array) -> Steering:
        """The inverse of `to_dict`. Raises GuardError where the direction is not one finite vector."""
        direction = np.asarray(direction, dtype=np.float32)
        if direction.ndim != 1 or not np.isfinite(direction).all():
            raise GuardError("The guard's steering direction is not one finite vector; fit and save the guard again.")
        return cls(int(values["state"]), direction, _strength(values["refuse"]), _strength(values["release"]))


def fit_steering(
    model: ChatModel,
    prompts: Sequence[Prompt],
    states_at_end: Array,
    states: Sequence[int],
    refused: Array,
    harmful: Array,
    development: Array,
    *,
    judge: RefusalJudge | None = None,
    reply_tokens: int = 16,
    advance: Callable[[int], None] | None = None,
) -> Steering | None:
    """Find state and coefficients that flip the model's behaviour.

    The direction is a difference of means over the fit rows. Up to five middle states are screened on fit
    prompts; at the best one, the smallest coefficient that flips 90 % is looked for on the development rows, in each
    way.

    Args:
        states_at_end: (n, S, d), states at t_post.
        states: the S state numbers.
        refused, harmful: (n,) of bool.
        development: indices of rows held out from the direction.

    Returns:
        None where the fit rows hold no refused or no answered prompt.
    """
    mask = np.zeros(len(prompts), dtype=bool)
    mask[development] = True
    if not (refused & ~mask).any() or (refused | mask).all():
        return None
    trial = _Trial(model, prompts, judge, reply_tokens, advance or (lambda amount: None))
    answered_fit, _ = _pick(~refused & ~mask, harmful, prefer=True)
    refused_fit, _ = _pick(refused & ~mask, harmful, prefer=False, only=True)
    directions = {
        state: _direction(states_at_end[:, list(states).index(state)], refused, harmful, ~mask)
        for state in _middle(model.layers, states)
    }
    state = trial.best_state(directions, answered_fit[:_SCREENING_PROMPTS], refused_fit[:_SCREENING_PROMPTS])
    direction = directions[state]
    rows, kind = _pick(~refused & mask, harmful, prefer=True)
    refuse = trial.search(rows[:_PROMPTS], direction, state, f"answered {kind}", to_refusal=True)
    rows, kind = _pick(refused & mask, harmful, prefer=False, only=True)
    release = trial.search(rows[:_PROMPTS], direction, state, f"refused {kind}", to_refusal=False)
    if release.prompts == 0:
        release = replace(release, coefficient=refuse.coefficient)
    return Steering(state, direction.astype(np.float32), refuse, release)


class _Trial:
    """Generates under a steering edit and counts flips."""

    def __init__(
        self,
        model: ChatModel,
        prompts: Sequence[Prompt],
        judge: RefusalJudge | None,
        reply_tokens: int,
        advance: Callable[[int], None],
    ) -> None:
        from undertow.measure.judge import SubstringJudge

        self.model, self.prompts, self.reply_tokens, self.advance = model, prompts, reply_tokens, advance
        self.judge = judge or SubstringJudge()

    def flip(self, rows: Array, direction: Array, coefficient: float, state: int, *, to_refusal: bool) -> float:
        """Share of the prompts that end up refused (or answered) under the edit."""
        from undertow.model import Add

        with self.model.edit(Add(_tensor(direction), coefficient, state=state, span="tail")):
            replies = self.model.generate(
                [self.prompts[row] for row in rows], max_new_tokens=self.reply_tokens, progress=False
            )
        self.advance(1)
        return float(np.mean([refused is to_refusal for refused in self.judge.refused(replies)]))

    def best_state(self, directions: Mapping[int, Array], answered: Array, refused: Array) -> int:
        """The state where most prompts flip, at the first coefficient that flips a quarter of them anywhere."""
        shares: dict[int, float] = {}
        for coefficient in _SCREENING_COEFFICIENTS:
            for state, direction in directions.items():
                flips = [self.flip(answered, direction, coefficient, state, to_refusal=True)]
                if len(refused):
                    flips.append(self.flip(refused, direction, -coefficient, state, to_refusal=False))
                shares[state] = float(np.mean(flips))
            if max(shares.values()) >= _TELLING:
                break
        return max(shares, key=lambda state: (shares[state], -state))

    def search(self, rows: Array, direction: Array, state: int, kind: str, *, to_refusal: bool) -> Strength:
        """The smallest coefficient that flips 90 % of the rows, else the one that flips most."""
        if len(rows) < _LEAST:
            return Strength(_UNTRIED, 0, 0, kind)
        tried: list[tuple[float, float]] = []
        for coefficient in COEFFICIENTS:
            signed = coefficient if to_refusal else -coefficient
            tried.append((coefficient, self.flip(rows, direction, signed, state, to_refusal=to_refusal)))
            if tried[-1][1] >= _WANTED:
                break
        chosen, share = max(tried, key=lambda attempt: (attempt[1], -attempt[0]))
        return Strength(chosen, round(share * len(rows)), len(rows), kind, tuple(tried))


def _direction(values: Array, refused: Array, harmful: Array, rows: Array) -> Array:
    """Refused minus answered; where both sides hold harmful and harmless prompts, the mean over the two kinds."""
    cells = [(refused & kind & rows, ~refused & kind & rows) for kind in (harmful, ~harmful)]
    differences = [
        values[on].mean(axis=0, dtype=np.float64) - values[off].mean(axis=0, dtype=np.float64)
        for on, off in cells
        if on.sum() >= _LEAST and off.sum() >= _LEAST
    ]
    if differences:
        return np.asarray(np.mean(differences, axis=0))
    on, off = refused & rows, ~refused & rows
    return np.asarray(values[on].mean(axis=0, dtype=np.float64) - values[off].mean(axis=0, dtype=np.float64))


def _pick(rows: Array, harmful: Array, *, prefer: bool, only: bool = False) -> tuple[Array, str]:
    """Indices of the wanted rows, of the preferred class where there are enough of it."""
    preferred = np.flatnonzero(rows & (harmful == prefer))
    names = {True: "harmful prompts", False: "harmless prompts"}
    if only or len(preferred) >= 2 * _LEAST:
        return preferred, names[prefer]
    return np.flatnonzero(rows & (harmful != prefer)), names[not prefer]


def _middle(layers: int, states: Sequence[int]) -> list[int]:
    wanted = {min(max(1, round(layers * share)), max(1, layers - 1)) for share in (0.3, 0.4, 0.5, 0.6, 0.7)}
    return sorted(wanted & set(states)) or [sorted(states)[len(states) // 2]]


def _tensor(direction: Array) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(direction, dtype=np.float32))


def _plain(strength: Strength) -> dict[str, Any]:
    return asdict(strength) | {"tried": [list(attempt) for attempt in strength.tried], "verified": strength.verified}


def _strength(values: Mapping[str, Any]) -> Strength:
    tried = tuple((float(coefficient), float(share)) for coefficient, share in values["tried"])
    return Strength(
        float(values["coefficient"]), int(values["flipped"]), int(values["prompts"]), str(values["kind"]), tried
    )
