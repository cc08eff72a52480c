from __future__ import annotations

import pytest

from undertow.prompts.labels import NotALabelError, parse_label


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "true", "True", "YES", "harmful", " Unsafe ", "malicious", "1.0"])
def test_harmful_labels(value: object) -> None:
    assert parse_label(value) is True


@pytest.mark.parametrize(
    "value", [False, 0, 0.0, "0", "false", "no", "harmless", "unharmful", "Benign", "safe", "non-harmful", "0.0"]
)
def test_harmless_labels(value: object) -> None:
    assert parse_label(value) is False


@pytest.mark.parametrize("value", [None, "", "  ", float("nan"), "null", "None", "N/A"])
def test_missing_labels(value: object) -> None:
    assert parse_label(value) is None


@pytest.mark.parametrize("value", [2, -1, 0.5, "maybe", "refusal", [], {}, "harmfull"])
def test_what_is_no_label_is_refused(value: object) -> None:
    with pytest.raises(NotALabelError):
        parse_label(value)


def test_an_inverted_column_turns_truth_values_but_not_words() -> None:
    assert [parse_label(value, inverted=True) for value in (True, 1, "yes", False, 0, "no")] == [
        False, False, False, True, True, True,
    ]  # fmt: skip
    assert parse_label("unsafe", inverted=True) is True
    assert parse_label("safe", inverted=True) is False
