"""Words, numbers and booleans that say whether a request is harmful."""

from __future__ import annotations

import math
from typing import Any

HARMFUL_WORDS: frozenset[str] = frozenset(
    {"harmful", "unsafe", "malicious", "bad", "dangerous", "toxic", "harm", "true", "yes", "1", "1.0", "t", "y"}
)
HARMLESS_WORDS: frozenset[str] = frozenset(
    {
        "harmless", "unharmful", "not harmful", "not_harmful", "non-harmful", "nonharmful", "non_harmful", "benign",
        "safe", "good", "not unsafe", "false", "no", "0", "0.0", "f", "n",
    }
)  # fmt: skip
_TRUTH_WORDS: frozenset[str] = frozenset({"true", "yes", "1", "1.0", "t", "y", "false", "no", "0", "0.0", "f", "n"})
_EMPTY_WORDS: frozenset[str] = frozenset({"", "none", "null", "nan", "n/a", "na"})


class NotALabelError(ValueError):
    """A value says neither harmful nor harmless."""


def is_missing(value: Any) -> bool:
    """Whether a cell says nothing: null, not a number, or one of the empty words."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().lower() in _EMPTY_WORDS


def parse_label(value: Any, inverted: bool = False) -> bool | None:
    """Reads one label.

    Args:
        value: a boolean, 0 or 1, or a word such as "harmful", "unharmful", "benign", "unsafe".
        inverted: True where the column asks the opposite question (`is_safe`): booleans, 0 and 1, yes and no are
            turned round; words that name the answer ("unsafe") are not.

    Returns:
        True for harmful, False for harmless, None for an empty cell.

    Raises:
        NotALabelError: the value is none of these.
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        word = value.strip().lower()
        if word in HARMFUL_WORDS or word in HARMLESS_WORDS:
            return (word in HARMFUL_WORDS) != (inverted and word in _TRUTH_WORDS)
    elif isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value) != inverted
    raise NotALabelError(f"{value!r} is neither harmful nor harmless")


def reads_as_label(value: Any) -> bool:
    """Whether `parse_label` accepts the value."""
    try:
        parse_label(value)
    except NotALabelError:
        return False
    return True
