from __future__ import annotations

from io import BytesIO

import pytest

from undertow.errors import PromptFileError
from undertow.prompts.lines import decode_lines, decode_whole


def test_lines_are_numbered_and_the_mark_dropped() -> None:
    raw = b"\xef\xbb\xbfone\ntw\xc3\xb6\r\nthree\xe2\x80\xa8four"
    assert list(decode_lines(BytesIO(raw), "f")) == [(1, "one\n"), (2, "twö\r\n"), (3, "three\u2028four")]
    assert decode_whole(raw, "f") == "one\ntwö\r\nthree\u2028four"


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ("a\nb\n".encode("utf-16"), "line 1: the file is UTF-16"),
        ("a\nb\n".encode("utf-32"), "line 1: the file is UTF-32"),
        ("a\nb\n".encode("utf-16-le"), "line 1: byte 2 of the line is NUL"),
        (b"one\ntwo\ncaf\xe9\n", "line 3: byte 4 of the line (0xe9) is not UTF-8"),
        (b"one\nt\0o\n", "line 2: byte 2 of the line is NUL"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"PK\x03\x04xx", "zip"),
    ],
)
def test_other_encodings_are_named_with_line_and_byte(raw: bytes, named: str) -> None:
    with pytest.raises(PromptFileError) as error:
        list(decode_lines(BytesIO(raw), "f"))
    assert named in str(error.value) and str(error.value).startswith("f, ")
