"""The prompts that a guard is fitted on: read, checked, labelled, split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from undertow.errors import GuardError
from undertow.guard.rules.base import Array
from undertow.guard.selection import BARE
from undertow.prompts import Prompt, PromptSet, as_prompts

LEAST_PROMPTS = 10
"""Fewest prompts of a class that a guard is fitted on."""


@dataclass(frozen=True)
class FitData:
    """Labelled prompts for one fit.

    Attributes:
        prompts: harmful ones first.
        labels: (n,) of bool, True for harmful.
        notes: what was left out, in sentences.
    """

    prompts: tuple[Prompt, ...]
    labels: Array
    notes: tuple[str, ...] = ()

    def keep(self, rows: Sequence[int], note: str) -> FitData:
        """The same data with only these rows."""
        return FitData(tuple(self.prompts[row] for row in rows), self.labels[list(rows)], (*self.notes, note))

    @property
    def families(self) -> list[str]:
        """Wrapper family or style of every prompt, "bare" where it has neither."""
        return [prompt.wrapper or prompt.style or BARE for prompt in self.prompts]

    @property
    def groupings(self) -> dict[str, list[str]]:
        """What `undertow.guard.selection.choose` may hold out."""
        found = {}
        if sum(prompt.category is not None for prompt in self.prompts) * 2 > len(self.prompts):
            found["category"] = [prompt.category or "none" for prompt in self.prompts]
        if len(set(self.families)) > 1:
            found["family"] = self.families
        return found

    @property
    def sha256(self) -> dict[str, str]:
        """Hash of the texts and labels of each class, independent of their order."""
        return {
            name: _hash(prompt for prompt, label in zip(self.prompts, self.labels, strict=True) if bool(label) is side)
            for name, side in (("harmful", True), ("harmless", False))
        }


def gather(harmful: Any, harmless: Any) -> FitData:
    """Read and check both classes.

    Args:
        harmful, harmless: a path of a prompt file or a Hub dataset id; a PromptSet; or a sequence of texts, Prompts or
            conversations. Exact repetitions within a class are dropped.

    Raises:
        GuardError: a prompt stands in both classes, a label contradicts the class, or a class has fewer than 10
            prompts.
        PromptFileError: a file cannot be read.
    """
    sides = {"harmful": _side(harmful, True), "harmless": _side(harmless, False)}
    notes = []
    kept: dict[str, list[Prompt]] = {}
    for name, prompts in sides.items():
        distinct = {_key(prompt): prompt for prompt in reversed(prompts)}
        kept[name] = list(reversed(distinct.values()))
        if len(distinct) < len(prompts):
            notes.append(f"{len(prompts) - len(distinct)} repeated {name} prompts were used once.")
    shared = {_key(prompt) for prompt in kept["harmful"]} & {_key(prompt) for prompt in kept["harmless"]}
    if shared:
        example = next(prompt for prompt in kept["harmless"] if _key(prompt) in shared)
        raise GuardError(
            f"{len(shared)} prompts are given as harmful and as harmless, the first being {example.text[:60]!r}; keep "
            "each in one of the two."
        )
    data = FitData(
        tuple(kept["harmful"] + kept["harmless"]),
        np.array([True] * len(kept["harmful"]) + [False] * len(kept["harmless"])),
        tuple(notes),
    )
    check_enough(data)
    return data


def check_enough(data: FitData) -> None:
    """Raise GuardError unless both classes have at least 10 prompts."""
    for name, side in (("harmful", True), ("harmless", False)):
        count = int((data.labels == side).sum())
        if count < LEAST_PROMPTS:
            raise GuardError(
                f"A guard needs at least {LEAST_PROMPTS} distinct {name} prompts, and there are {count}; about 50 of "
                "each class are a fair start."
            )


def strata_weights(strata: Sequence[Any]) -> Array:
    """Row weights (n,) under which a stratum of m rows weighs sqrt(m) in all, so that small ones are heard and none
    shouts."""
    names = [str(stratum) for stratum in strata]
    counts = {name: names.count(name) for name in set(names)}
    return np.array([counts[name] ** -0.5 for name in names])


def split(strata: Sequence[Any], fraction: float, seed: int) -> tuple[Array, Array]:
    """Indices of the rows to fit on and of those held out, `fraction` of every stratum.

    Args:
        strata: (n,) values; the first element of a tuple is the class, and each class keeps at least one row on both
            sides.
    """
    generator = np.random.default_rng(seed)
    by_stratum: dict[str, list[int]] = {}
    for row, stratum in enumerate(strata):
        by_stratum.setdefault(str(stratum), []).append(row)
    held_out: list[int] = []
    owed = 0.0
    for name in sorted(by_stratum):
        rows = generator.permutation(by_stratum[name])
        # What rounding withholds from one stratum is owed to the next, so that many small ones still give their share.
        owed += fraction * len(rows)
        taken = min(len(rows), int(owed + 0.5))
        owed -= taken
        held_out.extend(int(row) for row in rows[:taken])
    mask = np.zeros(len(strata), dtype=bool)
    mask[held_out] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _side(source: Any, harmful: bool) -> list[Prompt]:
    name = "harmful" if harmful else "harmless"
    if isinstance(source, str | Path):
        prompts: Iterable[Prompt] = PromptSet.read(source, harmful=harmful)
    else:
        prompts = as_prompts(source)
    found = []
    for prompt in prompts:
        if prompt.harmful is not None and prompt.harmful is not harmful:
            raise GuardError(
                f"The prompt {prompt.text[:60]!r} is labelled {'harmful' if prompt.harmful else 'harmless'}, yet was "
                f"given as {name}; pass prompts.{name}() of a labelled set."
            )
        found.append(replace(prompt, harmful=harmful))
    return found


def _key(prompt: Prompt) -> str:
    return json.dumps([[message["role"], message["content"].strip()] for message in prompt.messages])


def _hash(prompts: Iterable[Prompt]) -> str:
    return hashlib.sha256("\n".join(sorted(_key(prompt) for prompt in prompts)).encode()).hexdigest()
