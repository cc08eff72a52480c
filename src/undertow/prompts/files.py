"""Rows out of files: CSV, TSV, JSON lines, JSON, Parquet and text with one prompt a line."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from undertow.errors import PromptFileError
from undertow.prompts.columns import check_header, is_known, normalise_name
from undertow.prompts.jsonfile import DuplicateKeyError, parse_json, read_json_rows
from undertow.prompts.lines import decode_lines, decode_whole

FORMATS: tuple[str, ...] = ("csv", "tsv", "jsonl", "json", "parquet", "text", "hub")
STANDARD_INPUT = "-"

EXTENSIONS: dict[str, str] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".text": "text",
}
_TEXT_COLUMN = "text"
_PARQUET_ROWS = 512


class Row(NamedTuple):
    """One row: where it stands ("line 12", "row 3") and its cells."""

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows that come one by one.

    Attributes:
        source: the name to use in messages.
        format: one of FORMATS.
        names: the columns, where the format has a header; None where each row brings its own.
        rows: the rows; each can be read once.
    """

    source: str
    format: str
    names: tuple[str, ...] | None
    rows: Iterator[Row]


def file_format(path: Path, wanted: str | None = None) -> str:
    """The format of a file: the wanted one, or what the ending of its name says.

    Raises:
        PromptFileError: the ending or the wanted format is unknown.
    """
    if wanted is not None:
        check_format(wanted)
        return wanted
    known = EXTENSIONS.get(path.suffix.lower())
    if known is None:
        ending = f"the ending {path.suffix!r}" if path.suffix else "no ending"
        raise PromptFileError(
            f"{path}: a file with {ending} is not read by itself; "
            f"say what it is with --format {'|'.join(FORMATS[:-1])}."
        )
    return known


def check_format(wanted: str) -> None:
    """Refuses a format that is not one of FORMATS.

    Raises:
        PromptFileError: naming the formats.
    """
    if wanted not in FORMATS:
        raise PromptFileError(f"There is no prompt format {wanted!r}; the formats are {', '.join(FORMATS)}.")


def open_table(path: Path, wanted_format: str | None, keep: set[str]) -> Table:
    """Opens a file of prompts; its rows are read as they are asked for.

    Args:
        path: the file, or "-" for standard input.
        wanted_format: one of FORMATS, or None to go by the file's ending.
        keep: lower-case names of columns to read beside the known ones (Parquet reads no others).

    Raises:
        PromptFileError: the file is missing, a folder, empty, of unknown format, or not what its format says.
    """
    if str(path) == STANDARD_INPUT:
        return _open_standard_input(wanted_format)
    if path.is_dir():
        raise PromptFileError(f"{path} is a folder; name one file of prompts in it.")
    try:
        information = path.stat()
        format_ = file_format(path, wanted_format)
        if path.is_file() and information.st_size == 0:
            raise PromptFileError(f"{path} is empty; a prompt file holds at least one prompt.")
        if format_ == "parquet":
            return _open_parquet(path, keep)
        return _open_text_format(path.open("rb"), str(path), format_)
    except FileNotFoundError:
        raise PromptFileError(f"There is no file {path}.") from None
    except OSError as error:
        raise PromptFileError(f"{path} cannot be read: {error.strerror or error}.") from None


def _open_standard_input(wanted_format: str | None) -> Table:
    if wanted_format is None:
        raise PromptFileError("Standard input has no ending to go by; say what it is with --format, such as jsonl.")
    check_format(wanted_format)
    if wanted_format in ("parquet", "hub"):
        raise PromptFileError(
            f"Standard input cannot be read as {wanted_format}; give it as csv, tsv, json, jsonl or text."
        )
    return _open_text_format(sys.stdin.buffer, "standard input", wanted_format)


def _open_text_format(file: BinaryIO, source: str, format_: str) -> Table:
    if format_ in ("csv", "tsv"):
        return _open_csv(file, source, format_)
    if format_ == "jsonl":
        return Table(source, format_, None, _read_jsonl(file, source))
    if format_ == "json":
        with _closing(file):
            text = decode_whole(file.read(), source)
        rows = (Row(where, values) for where, values in read_json_rows(text, source))
        return Table(source, format_, None, rows)
    return Table(source, "text", (_TEXT_COLUMN,), _read_text(file, source))


@contextmanager
def _closing(file: BinaryIO) -> Iterator[BinaryIO]:
    try:
        yield file
    finally:
        if file is not sys.stdin.buffer:
            file.close()


