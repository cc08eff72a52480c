from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from undertow.errors import PromptFileError
from undertow.prompts.files import file_format, open_table


def rows_of(path: Path, format_: str | None = None, keep: set[str] | None = None) -> list[tuple[str, dict[str, Any]]]:
    return [(row.where, dict(row.values)) for row in open_table(path, format_, keep or set()).rows]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_csv_equals_the_standard_reader_and_counts_physical_lines(tmp_path: Path) -> None:
    text = 'prompt,label\r\n"two\r\nlines, and a comma",1\r\n\r\n"said ""so""",0\r\nplain,1'
    rows = rows_of(write(tmp_path, "a.csv", text))
    expected = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [values for _, values in rows] == expected
    assert [where for where, _ in rows] == ["line 2", "line 5", "line 6"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "prompt;label\na, b;1\n"),
        ("a.tsv", "prompt\tlabel\na, b\t1\n"),
        ("a.csv", "prompt\tlabel\na, b\t1\n"),
    ],
)
def test_other_separators(tmp_path: Path, name: str, text: str) -> None:
    assert rows_of(write(tmp_path, name, text)) == [("line 2", {"prompt": "a, b", "label": "1"})]


def test_a_utf8_mark_is_accepted_everywhere(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert rows_of(write(tmp_path, "a.csv", mark + b"prompt\na\n")) == [("line 2", {"prompt": "a"})]
    assert rows_of(write(tmp_path, "a.jsonl", mark + b'{"prompt": "a"}\n')) == [("line 1", {"prompt": "a"})]
    assert rows_of(write(tmp_path, "a.json", mark + b'[{"prompt": "a"}]')) == [("line 1", {"prompt": "a"})]
    assert rows_of(write(tmp_path, "a.txt", mark + b"a\n")) == [("line 1", {"text": "a"})]


def test_text_has_one_prompt_a_line(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path, "a.txt", " a, b\r\n\n\tc\n")) == [
        ("line 1", {"text": "a, b"}),
        ("line 3", {"text": "c"}),
    ]


def test_parquet_reads_known_and_named_columns(tmp_path: Path) -> None:
    table = pyarrow.table({"prompt": ["a", "b"], "turns": [["x"], ["y", "z"]], "reply": ["1", "2"], "Extra": [1, 2]})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=1)
    opened = open_table(path, None, {"extra"})
    assert opened.names == ("prompt", "turns", "reply", "Extra")
    assert [dict(row.values) for row in opened.rows] == [
        {"prompt": "a", "turns": ["x"], "Extra": 1},
        {"prompt": "b", "turns": ["y", "z"], "Extra": 2},
    ]


def test_the_format_can_be_named(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path, "a.data", '{"prompt": "a"}\n'), "jsonl") == [("line 1", {"prompt": "a"})]
    assert file_format(Path("X.JSONL")) == "jsonl"


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n")))
    assert rows_of(Path("-"), "text") == [("line 1", {"text": "a"}), ("line 2", {"text": "b"})]
    for wrong in (None, "parquet"):
        with pytest.raises(PromptFileError, match="Standard input"):
            open_table(Path("-"), wrong, set())


ONE_BAD_LINE = "".join(json.dumps({"prompt": f"p{number}"}) + "\n" for number in range(1, 10_001)).replace(
    '{"prompt": "p7345"}', '{"prompt": "p7345"'
)

BAD_FILES: list[tuple[str, str | bytes, str]] = [
    ("empty.jsonl", "", "is empty"),
    ("empty.csv", "", "is empty"),
    ("blank.csv", "\n\n", "holds no header"),
    ("one_bad.jsonl", ONE_BAD_LINE, "line 7345: not valid JSON"),
    ("number.jsonl", '{"prompt": "a"}\n17\n', "line 2: every line must be a JSON object"),
    ("list.jsonl", '["a"]\n', "line 1: every line must be a JSON object such as"),
    ("twice.jsonl", '{"prompt": "a", "prompt": "b"}\n', "line 1: the object has the key 'prompt' twice"),
    ("deep.jsonl", "[" * 100_000 + "\n", "line 1: the JSON is nested too deeply"),
    ("utf16.csv", "prompt\na\n".encode("utf-16"), "line 1: the file is UTF-16"),
    ("latin.csv", b"prompt\na\ncaf\xe9\n", "line 3: byte 4"),
    ("latin.txt", b"a\nb\n\xff\n", "line 3: byte 1"),
    ("latin.json", b'[{"prompt":\n"caf\xe9"}]', "line 2: byte 5"),
    ("nul.txt", b"a\nb\0\n", "line 2: byte 2 of the line is NUL"),
    ("mac.txt", b"a\rb\rc", "line 1: a carriage return"),
    ("ragged.csv", "prompt,label\na,1\nb\nc,0\n", "line 3: the row has 1 cells and the header 2"),
    ("comma.csv", "prompt,label\nHello, you,1\n", "line 2: the row has 3 cells and the header 2"),
    ("quote.csv", 'prompt,label\na,1\n"b,0\nc,1\n', "line 3: a double quote opens in this row and never closes"),
    ("long.csv", 'prompt\n"' + "b\n" * 200_000, "line 2: a cell is longer than 131,072 characters"),
    ("inner.csv", 'prompt\n"a"b\n', "line 2: a double quote within a cell"),
    ("header.csv", "prompt,label,Prompt\na,1,b\n", "line 1: the column 'Prompt' is there twice"),
    ("text.parquet", "prompt\n", "is not a Parquet file"),
    ("zipped.jsonl", b"\x1f\x8b\x08\0", "gzip"),
    ("table.xlsx", b"PK\x03\x04", "the ending '.xlsx' is not read by itself; say what it is with --format csv|tsv"),
    ("noending", "a\n", "no ending is not read by itself"),
]


@pytest.mark.parametrize(("name", "content", "named"), BAD_FILES, ids=[name for name, _, _ in BAD_FILES])
def test_a_bad_file_is_one_sentence_with_its_line(tmp_path: Path, name: str, content: str | bytes, named: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(PromptFileError) as error:
        rows_of(path)
    message = str(error.value)
    assert named in message and str(path) in message
    assert "\n" not in message and message.endswith(".") and len(message) < len(str(path)) + 250


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"prompt": [f"prompt {n}" for n in range(5000)]}), path, compression="none"
    )
    raw = bytearray(path.read_bytes())
    raw[4:64] = b"\xff" * 60
    path.write_bytes(raw)
    with pytest.raises(PromptFileError, match="Parquet"):
        rows_of(path)


def test_folder_missing_file_and_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="is a folder"):
        open_table(tmp_path, None, set())
    for name in ("missing.jsonl", "missing.xyz", "missing"):
        with pytest.raises(PromptFileError, match=f"There is no file .*{name}"):
            open_table(tmp_path / name, None, set())
    with pytest.raises(PromptFileError, match="no prompt format 'yaml'"):
        open_table(write(tmp_path, "a.txt", "a"), "yaml", set())
