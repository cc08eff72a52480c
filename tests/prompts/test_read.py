from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.errors import PromptFileError
from undertow.prompts import Prompt, iterate_prompts


def jsonl(folder: Path, *rows: Any, name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_field_is_read(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {
            "id": "q7",
            "prompt": "x",
            "label": "unsafe",
            "category": "fraud",
            "wrapper": "role play",
            "style": "s",
            "lang": "en",
        },
        {"id": None, "prompt": " y ", "label": None, "category": None, "wrapper": "base", "style": None, "lang": ""},
    )
    assert list(iterate_prompts(path)) == [
        Prompt("x", True, "fraud", "role play", "s", "en", "q7"),
        Prompt(" y ", id="2"),
    ]


def test_ids_are_row_numbers_where_the_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\n\nb\n")
    assert [prompt.id for prompt in iterate_prompts(path)] == ["1", "2"]
    numbered = jsonl(tmp_path, {"id": 10, "prompt": "a"}, {"id": 11, "prompt": "b"})
    assert [prompt.id for prompt in iterate_prompts(numbered)] == ["10", "11"]
    assert [prompt.id for prompt in iterate_prompts(numbered, id_column="none")] == ["1", "2"]


@pytest.mark.parametrize("format_", ["csv", "jsonl", "json", "parquet"])
def test_all_formats_give_the_same_prompts(tmp_path: Path, format_: str) -> None:
    rows = [
        {"prompt": "one", "harmful": "1"},
        {"prompt": 'two, or "so"\nmore', "harmful": "0"},
        {"prompt": "drei ü 😀", "harmful": ""},
    ]
    path = tmp_path / f"a.{format_}"
    if format_ == "csv":
        quoted = ['"' + row["prompt"].replace('"', '""') + f'",{row["harmful"]}' for row in rows]
        path.write_text("\n".join(["prompt,harmful", *quoted]), encoding="utf-8")
    elif format_ == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif format_ == "jsonl":
        jsonl(tmp_path, *rows)
    else:
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    prompts = list(iterate_prompts(path))
    assert [prompt.text for prompt in prompts] == [row["prompt"] for row in rows]
    assert [prompt.harmful for prompt in prompts] == [True, False, None]


def test_turns_and_conversations(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {"turns": ["only"]},
        {"turns": ["first", "second"]},
        {"turns": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"turns": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    )
    contents = [prompt.content for prompt in iterate_prompts(path)]
    assert contents == [
        "only",
        ({"role": "user", "content": "first"}, {"role": "user", "content": "second"}),
        "a",
        ({"role": "system", "content": "s"}, {"role": "user", "content": "a"}),
    ]


def test_inverted_columns_by_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt": "a", "is_safe": True}, {"prompt": "b", "is_safe": False})
    assert [prompt.harmful for prompt in iterate_prompts(path)] == [False, True]
    assert [prompt.harmful for prompt in iterate_prompts(path, label_column="none")] == [None, None]


def test_limit_stops_before_a_later_error(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt": "a"}, {"prompt": "b"}, {"prompt": ""})
    assert [prompt.text for prompt in iterate_prompts(path, limit=2)] == ["a", "b"]
    with pytest.raises(PromptFileError, match="line 3"):
        list(iterate_prompts(path, limit=3))
    with pytest.raises(PromptFileError, match="at least 1"):
        iterate_prompts(path, limit=0)


def test_labelling_a_whole_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt": "a", "label": None}, {"prompt": "b", "label": 1})
    assert [prompt.harmful for prompt in iterate_prompts(path, harmful=True)] == [True, True]
    with pytest.raises(PromptFileError, match="line 2: column 'label' calls the prompt harmful, and the whole file"):
        list(iterate_prompts(path, harmful=False))


BAD_ROWS: list[tuple[list[Any], str]] = [
    ([{"prompt": "a"}, {"prompt": "  "}], "line 2: the prompt in column 'prompt' is empty"),
    ([{"prompt": "a"}, {"prompt": None}], "line 2: the prompt in column 'prompt' is empty"),
    ([{"prompt": "a"}, {"text": "b"}], "line 2: the prompt column 'prompt' is missing; this row has 'text'"),
    ([{"prompt": "a"}, {}], "line 2: the prompt column 'prompt' is missing; this row has no columns"),
    ([{"prompt": "a"}, {"prompt": 4}], "line 2: the prompt in column 'prompt' is int"),
    ([{"prompt": "a"}, {"prompt": {"a": 1}}], "line 2: the prompt in column 'prompt' is dict"),
    ([{"prompt": "\ud800"}], "line 1: character 1 of the prompt is half of a surrogate pair"),
    ([{"turns": []}], "line 1: the prompt in column 'turns' is empty"),
    ([{"turns": ["a", ""]}], "line 1: the last turn of the prompt in column 'turns' is empty"),
    ([{"turns": [{"role": "assistant", "content": "a"}]}], "line 1, column 'turns': A conversation must hold"),
    ([{"turns": ["a", 3]}], "line 1, column 'turns': Message 1"),
    ([{"prompt": "a", "label": 1}, {"prompt": "b", "label": "maybe"}], "line 2: 'maybe' in column 'label' is no label"),
    ([{"prompt": "a", "label": 2}], "line 1: 2 in column 'label' is no label"),
    ([{"prompt": "a", "harmful": 0.5}], "line 1: 0.5 in column 'harmful' is no label"),
    (
        [{"prompt": "a", "harmful": 1, "label": 1}, {"prompt": "b", "harmful": True, "label": "safe"}],
        "line 2: the columns 'harmful' and 'label' disagree",
    ),
    ([{"prompt": "a", "question": "b"}], "'prompt', 'question' may each hold the prompts"),
    ([{"alpha": "a"}], "none of the columns 'alpha' is known"),
    ([{"prompt": "a", "Prompt": "b"}], "the column 'Prompt' is there twice"),
]


@pytest.mark.parametrize(("rows", "named"), BAD_ROWS, ids=[named[:40] for _, named in BAD_ROWS])
def test_a_bad_row_is_one_sentence_with_its_line(tmp_path: Path, rows: list[Any], named: str) -> None:
    path = jsonl(tmp_path, *rows)
    with pytest.raises(PromptFileError) as error:
        list(iterate_prompts(path))
    message = str(error.value)
    assert named in message and message.startswith(str(path)) and message.endswith(".") and "\n" not in message


def test_a_header_without_rows_and_a_file_of_blanks_hold_no_prompts(tmp_path: Path) -> None:
    for name, text in (("a.csv", "prompt,label\n"), ("a.txt", " \n\n"), ("a.jsonl", "\n"), ("a.json", "[]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(PromptFileError, match=f"{name} holds no prompts"):
            iterate_prompts(tmp_path / name)


def test_a_missing_file_is_said_before_the_first_prompt(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="There is no file"):
        iterate_prompts(tmp_path / "missing.csv")
    with pytest.raises(PromptFileError, match="empty"):
        iterate_prompts("")
    with pytest.raises(PromptFileError, match="cannot be opened"):
        iterate_prompts("x" * 5000 + ".csv")
    with pytest.raises(PromptFileError, match="no prompt format 'yaml'"):
        iterate_prompts(tmp_path, format="yaml")


@pytest.mark.parametrize("format_", ["jsonl", "csv", "text"])
def test_streaming_takes_constant_memory(tmp_path: Path, format_: str) -> None:
    path = tmp_path / "large"
    line = {
        "jsonl": '{"prompt": "' + "word " * 200 + '%d"}\n',
        "csv": "word " * 200 + "%d\n",
        "text": "word " * 200 + "%d\n",
    }[format_]
    with path.open("w") as file:
        if format_ == "csv":
            file.write("prompt\n")
        file.writelines(line % number for number in range(20_000))
    assert path.stat().st_size > 20e6
    tracemalloc.start()
    count = sum(1 for _ in iterate_prompts(path, format=format_))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 3e6


def test_streaming_is_lazy_over_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["fine"] * 4000 + [""]}), path, row_group_size=500)
    assert len(list(islice(iterate_prompts(path), 3000))) == 3000
    with pytest.raises(PromptFileError, match="row 4001: the prompt in column 'prompt' is empty"):
        list(iterate_prompts(path))


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=200), format_=st.sampled_from(["csv", "tsv", "jsonl", "json", "text", "parquet"]))
def test_any_bytes_give_prompts_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, format_: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(raw)
    try:
        prompts = list(iterate_prompts(path, format=format_, prompt_column="text" if format_ == "text" else None))
        assert all(isinstance(prompt, Prompt) and prompt.text.strip() for prompt in prompts)
    except PromptFileError as error:
        assert str(error).endswith(".") and "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=20))
def test_json_lines_come_back_as_written(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = jsonl(tmp_path_factory.getbasetemp(), *({"prompt": text} for text in texts))
    assert [prompt.text for prompt in iterate_prompts(path)] == texts


def test_importing_prompts_is_light() -> None:
    heavy = ("torch", "pandas", "datasets", "pyarrow", "transformers", "sklearn", "numpy")
    code = f"import sys, undertow.prompts; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
