from __future__ import annotations

import pytest

from undertow.errors import PromptFileError
from undertow.prompts.jsonfile import read_json_rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('[{"prompt": "a"},\n\n {"prompt": "b"}]', [("line 1", {"prompt": "a"}), ("line 3", {"prompt": "b"})]),
        ('\n["a",\n"b"]\n', [("line 2", {"text": "a"}), ("line 3", {"text": "b"})]),
        ('{"prompt": "a"}\n{"prompt": "b"}\n', [("line 1", {"prompt": "a"}), ("line 2", {"prompt": "b"})]),
        ('{"version": 1, "rows": [{"prompt": "a"}]}', [("row 1", {"prompt": "a"})]),
        (
            '{"prompt": ["a", "b"], "label": [0, 1]}',
            [("row 1", {"prompt": "a", "label": 0}), ("row 2", {"prompt": "b", "label": 1})],
        ),
        ("[]", []),
    ],
)
def test_shapes(text: str, rows: list) -> None:
    assert list(read_json_rows(text, "f")) == rows


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty"),
        ("  \n ", "empty"),
        ('[{"prompt": "a"},\n {"prompt": "b"', "line 2: not valid JSON"),
        ('[{"prompt": "a"},\n', "line 2: the list never closes"),
        ('[{"prompt": "a"}\n {"prompt": "b"}]', "line 2: not valid JSON (a comma is missing"),
        ('[{"prompt": "a"}]\nrest', "line 2: something follows"),
        ('[{"prompt": "a"},\n 3]', "line 2: every element"),
        ('[{"prompt": "a"},\n{"prompt": "b", "prompt": "c"}]', "line 2: the object has the key 'prompt' twice"),
        ('{"prompt": "a"}\n{"prompt": ]\n', "line 2: not valid JSON"),
        ('{"prompt": ["a"], "label": [0, 1]}', "different lengths ('prompt' 1, 'label' 2)"),
        ('{"prompt": "a", "label": 1}', "must be a list of objects"),
        ("3", "single value"),
        ("{\n'prompt': 1}", "line 2: not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text: str, named: str) -> None:
    with pytest.raises(PromptFileError) as error:
        list(read_json_rows(text, "f"))
    message = str(error.value)
    assert (
        named in message.replace("in the value that begins on ", "") and "\n" not in message and message.endswith(".")
    )
