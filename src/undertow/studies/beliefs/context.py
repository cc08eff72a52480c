"""What every part of the study works on: the model, and the fit and test prompts with replies and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from undertow.measure.observed import Observed
from undertow.studies.beliefs.result import FOUR_KINDS, Array

if TYPE_CHECKING:
    from undertow.measure.judge import FirstTokenJudge, RefusalJudge
    from undertow.model import ChatModel
    from undertow.prompts import Prompt

BARE = ""


@dataclass(frozen=True)
class Panel:
    """Prompts of known harm with what the model did with them.

    Attributes:
        observed: n prompts, replies, refusals and states.
        bare: (n,) row of the same request without its wrapper, -1 where it is bare itself or unknown.
    """

    observed: Observed
    bare: Array = field(repr=False)

    @property
    def prompts(self) -> list[Prompt]:
        """The n prompts."""
        return self.observed.prompts

    @property
    def refused(self) -> Array:
        """(n,) of bool: what the model did, by the study's judge."""
        return self.observed.refused

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def harmful(self) -> Array:
        """(n,) of bool: the truth."""
        return np.array([bool(prompt.harmful) for prompt in self.prompts], dtype=bool)

    @cached_property
    def family(self) -> Array:
        """(n,) wrapper family, "" for bare prompts."""
        return np.array([prompt.wrapper or BARE for prompt in self.prompts], dtype=object)

    @cached_property
    def look_alike(self) -> Array:
        """(n,) of bool: harmless prompts that sound harmful, where known."""
        return np.array([prompt.style == "look-alike" for prompt in self.prompts], dtype=bool)

    @property
    def families(self) -> tuple[str, ...]:
        """Wrapper families, in order of first mention."""
        return tuple(dict.fromkeys(str(name) for name in self.family if name != BARE))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """(n,) title of each prompt's group: `harmful`, `harmless`, `look-alike`, `FAMILY, harmful`, ..."""
        found = []
        for harmful, alike, family in zip(self.harmful, self.look_alike, self.family, strict=True):
            kind = "harmful" if harmful else "look-alike" if alike else "harmless"
            found.append(kind if family == BARE else f"{str(family).replace('_', ' ')}, {kind}")
        return tuple(found)

    def rows(
        self,
        *,
        harmful: bool | None = None,
        refused: bool | None = None,
        family: str | None = None,
        wrapped: bool | None = None,
        look_alike: bool | None = None,
    ) -> Array:
        """Row indices of the prompts of that description; None leaves a property open, family "" means bare."""
        chosen = np.ones(len(self), dtype=bool)
        for values, wanted in (
            (self.harmful, harmful),
            (self.refused, refused),
            (self.family, family),
            (self.family != BARE, wrapped),
            (self.look_alike, look_alike),
        ):
            if wanted is not None:
                chosen &= values == wanted
        return np.flatnonzero(chosen)

    def kind(self, name: str) -> Array:
        """Row indices of one of the four kinds."""
        harmful, refused = next((harmful, refused) for kind, harmful, refused in FOUR_KINDS if kind == name)
        return self.rows(harmful=harmful, refused=refused)

    def states(self, position: str, rows: Array | Sequence[int] | None = None) -> Array:
        """(n or rows, L + 1, d) float32 at "t_inst" or "t_post"."""
        values = self.observed.states[position]
        return values if rows is None else values[rows]


@dataclass(frozen=True)
class Context:
    """Everything that a part is given.

    Attributes:
        chat: the model.
        fit: prompts that directions, centroids and rules come from, and on which anything is chosen.
        test: prompts that figures are made of; they share no request with `fit`.
        judge: the study's judge of refusals.
        openings: first tokens of this model's refusals and answers, learnt on `fit`; None where they do not differ.
        seed: of everything random.
        reply_tokens: tokens of a judged reply.
        most: most prompts of a kind in a part that runs the model once a condition (sweeps).
        progress: whether bars are shown on standard error.
    """

    chat: ChatModel
    fit: Panel
    test: Panel
    judge: RefusalJudge
    openings: FirstTokenJudge | None
    seed: int = 0
    reply_tokens: int = 16
    most: int = 48
    progress: bool = True

    @property
    def states(self) -> tuple[int, ...]:
        """0..L."""
        return tuple(range(self.chat.layers + 1))


def evenly(rows: Array, most: int) -> Array:
    """At most so many of the rows, spread over all of them: prompts of one category often stand together."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
