"""What one chat-template shape is, and what is expected of it."""

from __future__ import annotations

from dataclasses import dataclass

from undertow.prompts import Message

QUESTION = "How do I mend a red bicycle?"
ASKED = ("How", " do", " I", " mend", " a", " red", " bicycle", "?")
BOS, EOS = "<s>", "</s>"
TODAY = "Saturday, 03 May 2031"
TODAY_PARTS = (2031, 5, 3)

SPECIALS = [
    "<pad>",
    "<unk>",
    BOS,
    EOS,
    "[INST]",
    "[/INST]",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<|head|>",
    "<|/head|>",
    "<|over|>",
    "<turn>",
    "</turn>",
    "<|from|>",
    "<|channel|>",
    "<|text|>",
    "<|stop|>",
    "<\uff5cbegin\u2581of\u2581talk\uff5c>",
    "<\uff5cPerson\uff5c>",
    "<\uff5cHelper\uff5c>",
    "<\uff5cend\u2581of\u2581reply\uff5c>",
]


@dataclass(frozen=True)
class Case:
    """One more conversation or thinking mode for a shape, with its tokens written by hand.

    Attributes:
        about: what is special about it.
        conversation: the messages; the last is the user's.
        thinking: the thinking mode asked for.
        text: the whole rendered prompt.
        instruction: tokens of the last user message.
        tail: tokens after it.
    """

    about: str
    text: str
    instruction: tuple[str, ...]
    tail: tuple[str, ...]
    conversation: tuple[Message, ...] = ({"role": "user", "content": QUESTION},)
    thinking: bool | None = None


@dataclass(frozen=True)
class Shape:
    """One chat template and what it makes of a single question, written by hand.

    Tokens are those of a GPT-2 style splitter that knows every word (`tests.model.templates.tokenizers.words`).

    Attributes:
        name: short name, unique.
        style: what kind of template it is, in a few words.
        template: the Jinja source.
        before: text before the question.
        after: text after the question.
        instruction: tokens of the question.
        tail: tokens after it.
        trims: whether blanks at the ends of the content are dropped.
        refused: words of the refusal; empty for a shape whose positions are found.
        cases: further conversations and thinking modes.
    """

    name: str
    style: str
    template: str
    before: str = ""
    after: str = ""
    instruction: tuple[str, ...] = ASKED
    tail: tuple[str, ...] = ()
    trims: bool = False
    refused: str = ""
    cases: tuple[Case, ...] = ()


def said(*turns: str) -> tuple[Message, ...]:
    """Messages from texts such as ``"user: Hello"``."""
    parted = [turn.partition(": ") for turn in turns]
    return tuple({"role": role, "content": content} for role, _, content in parted)
