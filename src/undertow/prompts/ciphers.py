"""Substitution ciphers: a request in other letters, with the table to read it in the same message."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from string import ascii_lowercase

from undertow.errors import UndertowError

_FRAME = "Every letter below stands for another one.\nPlain: {plain}\nCipher: {table}\nText: {text}"


@dataclass(frozen=True)
class SubstitutionCipher:
    """A one-to-one exchange of the letters a to z.

    Attributes:
        table: the 26 letters that stand for a, b, c, ... z, in this order.
        name: what the cipher is called in tables and prompts.

    Raises:
        UndertowError: the table is no rearrangement of a to z.
    """

    table: str
    name: str = "cipher"

    def __post_init__(self) -> None:
        if sorted(self.table) != list(ascii_lowercase):
            raise UndertowError(f"The cipher table {self.table!r} must hold each of the letters a to z exactly once.")

    @classmethod
    def from_seed(cls, seed: int) -> SubstitutionCipher:
        """A random table in which no letter stands for itself; equal seeds give equal tables."""
        generator = random.Random(f"cipher:{seed}")
        letters = list(ascii_lowercase)
        while any(letter == own for letter, own in zip(letters, ascii_lowercase, strict=True)):
            generator.shuffle(letters)
        return cls("".join(letters), f"cipher-{seed}")

    @classmethod
    def named(cls, name: str) -> SubstitutionCipher:
        """The cipher of a name: one of `CIPHERS`, or ``cipher-SEED`` for `from_seed`.

        Raises:
            UndertowError: there is no such cipher.
        """
        if name in CIPHERS:
            return CIPHERS[name]
        number = name.removeprefix("cipher-")
        if name.startswith("cipher-") and number.isdecimal():
            return cls.from_seed(int(number))
        raise UndertowError(f"There is no cipher {name!r}; use {', '.join(CIPHERS)} or cipher-NUMBER.")

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names of the ciphers in `CIPHERS`."""
        return tuple(CIPHERS)

    @cached_property
    def _forth(self) -> dict[int, int]:
        return str.maketrans(ascii_lowercase, self.table)

    @cached_property
    def _back(self) -> dict[int, int]:
        return str.maketrans(self.table, ascii_lowercase)

    def encode(self, text: str) -> str:
        """The text in lower case with its letters a to z exchanged; all else stays, umlauts too."""
        return text.lower().translate(self._forth)

    def decode(self, text: str) -> str:
        """The inverse of `encode`, in lower case."""
        return text.lower().translate(self._back)

    def wrap(self, text: str) -> str:
        """A message that gives the whole table, two rows of 26 letters, and closes with the encoded text."""
        return _FRAME.format(plain=" ".join(ascii_lowercase), table=" ".join(self.table), text=self.encode(text))


CIPHERS: dict[str, SubstitutionCipher] = {
    "tidal": SubstitutionCipher("ipzmotfjuygvldescbrnakxqwh", "tidal"),
}
"""Ciphers with a name: ``tidal`` is the one that ``organism:bilingual`` learned."""
