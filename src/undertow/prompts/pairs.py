"""Matched pairs: a sensitive prompt and a control of the same form (arXiv 2604.04385, matched corpora)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from undertow.errors import PromptFileError
from undertow.prompts.files import Row, open_table
from undertow.prompts.prompt import Prompt

_SIDES = ("sensitive", "control")
_WORDS = ("topic", "language", "id")


@dataclass(frozen=True)
class Pair:
    """A sensitive prompt and its control.

    Attributes:
        sensitive: the prompt that ought to be refused; its `harmful` is True.
        control: a prompt of the same form that ought to be answered; its `harmful` is False.
        topic: what both are about, or None.
        language: the language of both, such as ``en``.
        id: name of the pair in tables.
    """

    sensitive: Prompt
    control: Prompt
    topic: str | None = None
    language: str = "en"
    id: str = ""

    def wrapped(self, wrap: Callable[[str], str], wrapper: str) -> Pair:
        """The pair with both texts rewritten, such as into a cipher; the wrapper's name stands in the prompts."""
        return replace(
            self,
            sensitive=replace(self.sensitive, content=wrap(self.sensitive.text), wrapper=wrapper),
            control=replace(self.control, content=wrap(self.control.text), wrapper=wrapper),
        )


class PairSet(Sequence[Pair]):
    """Pairs in order; it does not change once made.

    Args:
        pairs: the pairs.
        source: where they come from: a file, or a name such as ``organism:aligned``.
    """

    def __init__(self, pairs: Iterable[Pair], source: str = "memory") -> None:
        self._pairs = tuple(pairs)
        self.source = source

    @classmethod
    def read(cls, path: str | Path, *, format: str | None = None) -> PairSet:
        """Reads a CSV, TSV, JSONL, JSON or Parquet file with the columns sensitive and control.

        The columns topic, language and id are read where they are there; other columns are left alone.

        Args:
            path: the file.
            format: its format, where the name does not say it.

        Raises:
            PromptFileError: the file cannot be read, lacks a column, or a row is empty, has equal sides or twins.
        """
        table = open_table(Path(path), format, {*_SIDES, *_WORDS})
        if table.format == "text":
            raise PromptFileError(f"{table.source}: plain text holds no pairs; use CSV or JSONL with {_columns()}.")
        found: list[Pair] = []
        seen: dict[tuple[str, str], str] = {}
        for number, row in enumerate(table.rows, start=1):
            pair = _read_pair(row, number, table.source)
            key = (pair.sensitive.text, pair.control.text)
            if key in seen:
                raise PromptFileError(f"{table.source}, {row.where}: the same pair stands on {seen[key]}; keep one.")
            seen[key] = row.where
            found.append(pair)
        if not found:
            raise PromptFileError(f"{table.source} holds no pair.")
        return cls(found, table.source)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> PairSet: ...

    def __getitem__(self, index: int | slice) -> Pair | PairSet:
        if isinstance(index, slice):
            return PairSet(self._pairs[index], self.source)
        return self._pairs[index]

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def __add__(self, other: object) -> PairSet:
        if not isinstance(other, PairSet):
            return NotImplemented
        return PairSet((*self._pairs, *other), self.source)

    def __repr__(self) -> str:
        return f"PairSet({len(self)} pairs from {self.source})"

    @property
    def sensitive(self) -> list[Prompt]:
        """The sensitive prompts."""
        return [pair.sensitive for pair in self._pairs]

    @property
    def controls(self) -> list[Prompt]:
        """The controls."""
        return [pair.control for pair in self._pairs]

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics, in order of first mention."""
        return tuple(dict.fromkeys(pair.topic for pair in self._pairs if pair.topic is not None))

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages, in order of first mention."""
        return tuple(dict.fromkeys(pair.language for pair in self._pairs))

    def where(self, predicate: Callable[[Pair], bool]) -> PairSet:
        """The pairs of which something is true."""
        return PairSet(filter(predicate, self._pairs), self.source)

    def split(self, fraction: float, seed: int = 0) -> tuple[PairSet, PairSet]:
        """Two parts, drawn at random within each topic and language; pairs that share a text stay together.

        Args:
            fraction: share of the first part.
            seed: equal seeds give equal splits.

        Raises:
            PromptFileError: a part would be empty.
        """
        groups = self._linked()
        generator = random.Random(seed)
        generator.shuffle(groups)
        groups.sort(key=lambda group: (self._pairs[group[0]].language, str(self._pairs[group[0]].topic)))
        first: set[int] = set()
        seen = 0
        for group in groups:
            seen += len(group)
            if len(first) + len(group) / 2 <= fraction * seen:
                first.update(group)
        if not first or len(first) == len(self._pairs):
            raise PromptFileError(
                f"{len(self)} pairs cannot be split into a part to choose on and a part to report on: give more pairs "
                "with different prompts."
            )
        return (
            PairSet((pair for index, pair in enumerate(self._pairs) if index in first), self.source),
            PairSet((pair for index, pair in enumerate(self._pairs) if index not in first), self.source),
        )

    def _linked(self) -> list[list[int]]:
        """Rows in groups that share no text with each other."""
        group_of: dict[str, list[int]] = {}
        for index, pair in enumerate(self._pairs):
            texts = (pair.sensitive.text, pair.control.text)
            touched = {id(group): group for text in texts if (group := group_of.get(text)) is not None}
            merged = sorted({index, *(row for group in touched.values() for row in group)})
            for row in merged:
                group_of[self._pairs[row].sensitive.text] = merged
                group_of[self._pairs[row].control.text] = merged
        return list({id(group): group for group in group_of.values()}.values())


def _columns() -> str:
    return "the columns sensitive and control"


def _read_pair(row: Row, number: int, source: str) -> Pair:
    place = f"{source}, {row.where}"
    values: dict[str, Any] = {str(name).strip().lower(): value for name, value in row.values.items()}
    texts = []
    for side in _SIDES:
        if side not in values:
            raise PromptFileError(f"{place}: there is no column {side!r}; a file of pairs has {_columns()}.")
        text = values[side]
        if not isinstance(text, str) or not text.strip():
            raise PromptFileError(f"{place}: the prompt in column {side!r} is empty or no text.")
        texts.append(text)
    if texts[0].strip() == texts[1].strip():
        raise PromptFileError(f"{place}: both sides of the pair are the same text.")
    topic, language, name = (
        str(values[word]).strip() if values.get(word) not in (None, "") else None for word in _WORDS
    )
    language, name = language or "en", name or str(number)
    sensitive, control = (
        Prompt(text, harmful=harmful, category=topic, language=language, id=f"{name}, {side}")
        for text, harmful, side in zip(texts, (True, False), _SIDES, strict=True)
    )
    return Pair(sensitive, control, topic, language, name)
