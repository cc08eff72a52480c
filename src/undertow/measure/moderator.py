"""Outside guards: other models that judge whether a prompt is harmful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from undertow.errors import PositionError, UndertowError
from undertow.measure.classifier_judge import parted
from undertow.measure.text_classifier import HARM_LABELS, TextClassifier
from undertow.prompts import Prompt, as_prompts

if TYPE_CHECKING:
    import torch

    from undertow.model import ChatModel

Array = npt.NDArray[np.float64]

FORMS = "llama-guard:ID, classifier:ID or classifier:ID#LABEL"

_PROBE = "Hello."
_LONGEST_LEAD = 3
_LEAST_MASS = 0.5


class ModeratorError(UndertowError):
    """An outside guard cannot be set up or applied as asked."""


@runtime_checkable
class Moderator(Protocol):
    """Anything that judges prompts: the higher the score, the more harmful; flagged from 0 on."""

    @property
    def name(self) -> str:
        """Name in tables and reports."""
        ...

    def score(self, prompts: Sequence[Prompt]) -> Array:
        """Return (n,) float64; a prompt is flagged iff its score is at or above 0."""
        ...


@dataclass(frozen=True)
class TextClassificationModerator:
    """A text classifier that reads the last user message; the score is the log-odds of its label of harm.

    Attributes:
        classifier: the classifier and its label.
    """

    classifier: TextClassifier

    @classmethod
    def load(
        cls, checkpoint: str, *, label: str | None = None, device: str | torch.device | None = None
    ) -> TextClassificationModerator:
        """Open a checkpoint.

        Raises:
            ModelError: it cannot be loaded, or which label means harm is not certain.
        """
        return cls(TextClassifier.load(checkpoint, label=label, usual=HARM_LABELS, device=device))

    @property
    def name(self) -> str:
        """Name in tables and reports."""
        return f"classifier:{self.classifier.name}#{self.classifier.label}"

    @property
    def note(self) -> str:
        """What it reads, in words."""
        if self.classifier.longest is None:
            return "reads the last user message"
        return f"reads the last user message, of which {self.classifier.longest} tokens at most"

    def score(self, prompts: Sequence[Prompt]) -> Array:
        """Return the log-odds of harm, (n,) float64, in nats.

        Raises:
            ModelError: see `TextClassifier.scores`.
        """
        return self.classifier.scores([prompt.text for prompt in as_prompts(prompts)])


@dataclass(frozen=True)
class GenerativeModerator:
    """A chat model trained to reply "safe" or "unsafe" to a conversation in its own chat template, as Llama Guard is.

    score = log P(first token of "unsafe") - log P(first token of "safe") where the verdict stands, in nats: at the
    prompt's end, or behind the blank tokens that the model puts there itself. Those are found once, by greedy decoding
    for a harmless greeting, and then given to it with every prompt. One forward pass a prompt, nothing is generated.

    Attributes:
        chat: the guard model.
        harmful, harmless: its two verdicts.

    Raises:
        ModeratorError: the model does not open its reply to the greeting with one of its verdicts, or both begin with
            the same token.
    """

    chat: ChatModel
    harmful: str = "unsafe"
    harmless: str = "safe"

    @classmethod
    def load(cls, checkpoint: str) -> GenerativeModerator:
        """Open a guard model.

        Raises:
            ModelError, CoverageError, PositionError: see `undertow.model.load`.
        """
        from undertow.model import load

        return cls(load(checkpoint))

    @property
    def name(self) -> str:
        """Name in tables and reports."""
        return f"llama-guard:{self.chat.name}"

    @property
    def note(self) -> str:
        """What it reads, in words."""
        return f"the odds of its reply '{self.harmful}' against '{self.harmless}', in its own chat template"

    @cached_property
    def tokens(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First tokens of both verdicts, with and without a blank before."""
        harmful, harmless = (self._opening(word) for word in (self.harmful, self.harmless))
        if not harmful or not harmless or harmful & harmless:
            raise ModeratorError(
                f"No first token tells '{self.harmful}' from '{self.harmless}' in the vocabulary of {self.chat.name}."
            )
        return tuple(sorted(harmful)), tuple(sorted(harmless))

    @cached_property
    def lead(self) -> tuple[int, ...]:
        """Blank tokens that the model writes before its verdict."""
        found: list[int] = []
        harmful, harmless = self.tokens
        ids = self.chat.renderer.render_many([Prompt(_PROBE)])[0].ids
        for _ in range(_LONGEST_LEAD + 1):
            row = self._log_probabilities([[*ids, *found]])[0].exp()
            mass = float(row[[*harmful, *harmless]].sum())
            if mass >= _LEAST_MASS:
                return tuple(found)
            likeliest = int(row.argmax())
            if likeliest in self.chat.stop_ids or self.chat.tokenizer.decode([likeliest]).strip():
                break
            found.append(likeliest)
        raise ModeratorError(
            f"{self.chat.name} does not open its reply with '{self.harmful}' or '{self.harmless}' ({mass:.0%} of the "
            "probability), so it is no guard model of this kind: use one that does, or classifier:ID."
        )

    def check(self) -> None:
        """Refuse a model that is no guard now, not after minutes of study; raises ModeratorError."""
        _ = self.lead

    def token_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """What the model is given for every prompt.

        Raises:
            PositionError: its template rewrites a prompt, or one is longer than its context.
        """
        sequences = [[*item.ids, *self.lead] for item in self.chat.renderer.render_many(as_prompts(prompts))]
        longest = max((len(ids) for ids in sequences), default=0)
        if self.chat.context is not None and longest > self.chat.context:
            raise PositionError(f"A prompt of {longest} tokens is longer than the context of {self.chat.name}.")
        return sequences

    def score(self, prompts: Sequence[Prompt]) -> Array:
        """Return the log-odds of the harmful verdict, (n,) float64, in nats.

        Raises:
            PositionError: see `token_ids`.
            ModelError: a prompt does not fit in memory, or the logits are not numbers.
        """
        if not len(prompts):
            return np.zeros(0)
        harmful, harmless = self.tokens
        values = self._log_probabilities(self.token_ids(prompts)).double()
        odds = values[:, list(harmful)].logsumexp(1) - values[:, list(harmless)].logsumexp(1)
        return np.asarray(odds.numpy())

    def _log_probabilities(self, sequences: Sequence[list[int]]) -> torch.Tensor:
        """Next-token log-probabilities (n, vocabulary) behind every sequence, float32, CPU."""
        import torch

        from undertow.model.batching import run_batches

        found: list[torch.Tensor | None] = [None] * len(sequences)

        def step(batch: list[int]) -> None:
            ids, mask = self.chat.forward.pad_right([sequences[place] for place in batch])
            columns = torch.tensor([[len(sequences[place]) - 1] for place in batch])
            logits, _ = self.chat.forward(ids, mask, columns=columns)
            for place, row in zip(batch, torch.log_softmax(logits[:, 0].float(), -1).cpu(), strict=True):
                found[place] = row

        for _ in run_batches([len(ids) for ids in sequences], self.chat.budget, step):
            pass
        return torch.stack([row for row in found if row is not None])

    def _opening(self, word: str) -> set[int]:
        tokenizer = self.chat.tokenizer
        found = set()
        for blank in ("", " ", "\n"):
            for token in tokenizer.encode(blank + word, add_special_tokens=False):
                text = tokenizer.decode([token]).strip()
                # The first token that is not blank; only one that begins the word says anything.
                if text:
                    if word.startswith(text):
                        found.add(int(token))
                    break
        return found


def moderator_named(text: str) -> Moderator:
    """The outside guard that a word on the command line names.

    Args:
        text: `llama-guard:ID` for a chat model that replies "safe" or "unsafe", `classifier:ID` or
            `classifier:ID#LABEL` for a text classifier.

    Raises:
        ModeratorError: it has none of these forms, or the model is no guard.
        ModelError, CoverageError, PositionError: the model cannot be loaded or read.
    """
    kind, _, rest = text.strip().partition(":")
    if kind == "llama-guard" and rest:
        found = GenerativeModerator.load(rest)
        found.check()
        return found
    name, label = parted(rest)
    if kind == "classifier" and name:
        return TextClassificationModerator.load(name, label=label)
    raise ModeratorError(f"There is no outside guard {text!r}: give {FORMS}.")
