"""Rows out of one JSON document, each with the line it begins on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from undertow.errors import PromptFileError

_TEXT_COLUMN = "text"
_BLANKS = " \t\r\n"


class DuplicateKeyError(ValueError):
    """One JSON object has the same key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DuplicateKeyError(f"the object has the key {twice!r} twice")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def parse_json(text: str) -> Any:
    """Parses one JSON value; an object with the same key twice is refused.

    Raises:
        json.JSONDecodeError: the text is not JSON.
        DuplicateKeyError: as named.
    """
    return _DECODER.decode(text)


def read_json_rows(text: str, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads the rows of a JSON document.

    It may be a list of objects or of strings; an object that holds one such list; an object of equally long columns;
    or one object a line, whatever the file is called.

    Yields:
        Where the row begins ("line 12", or "row 3" in columns) and its cells.

    Raises:
        PromptFileError: not JSON, or of another shape; with the line.
    """
    start = _skip_blanks(text, 0)
    if start == len(text):
        raise PromptFileError(f"{source} is empty; a prompt file holds at least one prompt.")
    if text[start] == "[":
        yield from _read_list(text, start, source)
    elif _is_json_lines(text, start):
        yield from _read_list_of_lines(text, start, source)
    else:
        yield from _read_object(text, start, source)


def _skip_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place] in _BLANKS:
        place += 1
    return place


def _parse_at(text: str, place: int, line: int, source: str) -> tuple[Any, int]:
    """The value that begins at a place, and the place after it."""
    try:
        return _DECODER.raw_decode(text, place)
    except json.JSONDecodeError as error:
        line += text.count("\n", place, error.pos)
        raise PromptFileError(f"{source}, line {line}: not valid JSON ({error.msg}).") from None
    except DuplicateKeyError as error:
        raise PromptFileError(f"{source}, in the value that begins on line {line}: {error}.") from None
    except RecursionError:
        raise PromptFileError(f"{source}, line {line}: the JSON is nested too deeply to be prompts.") from None


def _as_row(value: Any, where: str, source: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {_TEXT_COLUMN: value}
    if not isinstance(value, dict):
        raise PromptFileError(f"{source}, {where}: every element must be an object with a prompt, or a string.")
    return value


def _read_list(text: str, start: int, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    place, line = start + 1, 1 + text.count("\n", 0, start + 1)

    def advance(target: int) -> None:
        nonlocal place, line
        line += text.count("\n", place, target)
        place = target

    def expect() -> str:
        advance(_skip_blanks(text, place))
        if place == len(text):
            raise PromptFileError(f"{source}, line {line}: the list never closes, so the file is cut off.")
        return text[place]

    if expect() != "]":
        while True:
            expect()
            where = f"line {line}"
            value, after = _parse_at(text, place, line, source)
            advance(after)
            yield where, _as_row(value, where, source)
            mark = expect()
            if mark == "]":
                break
            if mark != ",":
                raise PromptFileError(f"{source}, line {line}: not valid JSON (a comma is missing between elements).")
            advance(place + 1)
    advance(_skip_blanks(text, place + 1))
    if place != len(text):
        raise PromptFileError(f"{source}, line {line}: something follows after the end of the list.")


def _is_json_lines(text: str, start: int) -> bool:
    end = text.find("\n", start)
    if end < 0 or not text[end:].strip():
        return False
    try:
        parse_json(text[start:end])
    except (ValueError, RecursionError):
        return False
    return True


def _read_list_of_lines(text: str, start: int, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    first = 1 + text.count("\n", 0, start)
    for number, line in enumerate(text[start:].split("\n"), start=first):
        if line.strip():
            value, after = _parse_at(line, _skip_blanks(line, 0), number, source)
            if line[after:].strip():
                raise PromptFileError(f"{source}, line {number}: something follows after the end of the object.")
            yield f"line {number}", _as_row(value, f"line {number}", source)


def _read_object(text: str, start: int, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    line = 1 + text.count("\n", 0, start)
    value, after = _parse_at(text, start, line, source)
    if text[after:].strip():
        line += text.count("\n", start, _skip_blanks(text, after))
        raise PromptFileError(f"{source}, line {line}: something follows after the end of the JSON value.")
    shapes = "a list of objects, one object a line, or an object of equally long columns"
    if not isinstance(value, dict):
        raise PromptFileError(f"{source}: the JSON must be {shapes}, and it is a single value.")
    lists = {key: cells for key, cells in value.items() if isinstance(cells, list)}
    rows = [cells for cells in lists.values() if cells and all(isinstance(cell, dict) for cell in cells)]
    if len(rows) == 1 and len(lists) == 1:
        for number, row in enumerate(rows[0], start=1):
            yield f"row {number}", row
    elif lists and len(lists) == len(value):
        lengths = {key: len(cells) for key, cells in lists.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{key!r} {length}" for key, length in lengths.items())
            raise PromptFileError(f"{source}: the columns have different lengths ({told}).")
        for number, cells in enumerate(zip(*lists.values(), strict=True), start=1):
            yield f"row {number}", dict(zip(lists, cells, strict=True))
    else:
        raise PromptFileError(f"{source}: the JSON must be {shapes}, and it is an object of something else.")
