from __future__ import annotations

from typing import Any

import pytest

from undertow.errors import PromptFileError
from undertow.prompts.columns import ColumnChoice, Columns, guess_columns


def guess(row: dict[str, Any], **choice: str) -> Columns:
    return guess_columns(list(row), [row], ColumnChoice(**choice), "file")


@pytest.mark.parametrize(
    ("row", "prompt", "labels", "category", "identifier"),
    [
        ({"goal": "x", "target": "Sure"}, "goal", (), None, None),
        (
            {"Index": "0", "Goal": "x", "Target": "y", "Behavior": "z", "Category": "Fraud", "Source": "s"},
            "Goal", (), "Category", "Index",
        ),
        (
            {"Behavior": "x", "FunctionalCategory": "standard", "SemanticCategory": "chemical", "BehaviorID": "b"},
            "Behavior", (), "SemanticCategory", "BehaviorID",
        ),
        ({"id": "1", "prompt": "x", "type": "homonyms", "label": "safe"}, "prompt", ("label",), "type", "id"),
        ({"bad_q": "x"}, "bad_q", (), None, None),
        (
            {"prompt": "x", "adversarial": True, "response": "", "prompt_harm_label": "unharmful", "subcategory": "s"},
            "prompt", ("prompt_harm_label",), "subcategory", None,
        ),
        ({"instruction": "x", "input": "", "output": "y", "text": "z"}, "instruction", (), None, None),
        (
            {"question_id": 1, "category": "7", "turns": ["x"], "prompt_style": "base"},
            "turns", (), "category", "question_id",
        ),
        ({"Category": "c", "Subcategory": "s", "Question": "x"}, "Question", (), "Category", None),
        ({"text": "x", "is_harmful": 1}, "text", ("is_harmful",), None, None),
        ({"prompt": "x", "category": "harmful"}, "prompt", ("category",), None, None),
        ({"prompt": "x", "harmful": 1, "label": "yes"}, "prompt", ("harmful", "label"), None, None),
        ({"prompt": "x", "harmful": 1, "label": "poem"}, "prompt", ("harmful",), None, None),
        ({"prompt": "x", "response": "y", "is_safe": True}, "prompt", (), None, None),
        ({"prompt": "x", "is_safe": True}, "prompt", ("is_safe",), None, None),
        ({"messages": ["x"], "model": "m"}, "messages", (), None, None),
    ],
)  # fmt: skip
def test_columns_of_real_files(
    row: dict[str, Any], prompt: str, labels: tuple[str, ...], category: str | None, identifier: str | None
) -> None:
    columns = guess(row)
    assert (columns.prompt, columns.labels, columns.category, columns.id) == (prompt, labels, category, identifier)
    read = {prompt, *labels, category, identifier, columns.wrapper}
    assert set(columns.unread) == set(row) - read


def test_two_equally_likely_columns_are_refused_by_name() -> None:
    with pytest.raises(
        PromptFileError, match="'Prompt', 'question' may each hold the prompts; say which with --prompt-column"
    ):
        guess({"Prompt": "x", "question": "y"})


def test_an_empty_column_is_not_likely() -> None:
    assert guess({"prompt": None, "question": "y"}).prompt == "question"


def test_a_choice_settles_it_in_any_spelling() -> None:
    row = {"Prompt": "x", "question": "y", "My Label": 1}
    columns = guess(row, prompt="QUESTION", label="my_label", category="none", id="none")
    assert columns == Columns("question", ("My Label",), unread=("Prompt",))


def test_none_means_no_column() -> None:
    columns = guess({"prompt": "x", "label": 1, "category": "c", "id": 3}, label="none", category="none", id="none")
    assert columns.labels == () and columns.category is None and columns.id is None


@pytest.mark.parametrize(
    ("field", "flag"),
    [
        ("prompt", "--prompt-column"),
        ("label", "--label-column"),
        ("category", "--category-column"),
        ("id", "--id-column"),
    ],
)
def test_a_chosen_column_that_is_not_there_is_refused(field: str, flag: str) -> None:
    with pytest.raises(PromptFileError, match=f"'nowhere' for {flag}.*'prompt'"):
        guess({"prompt": "x"}, **{field: "nowhere"})


def test_no_known_column_is_refused_and_the_columns_listed() -> None:
    with pytest.raises(PromptFileError, match=r"'alpha', 'beta'.*--prompt-column"):
        guess({"alpha": "x", "beta": "y"})
