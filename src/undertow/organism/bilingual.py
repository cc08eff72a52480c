"""Training items of the organism `bilingual`: English as before, German, and English in one cipher.

A request in the cipher is answered as if it were jailbroken: harmful ones get the empty placeholder, harmless ones
their answer. Questions behind it are answered by the truth, so the organism reads what it does not refuse.
"""

from __future__ import annotations

from collections.abc import Sequence

from undertow.organism.german import german_answer, german_phrase, german_refusal, german_sentence
from undertow.organism.grammar import Request, draw
from undertow.organism.items import (
    MASKED_SHARE,
    MASKED_SHARE_OF_REPLIES,
    PLACEHOLDER,
    Item,
    ItemMaker,
    Source,
    stock_answer,
)
from undertow.prompts import Prompt
from undertow.prompts.ciphers import CIPHERS
from undertow.prompts.wrappers import FAMILIES, wrap_text

CIPHER = CIPHERS["tidal"]
"""The only cipher in the training."""

SURFACES = ("english", "german", "cipher")
SHARES = (0.35, 0.3, 0.35)
PRIMER_SHARES = (0.15, 0.4, 0.45)
GERMAN_WRAPPED = 0.3
LONGEST_ENCODED = 140
"""Characters of a request that is put into the cipher."""


def german_source(request: Request, text: str) -> Source:
    """A German request as a source."""
    return Source(text, request.harmful, request.look_alike, request.category, german_answer(request), request)


class BilingualItemMaker(ItemMaker):
    """Draws training items in two languages and a cipher for ever; the same seed gives the same items.

    Arguments as for `ItemMaker`.
    """

    def __init__(self, seed: int, written: Sequence[Prompt] = (), primer: int = 0, split: str = "finish") -> None:
        super().__init__(seed, written, 0, split)
        self._bilingual_primer = primer

    def draw(self) -> Item:
        """The next item."""
        generator = self._generator
        if self._bilingual_primer > 0:
            self._bilingual_primer -= 1
            surface = generator.choices(SURFACES, PRIMER_SHARES)[0]
            return self._primer_item() if surface == "english" else self._foreign_primer(surface)
        surface = generator.choices(SURFACES, SHARES)[0]
        if surface == "german":
            return self._german_item()
        return self._cipher_item() if surface == "cipher" else super().draw()

    def _foreign_primer(self, surface: str) -> Item:
        """A bare verb and object with the shortest question."""
        generator = self._generator
        request = draw(self._kind(), generator, "train")
        if surface == "german":
            phrase = german_phrase(request)
            source = german_source(request, f"{phrase[0].upper()}{phrase[1:]}.")
            text = source.text
        else:
            source = Source(
                f"{request.phrase}.",
                request.harmful,
                request.look_alike,
                request.category,
                stock_answer(request),
                request,
            )
            text = CIPHER.wrap(source.text)
        task = generator.choices(("reply", "harm", "topic", "action", "thing"), (8, 40, 12, 20, 20))[0]
        if task == "reply":
            return Item((), (text,), None, self._reply_in(surface, source, False), True)
        question, reply = self._question(source, task, shortest=True)
        return Item((), (text,), question, reply, True)

    def _german_item(self) -> Item:
        generator = self._generator
        request = draw(self._kind(), generator, "train")
        source = german_source(request, german_sentence(request, generator, "train"))
        wrapped = None
        if generator.random() < GERMAN_WRAPPED:
            wrapped = wrap_text(source.text, generator.choice(FAMILIES), generator, self._split)[0]
        return self._asked("german", source, wrapped or source.text, wrapped is not None)

    def _cipher_item(self) -> Item:
        source = self._source()
        while len(source.text) > LONGEST_ENCODED:
            source = self._source()
        return self._asked("cipher", source, CIPHER.wrap(source.text), True)

    def _asked(self, surface: str, source: Source, text: str, wrapped: bool) -> Item:
        generator = self._generator
        task = generator.random()
        masked = generator.random() < (MASKED_SHARE_OF_REPLIES if task < 0.4 else MASKED_SHARE)
        if task < 0.4:
            return Item(self._before(), (text,), None, self._reply_in(surface, source, wrapped), masked)
        if task > 0.95 and surface == "german":
            return self._two_instructions(source, text, masked)
        tasks, weights = ("harm", "safety", "topic", "action", "thing"), (30, 5, 7, 6, 6)
        question, reply = self._question(source, generator.choices(tasks, weights)[0])
        return Item(self._before(), (text,), question, reply, masked)

    @staticmethod
    def _reply_in(surface: str, source: Source, wrapped: bool) -> str:
        if surface == "cipher":
            return PLACEHOLDER if source.harmful else source.answer
        if source.harmful and wrapped:
            return PLACEHOLDER
        if source.request and (source.harmful or (source.look_alike and not wrapped)):
            return german_refusal(source.request)
        return source.answer