def _read_text(file: BinaryIO, source: str) -> Iterator[Row]:
    with _closing(file):
        for number, line in decode_lines(file, source):
            text = line.strip()
            if "\r" in text:
                raise PromptFileError(
                    f"{source}, line {number}: a carriage return stands within the line; end lines with a line feed."
                )
            if text:
                yield Row(f"line {number}", {_TEXT_COLUMN: text})


def _read_jsonl(file: BinaryIO, source: str) -> Iterator[Row]:
    with _closing(file):
        for number, line in decode_lines(file, source):
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                value = parse_json(line)
            except json.JSONDecodeError as error:
                raise PromptFileError(
                    f"{source}, {where}: not valid JSON ({error.msg} at character {error.pos + 1}); "
                    "every line must be one JSON object."
                ) from None
            except DuplicateKeyError as error:
                raise PromptFileError(f"{source}, {where}: {error}.") from None
            except RecursionError:
                raise PromptFileError(f"{source}, {where}: the JSON is nested too deeply to be a prompt.") from None
            if isinstance(value, str):
                value = {_TEXT_COLUMN: value}
            if not isinstance(value, dict):
                raise PromptFileError(
                    f"{source}, {where}: every line must be a JSON object such as "
                    f'{{"prompt": "..."}}, and this one is {_kind(value)}.'
                )
            yield Row(where, value)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    return "a list" if isinstance(value, list) else "a number"


def _open_csv(file: BinaryIO, source: str, format_: str) -> Table:
    records = _read_records(file, source, format_)
    try:
        line, header = next(records)
    except StopIteration:
        raise PromptFileError(f"{source} holds no header and no prompts.") from None
    check_header(header, source, f"line {line}")
    names = tuple(name.strip() for name in header)

    def rows() -> Iterator[Row]:
        for line, record in records:
            if len(record) != len(names):
                raise PromptFileError(
                    f"{source}, line {line}: the row has {len(record)} cells and the header {len(names)}; "
                    "put cells that hold the separator in double quotes."
                )
            yield Row(f"line {line}", dict(zip(names, record, strict=True)))

    return Table(source, format_, names, rows())


def _read_records(file: BinaryIO, source: str, format_: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the line on which a record begins, and its cells; blank lines are left out."""
    with _closing(file):
        lines = decode_lines(file, source)
        first = next(lines, None)
        if first is None:
            return
        separator = "\t" if format_ == "tsv" else _separator(first[1])

        def texts() -> Iterator[str]:
            yield first[1]
            for _, line in lines:
                yield line

        reader = csv.reader(texts(), delimiter=separator, strict=True)
        while True:
            begin = reader.line_num + 1
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise PromptFileError(f"{source}, line {begin}: {_csv_cause(str(error), separator)}.") from None
            if record == [""] or any(cell.strip() for cell in record):
                yield begin, record


def _separator(header: str) -> str:
    """A comma, unless the header has none and has semicolons or tabs, as spreadsheets in many countries write."""
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _csv_cause(message: str, separator: str) -> str:
    if "unexpected end of data" in message:
        return "a double quote opens in this row and never closes"
    if "field larger" in message:
        limit = csv.field_size_limit()
        return f"a cell is longer than {limit:,} characters, as when a double quote never closes"
    if "new-line character" in message:
        return "a carriage return stands outside quotes; end lines with a line feed"
    if "expected after" in message:
        return f"a double quote within a cell must be written twice (or {separator!r} is not the separator)"
    return f"not a valid row ({message})"


def _open_parquet(path: Path, keep: set[str]) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise PromptFileError(
            f"{path}: reading Parquet needs pyarrow; install it with `pip install 'undertow[data]'`."
        ) from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise PromptFileError(f"{path} is not a Parquet file: {_one_line(error)}.") from None
    names = tuple(file.schema_arrow.names)
    check_header(names, str(path), "the schema")
    wanted = [name for name in names if is_known(name) or normalise_name(name) in keep]

    def rows() -> Iterator[Row]:
        number = 0
        try:
            with file:
                for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted):
                    for values in batch.to_pylist():
                        number += 1
                        yield Row(f"row {number}", values)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise PromptFileError(
                f"{path}, after row {number}: the Parquet data is damaged: {_one_line(error)}."
            ) from None

    return Table(str(path), "parquet", names, rows())


def _one_line(error: BaseException, most: int = 200) -> str:
    return " ".join(str(error).split())[:most].rstrip(".")
