"""Lines of text out of bytes, each checked: UTF-8, no NUL bytes; what is wrong is named with its line and byte."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from io import BytesIO

from undertow.errors import PromptFileError

_OTHER_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PAR1", "Parquet"),
)


def decode_lines(raw_lines: Iterable[bytes], source: str) -> Iterator[tuple[int, str]]:
    """Decodes the lines of a file one by one.

    Args:
        raw_lines: lines as a binary file gives them, line ends included.
        source: the file's name, for the message.

    Yields:
        Line number (from 1) and text, line end included; a UTF-8 mark at the start of the file is dropped.

    Raises:
        PromptFileError: bytes that are not UTF-8, or NUL bytes, with line and byte.
    """
    for number, raw in enumerate(raw_lines, start=1):
        if number == 1:
            _refuse_other_marks(raw, source)
            raw = raw.removeprefix(codecs.BOM_UTF8)
        place = raw.find(b"\0")
        if place >= 0:
            raise PromptFileError(
                f"{source}, line {number}: byte {place + 1} of the line is NUL; the file is damaged or not UTF-8 text."
            )
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PromptFileError(
                f"{source}, line {number}: byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8; "
                "save the file as UTF-8."
            ) from None


def decode_whole(raw: bytes, source: str) -> str:
    """Decodes a whole file, with the same checks as `decode_lines`.

    Raises:
        PromptFileError: as there.
    """
    return "".join(line for _, line in decode_lines(BytesIO(raw), source))


def _refuse_other_marks(raw: bytes, source: str) -> None:
    for mark, name in _OTHER_MARKS:
        if raw.startswith(mark):
            cure = "save it as UTF-8" if name.startswith("UTF") else "unpack it or name it by its real format"
            raise PromptFileError(f"{source}, line 1: the file is {name}, not UTF-8 text; {cure}.")
