"""A prompt: one request to a chat model, with what is known about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from undertow.errors import UndertowError

Message = dict[str, str]
"""One turn of a conversation: `{"role": "system" | "user" | "assistant", "content": text}`."""

ROLES: tuple[str, ...] = ("system", "user", "assistant")

_ROLE_SYNONYMS: dict[str, str] = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "developer": "system",
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: text, or a conversation whose last user message is the request.

    Attributes:
        content: the text of a single user message, or the messages of a conversation.
        harmful: True for a harmful request, False for a harmless one, None where nobody has said.
        category: risk category or topic.
        wrapper: jailbreak family that the request is wrapped in; None for a bare request.
        style: what is special about the wording, such as "look-alike" (harmless, yet it sounds dangerous).
        language: language of the text.
        id: name of the prompt within its source.

    Raises:
        UndertowError: the content is neither text nor a conversation that holds a user message.
    """

    content: str | tuple[Message, ...]
    harmful: bool | None = None
    category: str | None = None
    wrapper: str | None = None
    style: str | None = None
    language: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.content, str):
            object.__setattr__(self, "content", normalise_messages(self.content))

    def __hash__(self) -> int:
        return hash(self.canonical)

    @property
    def messages(self) -> list[Message]:
        """The conversation as a fresh list of messages; a text is one user message."""
        if isinstance(self.content, str):
            return [{"role": "user", "content": self.content}]
        return [dict(message) for message in self.content]

    @property
    def text(self) -> str:
        """Text of the last user message."""
        if isinstance(self.content, str):
            return self.content
        return next(message["content"] for message in reversed(self.content) if message["role"] == "user")

    @property
    def canonical(self) -> str:
        """One line of JSON for everything but the id; equal prompts give equal lines."""
        return json.dumps(
            [self.messages, self.harmful, self.category, self.wrapper, self.style, self.language],
            ensure_ascii=True,
            sort_keys=True,
            separators=(",", ":"),
        )


def normalise_messages(messages: Any) -> tuple[Message, ...]:
    """Brings a conversation to the form `({"role": ..., "content": ...}, ...)`.

    Accepts the `role`/`content` form, the `from`/`value` form, content given as a list of text parts, and the
    usual synonyms of the three roles.

    Raises:
        UndertowError: a message has no known role or no text, or no user message is there.
    """
    if isinstance(messages, Mapping) or not isinstance(messages, Iterable):
        raise UndertowError(f"A conversation must be a list of messages, not {type(messages).__name__}.")
    turns = tuple(_normalise_message(message, number) for number, message in enumerate(messages, start=1))
    if not any(turn["role"] == "user" for turn in turns):
        raise UndertowError("A conversation must hold at least one message with the role 'user'.")
    return turns


def _normalise_message(message: Any, number: int) -> Message:
    if not isinstance(message, Mapping):
        raise UndertowError(
            f"Message {number} of a conversation must be an object with 'role' and 'content', "
            f"not {type(message).__name__}."
        )
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if isinstance(role, str):
        role = _ROLE_SYNONYMS.get(role.lower(), role.lower())
    if role not in ROLES:
        raise UndertowError(
            f"Message {number} of a conversation has the role {role!r}; the roles are {', '.join(ROLES)}."
        )
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = _join_text_parts(content, number)
    if not isinstance(content, str):
        raise UndertowError(f"Message {number} of a conversation must have text as its content.")
    return {"role": role, "content": content}


def _join_text_parts(parts: Sequence[Any], number: int) -> str:
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise UndertowError(f"Message {number} of a conversation holds a part that is not text; only text is read.")
        texts.append(part["text"])
    return "".join(texts)


def as_prompts(prompts: Any) -> list[Prompt]:
    """Brings what a user may pass to a list of prompts.

    Args:
        prompts: a text, a Prompt, one conversation (a list of messages), or a sequence of any of these, a
            PromptSet included. A list whose first element is a message is one conversation.

    Returns:
        The prompts, in order; an empty sequence gives an empty list.

    Raises:
        UndertowError: something among them is neither text, a Prompt nor a conversation.
    """
    if isinstance(prompts, str | Prompt) or _is_conversation(prompts):
        return [_as_prompt(prompts, None)]
    if isinstance(prompts, Mapping):
        raise UndertowError("A single message is not a prompt; put it into a list to make it a conversation.")
    if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
        raise UndertowError(
            f"Prompts must be text, a Prompt, a list of messages or a sequence of these, not {type(prompts).__name__}."
        )
    return [_as_prompt(element, number) for number, element in enumerate(prompts, start=1)]


def _is_conversation(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) > 0 and isinstance(value[0], Mapping)


def _as_prompt(value: Any, number: int | None) -> Prompt:
    if isinstance(value, Prompt):
        return value
    if isinstance(value, str):
        return Prompt(value)
    if _is_conversation(value):
        return Prompt(tuple(value))
    where = "The prompt" if number is None else f"Prompt {number}"
    raise UndertowError(f"{where} must be text, a Prompt or a list of messages, not {type(value).__name__}.")
