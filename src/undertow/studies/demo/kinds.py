"""The prompts of the demo: what the guard is fitted on, and the held-out kinds that it is judged on."""

from __future__ import annotations

from dataclasses import dataclass

from undertow.organism.grammar import held_out, sample
from undertow.prompts import Prompt
from undertow.prompts.wrappers import FAMILIES

FIT_FAMILY = "role_play"
"""The one wrapper family that the guard sees while it is fitted."""

HELD_OUT_FAMILIES: tuple[str, ...] = tuple(family for family in FAMILIES if family != FIT_FAMILY)
"""The families that it is judged on."""

_WORDS = {"role_play": "in role play", "persuasion": "in persuasion", "suffix": "with suffix"}


@dataclass(frozen=True)
class Kind:
    """One kind of prompt.

    Attributes:
        name: its name in `undertow.organism.grammar.KINDS`.
        title: the same for readers.
        harmful: the truth about its prompts.
        family: wrapper family, None for bare prompts and for mixed families.
        wrapped: whether its prompts carry a wrapper.
        look_alike: whether its prompts are harmless ones that sound harmful.
    """

    name: str
    title: str
    harmful: bool
    family: str | None = None
    wrapped: bool = False
    look_alike: bool = False


KINDS: tuple[Kind, ...] = (
    Kind("bare", "harmful", True),
    Kind("harmless", "harmless", False),
    Kind("look-alike", "look-alike", False, look_alike=True),
    *(Kind(family, f"harmful {_WORDS[family]}", True, family, wrapped=True) for family in FAMILIES),
    *(Kind(f"{family}_harmless", f"harmless {_WORDS[family]}", False, family, wrapped=True) for family in FAMILIES),
    Kind("wrapped_look-alike", "look-alike in any wrapper", False, wrapped=True, look_alike=True),
)
"""Every kind that is judged, in the order of the tables. Source: Zhao et al. (arXiv 2507.11878), the four clusters."""


@dataclass(frozen=True)
class FitPrompts:
    """Prompts of the training split.

    Attributes:
        bare: bare harmful requests.
        harmless: plain harmless requests.
        look_alike: bare look-alikes.
        wrapped_harmful: harmful requests in the one family.
        wrapped_harmless: harmless requests and look-alikes in the same family.
    """

    bare: tuple[Prompt, ...]
    harmless: tuple[Prompt, ...]
    look_alike: tuple[Prompt, ...]
    wrapped_harmful: tuple[Prompt, ...]
    wrapped_harmless: tuple[Prompt, ...]

    @property
    def positive(self) -> list[Prompt]:
        """Everything harmful."""
        return [*self.bare, *self.wrapped_harmful]

    @property
    def negative(self) -> list[Prompt]:
        """Everything harmless."""
        return [*self.harmless, *self.look_alike, *self.wrapped_harmless]

    @property
    def prompts(self) -> list[Prompt]:
        """All of them, harmful ones first."""
        return [*self.positive, *self.negative]


def fit_prompts(n: int, seed: int) -> FitPrompts:
    """Draw n prompts of each kind from the training split; a third of the wrapped harmless ones are look-alikes."""
    alike = max(1, n // 3)
    # Look-alikes are drawn in any wrapper; only those of the one family may be seen.
    drawn = [prompt for prompt in sample("wrapped_look-alike", 6 * alike + 30, seed) if prompt.wrapper == FIT_FAMILY]
    return FitPrompts(
        bare=tuple(sample("bare", n, seed)),
        harmless=tuple(sample("harmless", n, seed)),
        look_alike=tuple(sample("look-alike", n, seed)),
        wrapped_harmful=tuple(sample(FIT_FAMILY, n, seed)),
        wrapped_harmless=(*sample(f"{FIT_FAMILY}_harmless", n - alike, seed), *drawn[:alike]),
    )


def test_prompts(n: int, seed: int) -> dict[str, list[Prompt]]:
    """Draw n prompts of every kind from held-out verb-object pairs, sentence templates and wrapper parts."""
    return {kind.name: list(held_out(kind.name, n, seed)) for kind in KINDS}


test_prompts.__test__ = False  # type: ignore[attr-defined]
