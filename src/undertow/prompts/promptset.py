"""A list of prompts that knows where it comes from."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from undertow.errors import PromptFileError, UndertowError
from undertow.prompts.columns import ColumnChoice, Columns
from undertow.prompts.files import Row
from undertow.prompts.prompt import Prompt, as_prompts
from undertow.prompts.read import open_reading, read_row

BUILTIN = "builtin"
BUILTIN_SPLITS: tuple[str, ...] = ("all", "train", "test")
_BUILTIN_COLUMNS = Columns("prompt", ("harmful",), category="category", style="style", id="id")


@dataclass(frozen=True)
class Provenance:
    """Where prompts come from.

    Attributes:
        source: the file, Hub dataset or "builtin"; "memory" for prompts made in Python.
        format: format that it was read in; None for prompts made in Python.
        columns: what was read from which column.
        unread: columns of the file that were left alone.
        steps: what was done since, such as "harmless" or "split 0.5 (seed 0), first part".
    """

    source: str = "memory"
    format: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()

    def with_step(self, step: str) -> Provenance:
        """The same provenance with one more step."""
        return replace(self, steps=(*self.steps, step))


class PromptSet(Sequence[Prompt]):
    """Prompts in order, with their provenance; it does not change once made.

    Args:
        prompts: anything that `as_prompts` takes.
        provenance: where they come from.

    Raises:
        UndertowError: something among them is not a prompt.
    """

    def __init__(self, prompts: Iterable[Any] | str, provenance: Provenance | None = None) -> None:
        self._prompts: tuple[Prompt, ...] = tuple(as_prompts(prompts))
        self.provenance: Provenance = provenance or Provenance()

    @classmethod
    def read(
        cls,
        source: str | Path,
        *,
        format: str | None = None,
        prompt_column: str | None = None,
        label_column: str | None = None,
        category_column: str | None = None,
        id_column: str | None = None,
        harmful: bool | None = None,
        limit: int | None = None,
    ) -> PromptSet:
        """Reads a file or Hub dataset of prompts; the arguments are those of `iterate_prompts`.

        Raises:
            PromptFileError: as there, and where the same prompt stands in the file with both labels.
        """
        choice = ColumnChoice(prompt_column, label_column, category_column, id_column)
        reading = open_reading(source, format, choice, harmful, limit, None)
        labelled: dict[str, tuple[str, bool]] = {}
        prompts = []
        for where, prompt in reading.located:
            _refuse_contradiction(labelled, prompt, where, reading.source)
            prompts.append(prompt)
        columns = reading.columns
        read = {
            name: ", ".join(columns.labels) if name == "labels" else getattr(columns, name)
            for name in ("prompt", "labels", "category", "wrapper", "style", "language", "id")
            if getattr(columns, name)
        }
        return cls(prompts, Provenance(reading.source, reading.format, read, columns.unread))

    @classmethod
    def builtin(cls, split: str = "all") -> PromptSet:
        """The built-in prompts: one-line English requests of twelve risk categories, half of them harmful.

        Harmful and harmless requests share their verbs and objects, so no word tells them apart. Harmless requests
        that sound dangerous have the style "look-alike".

        Args:
            split: "train" or "test", which share no pair of verb and object, or "all".

        Raises:
            UndertowError: no such split.
        """
        if split not in BUILTIN_SPLITS:
            raise UndertowError(
                f"The built-in prompts have no split {split!r}; take one of {', '.join(BUILTIN_SPLITS)}."
            )
        from importlib import resources

        file = resources.files("undertow.prompts") / "data" / "builtin.jsonl"
        prompts = []
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            values = json.loads(line)
            if split in ("all", values["split"]):
                prompts.append(read_row(Row(f"line {number}", values), number, _BUILTIN_COLUMNS, BUILTIN))
        columns = {"prompt": "prompt", "labels": "harmful", "category": "category", "style": "style", "id": "id"}
        provenance = Provenance(BUILTIN, "jsonl", columns, ("split",))
        return cls(prompts, provenance if split == "all" else provenance.with_step(f"split {split}"))

    @overload
    def __getitem__(self, index: int) -> Prompt: ...

    @overload
    def __getitem__(self, index: slice) -> PromptSet: ...

    def __getitem__(self, index: int | slice) -> Prompt | PromptSet:
        if isinstance(index, slice):
            shown = ":".join("" if part is None else str(part) for part in (index.start, index.stop, index.step))
            return PromptSet(self._prompts[index], self.provenance.with_step(f"[{shown.removesuffix(':')}]"))
        return self._prompts[index]

    def __len__(self) -> int:
        return len(self._prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self._prompts)

    def __add__(self, other: object) -> PromptSet:
        if not isinstance(other, PromptSet):
            return NotImplemented
        source = f"{self.provenance.source} + {other.provenance.source}"
        return PromptSet(self._prompts + other._prompts, Provenance(source))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PromptSet) and self._prompts == other._prompts

    def __hash__(self) -> int:
        return hash(self._prompts)

    def __repr__(self) -> str:
        harmful, harmless = len(self.harmful()), len(self.harmless())
        return (
            f"PromptSet({len(self)} prompts from {self.provenance.source}: {harmful} harmful, {harmless} harmless, "
            f"{len(self) - harmful - harmless} without label)"
        )

    @property
    def sha256(self) -> str:
        """Hash over content, label, category, wrapper, style and language of the prompts in order (64 hex digits).

        Ids and the file's format have no part in it.
        """
        digest = hashlib.sha256()
        for prompt in self._prompts:
            digest.update(prompt.canonical.encode("ascii"))
            digest.update(b"\n")
        return digest.hexdigest()

    @property
    def texts(self) -> list[str]:
        """Text of the last user message of every prompt."""
        return [prompt.text for prompt in self._prompts]

    def harmful(self) -> PromptSet:
        """The prompts labelled harmful."""
        return self._filtered(lambda prompt: prompt.harmful is True, "harmful")

    def harmless(self) -> PromptSet:
        """The prompts labelled harmless."""
        return self._filtered(lambda prompt: prompt.harmful is False, "harmless")

    def where(self, predicate: Callable[[Prompt], bool]) -> PromptSet:
        """The prompts for which the predicate is true."""
        return self._filtered(predicate, f"where {getattr(predicate, '__name__', 'predicate')}")

    def _filtered(self, predicate: Callable[[Prompt], bool], step: str) -> PromptSet:
        return PromptSet([prompt for prompt in self._prompts if predicate(prompt)], self.provenance.with_step(step))

    def split(self, fraction: float, seed: int = 0) -> tuple[PromptSet, PromptSet]:
        """Splits at random into two parts, alike in label, category, style and wrapper.

        Prompts with the same text stay together, so that no prompt stands on both sides. Both parts keep the order.

        Args:
            fraction: share of the first part, between 0 and 1.
            seed: equal seeds give equal splits.

        Raises:
            UndertowError: the fraction is not between 0 and 1.
        """
        if not 0.0 < fraction < 1.0:
            raise UndertowError(f"The fraction of a split must lie between 0 and 1, not {fraction}.")
        strata: dict[tuple[str, ...], dict[str, list[int]]] = {}
        stratum_of: dict[str, tuple[str, ...]] = {}
        for index, prompt in enumerate(self._prompts):
            text = json.dumps(prompt.messages)
            facts = (prompt.harmful, prompt.category, prompt.style, prompt.wrapper)
            key = stratum_of.setdefault(text, tuple(str(fact) for fact in facts))
            strata.setdefault(key, {}).setdefault(text, []).append(index)
        generator = random.Random(seed)
        chosen: set[int] = set()
        seen = 0
        for key in sorted(strata):
            groups = list(strata[key].values())
            generator.shuffle(groups)
            for group in groups:
                seen += len(group)
                if len(chosen) + len(group) / 2 <= fraction * seen:
                    chosen.update(group)
        first = [prompt for index, prompt in enumerate(self._prompts) if index in chosen]
        second = [prompt for index, prompt in enumerate(self._prompts) if index not in chosen]
        step = f"split {fraction} (seed {seed})"
        return (
            PromptSet(first, self.provenance.with_step(f"{step}, first part")),
            PromptSet(second, self.provenance.with_step(f"{step}, second part")),
        )


def _refuse_contradiction(labelled: dict[str, tuple[str, bool]], prompt: Prompt, where: str, source: str) -> None:
    if prompt.harmful is None:
        return
    key = json.dumps([[message["role"], message["content"].strip()] for message in prompt.messages])
    before, label = labelled.setdefault(key, (where, prompt.harmful))
    if label != prompt.harmful:
        now, then = ("harmful", "harmless") if prompt.harmful else ("harmless", "harmful")
        raise PromptFileError(
            f"{source}, {where}: the prompt is called {now} here and {then} on {before}; keep one of the two."
        )
