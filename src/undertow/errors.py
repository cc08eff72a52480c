"""Errors that name what is wrong in one sentence; the command line turns each into exit code 2."""

from __future__ import annotations


class UndertowError(Exception):
    """Base of every error that a user can cause and mend."""


class PositionError(UndertowError):
    """A token position cannot be told for certain from the model's chat template."""


class ContextError(PositionError):
    """A prompt is longer than the model's context.

    Attributes:
        tokens: of the prompt.
    """

    def __init__(self, tokens: int, most: int) -> None:
        super().__init__(f"The prompt has {tokens} tokens and the model reads at most {most}: shorten it.")
        self.tokens = tokens


class CoverageError(UndertowError):
    """The architecture does not offer what was asked of it, or only in part."""


class ModelError(UndertowError):
    """A model or tokenizer cannot be loaded or used."""


class NotFiniteError(ModelError):
    """The model gave states or logits that are no finite numbers."""


class EditError(UndertowError):
    """An edit names a site, span or shape that does not exist."""


class PromptFileError(UndertowError):
    """A prompt file cannot be read; the message names the line."""


class ArrayError(UndertowError):
    """A file of published arrays holds anything but plain arrays of the expected shape."""


class GuardError(UndertowError):
    """A guard cannot be fitted, saved, loaded or applied as asked."""


class GuardMismatchError(GuardError):
    """A guard meets a model, tokenizer, template or thinking mode it was not fitted on."""
