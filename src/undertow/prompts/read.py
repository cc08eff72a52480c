"""Prompts out of tables: rows of any format become prompts, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from undertow.errors import PromptFileError, UndertowError
from undertow.prompts.columns import (
    INVERTED_COLUMNS,
    ColumnChoice,
    Columns,
    check_header,
    guess_columns,
    normalise_name,
)
from undertow.prompts.files import EXTENSIONS, STANDARD_INPUT, Row, Table, check_format, open_table
from undertow.prompts.hub import looks_like_dataset, open_dataset
from undertow.prompts.labels import NotALabelError, is_missing, parse_label
from undertow.prompts.prompt import Prompt, normalise_messages

ROWS_TO_GUESS_FROM = 256
"""Streaming guesses the columns from so many first rows; `PromptSet.read` looks at all of them."""

_BARE_WORDS: frozenset[str] = frozenset({"bare", "base"})


@dataclass(frozen=True)
class Reading:
    """A source that is open: what was decided about it, and its prompts with the places they stand on.

    Attributes:
        source: the name used in messages.
        format: one of `undertow.prompts.files.FORMATS`.
        columns: the columns that are read.
        located: (place, prompt) pairs, to be read once; the place is such as "line 12".
    """

    source: str
    format: str
    columns: Columns
    located: Iterator[tuple[str, Prompt]]


def iterate_prompts(
    source: str | Path,
    *,
    format: str | None = None,
    prompt_column: str | None = None,
    label_column: str | None = None,
    category_column: str | None = None,
    id_column: str | None = None,
    harmful: bool | None = None,
    limit: int | None = None,
) -> Iterator[Prompt]:
    """Reads prompts one after another, in constant memory for CSV, TSV, JSON lines, Parquet, text and Hub datasets.

    The source is opened and its first rows are read at once, so most errors come before the first prompt. The same
    prompt with two labels is found by `PromptSet.read` only, which holds all prompts.

    Args:
        source: a file, "-" for standard input, or a Hub dataset (`owner/name`, `owner/name:split`,
            `owner/name:config:split`).
        format: "csv", "tsv", "jsonl", "json", "parquet", "text" or "hub"; by default the file's ending says.
        prompt_column: column of the prompts; guessed by default.
        label_column: column that says whether a prompt is harmful; guessed by default, "none" for no label.
        category_column: column of the category; guessed by default, "none" for no category.
        id_column: column of the prompt's own id; guessed by default, "none" for row numbers.
        harmful: label of all prompts; a label in the file that says otherwise is an error.
        limit: most prompts to read.

    Raises:
        PromptFileError: one sentence that names the file and the line.
    """
    choice = ColumnChoice(prompt_column, label_column, category_column, id_column)
    reading = open_reading(source, format, choice, harmful, limit, ROWS_TO_GUESS_FROM)
    return (prompt for _, prompt in reading.located)


def open_reading(
    source: str | Path,
    format_: str | None,
    choice: ColumnChoice,
    harmful: bool | None,
    limit: int | None,
    rows_to_guess_from: int | None,
) -> Reading:
    """Opens a source and decides on its columns.

    Args:
        source, format_, harmful, limit: as in `iterate_prompts`.
        choice: the columns that the user has named.
        rows_to_guess_from: how many first rows decide the columns; None for all rows (they are then held).

    Raises:
        PromptFileError: the source cannot be opened, is empty, or its columns cannot be told.
    """
    if limit is not None and limit < 1:
        raise PromptFileError(f"The limit of prompts to read must be at least 1, not {limit}.")
    table = _open(source, format_, choice)
    rows = table.rows if limit is None else islice(table.rows, limit)
    first = list(islice(rows, rows_to_guess_from))
    if not first:
        raise PromptFileError(f"{table.source} holds no prompts.")
    names = table.names if table.names is not None else _names_of(first)
    check_header(names, table.source, "the keys of the rows")
    columns = guess_columns(names, [row.values for row in first], choice, table.source)
    located = _read_rows(chain(first, rows), columns, table.source, harmful)
    return Reading(table.source, table.format, columns, located)


def _open(source: str | Path, format_: str | None, choice: ColumnChoice) -> Table:
    if format_ is not None:
        check_format(format_)
    name = str(source)
    if not name:
        raise PromptFileError("The name of the prompt file is empty.")
    if format_ == "hub" or name.startswith("hub:"):
        return open_dataset(name)
    try:
        is_there = name == STANDARD_INPUT or Path(name).exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PromptFileError(f"{_short(name)} cannot be opened: {reason}.") from None
    may_be_dataset = isinstance(source, str) and format_ is None and looks_like_dataset(name)
    if not is_there and may_be_dataset and not _has_file_ending(name):
        return open_dataset(name)
    return open_table(Path(name), format_, choice.names)


def _has_file_ending(name: str) -> bool:
    return Path(name).suffix.lower() in {*EXTENSIONS, ".gz", ".zip", ".xlsx"}


def _names_of(rows: Sequence[Row]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row.values))
    return tuple(names)


def _read_rows(
    rows: Iterator[Row], columns: Columns, source: str, harmful: bool | None
) -> Iterator[tuple[str, Prompt]]:
    for number, row in enumerate(rows, start=1):
        yield row.where, read_row(row, number, columns, source, harmful)


def read_row(row: Row, number: int, columns: Columns, source: str, harmful: bool | None = None) -> Prompt:
    """Makes a prompt of one row.

    Args:
        row: the row.
        number: its number among the rows, from 1; the id of a prompt that has none of its own.
        columns: the columns to read.
        source: the file's name, for messages.
        harmful: label of all prompts of the file, or None.

    Raises:
        PromptFileError: the prompt is missing, empty or not text, a label says neither, or labels disagree.
    """
    place = f"{source}, {row.where}"
    content = _read_content(row, columns.prompt, place)
    label = _read_label(row, columns, place, harmful)
    wrapper = _read_word(row, columns.wrapper)
    if wrapper is not None and wrapper.lower() in _BARE_WORDS:
        wrapper = None
    try:
        return Prompt(
            content,
            harmful=label,
            category=_read_word(row, columns.category),
            wrapper=wrapper,
            style=_read_word(row, columns.style),
            language=_read_word(row, columns.language),
            id=_read_word(row, columns.id) or str(number),
        )
    except UndertowError as error:
        raise PromptFileError(f"{place}: {error}") from None


def _read_content(row: Row, column: str, place: str) -> Any:
    if column not in row.values:
        raise PromptFileError(f"{place}: the prompt column {column!r} is missing; this row has {_keys(row)}.")
    value = row.values[column]
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        raise PromptFileError(f"{place}: the prompt in column {column!r} is empty.")
    if isinstance(value, str):
        content: Any = value
    elif isinstance(value, list | tuple):
        content = _read_turns(value, column, place)
    else:
        raise PromptFileError(
            f"{place}: the prompt in column {column!r} is {type(value).__name__}; it must be text or a list of turns."
        )
    texts = [content] if isinstance(content, str) else [message["content"] for message in content]
    if not (texts[-1]).strip():
        raise PromptFileError(f"{place}: the last turn of the prompt in column {column!r} is empty.")
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptFileError(
                f"{place}: character {error.start + 1} of the prompt is half of a surrogate pair, which is no text."
            ) from None
    return content


def _read_turns(turns: Sequence[Any], column: str, place: str) -> Any:
    """One text, or messages that end with the request: strings are user turns, replies after the last are left out."""
    if all(isinstance(turn, str) for turn in turns):
        if len(turns) == 1:
            return turns[0]
        return tuple({"role": "user", "content": turn} for turn in turns)
    try:
        messages = normalise_messages(turns)
    except UndertowError as error:
        raise PromptFileError(f"{place}, column {column!r}: {error}") from None
    last = max(number for number, message in enumerate(messages) if message["role"] == "user")
    if last == 0:
        return messages[0]["content"]
    return messages[: last + 1]


def _read_label(row: Row, columns: Columns, place: str, harmful: bool | None) -> bool | None:
    label, column_of_label = None, None
    for column in columns.labels:
        value = row.values.get(column)
        try:
            read = parse_label(value, inverted=normalise_name(column) in INVERTED_COLUMNS)
        except NotALabelError:
            raise PromptFileError(
                f"{place}: {_short(value)} in column {column!r} is no label; use true, false, 1, 0, harmful or "
                "harmless, or name another column with --label-column (none for no labels)."
            ) from None
        if read is None:
            continue
        if label is not None and read != label:
            raise PromptFileError(
                f"{place}: the columns {column_of_label!r} and {column!r} disagree on whether the prompt is harmful; "
                "correct the row or name one column with --label-column."
            )
        label, column_of_label = read, column
    if harmful is None:
        return label
    if label is not None and label != harmful:
        said, wanted = ("harmful", "harmless") if label else ("harmless", "harmful")
        raise PromptFileError(
            f"{place}: column {column_of_label!r} calls the prompt {said}, and the whole file was given as {wanted}."
        )
    return harmful


def _read_word(row: Row, column: str | None) -> str | None:
    value = None if column is None else row.values.get(column)
    if is_missing(value) or not isinstance(value, str | int | float):
        return None
    return str(value).strip()


def _keys(row: Row, most: int = 8) -> str:
    keys = [repr(key) for key in row.values]
    if not keys:
        return "no columns"
    return ", ".join(keys[:most]) + (" and more" if len(keys) > most else "")


def _short(value: Any, most: int = 60) -> str:
    shown = repr(value)
    return shown if len(shown) <= most else f"{shown[:most]}..."
