"""Fields of requests whose rules the usual types do not express, each with the JSON schema that says the same."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MOST_STOP = 256
"""Most characters of a stop text."""

_MOST_NAME = 1000

_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART, "minItems": 1}]}
_STOP = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": MOST_STOP},
        {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": MOST_STOP}, "maxItems": 4},
        {"type": "null"},
    ]
}
_INPUT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "array", "items": _PART, "minItems": 1},
    ]
}


def wrong(message: str, param: str | None = None) -> PydanticCustomError:
    """An error whose message is a whole sentence.

    Args:
        message: the sentence.
        param: the field that it is about, where it is not the one that is being checked.
    """
    return PydanticCustomError("undertow", "{sentence}", {"sentence": message, "param": param})


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise wrong(f"{what} must be a string.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise wrong(f"{what} holds half of a surrogate pair, which is no text; send whole characters.") from None
    return value


def _parts(value: list[Any], what: str) -> str:
    if not value:
        raise wrong(f"{what} is an empty list; send text.")
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            named = f" {kind[:64]!a}" if isinstance(kind, str) else " that are no text"
            raise wrong(f"{what} holds parts{named}; only parts of the type 'text' are read.")
        if set(part) != {"type", "text"}:
            raise wrong(f"{what} holds a part with other fields than 'type' and 'text'; leave them out.")
        texts.append(_text(part["text"], what))
    return "".join(texts)


def _content(value: Any) -> str:
    return _parts(value, "A message's content") if isinstance(value, list) else _text(value, "A message's content")


def _stop(value: Any) -> tuple[str, ...]:
    listed = [] if value is None else value if isinstance(value, list) else [value]
    if len(listed) > 4:
        raise wrong("'stop' may hold at most 4 texts.")
    texts = tuple(_text(text, "A text of 'stop'") for text in listed)
    if "" in texts:
        raise wrong("A text of 'stop' must not be empty.")
    if any(len(text) > MOST_STOP for text in texts):
        # Every token is held against every beginning of each, on the thread that all replies share.
        raise wrong(f"A text of 'stop' may have at most {MOST_STOP} characters.")
    return texts


def _inputs(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return (_text(value, "'input'"),)
    if not value:
        raise wrong("'input' is an empty list; send at least one text.")
    if all(isinstance(text, str) for text in value):
        return tuple(_text(text, "A text of 'input'") for text in value)
    return (_parts(value, "'input'"),)


def _name(value: Any) -> str:
    text = _text(value, "A name")
    if len(text) > _MOST_NAME:
        raise wrong(f"A name may have at most {_MOST_NAME} characters.")
    return text


class Only:
    """Marks an option that this server does not have: values that ask for nothing are taken, others refused.

    Args:
        neutral: the values that are taken.
    """

    def __init__(self, *neutral: Any) -> None:
        self.neutral = neutral

    def check(self, value: Any) -> None:
        """Raises an error where the value asks for something."""
        for one in self.neutral:
            # In JSON, unlike in Python, true is not 1.
            if isinstance(value, bool) == isinstance(one, bool) and value == one:
                return
        raise PydanticCustomError("undertow_option", "not offered")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, core_schema.any_schema())

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [*self.neutral]}


Content = Annotated[str, BeforeValidator(_content), WithJsonSchema(_CONTENT)]
"""Text, or parts of text that are joined."""

Stop = Annotated[tuple[str, ...], BeforeValidator(_stop), WithJsonSchema(_STOP)]
"""Up to four texts."""

Inputs = Annotated[tuple[str, ...], BeforeValidator(_inputs), WithJsonSchema(_INPUT)]
"""Texts to judge; a list of parts is one text."""

Name = Annotated[str, Field(max_length=_MOST_NAME), BeforeValidator(_name)]
"""A short text."""
