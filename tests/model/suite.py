"""The conformance suite as the tests of variants call it."""

from __future__ import annotations

from typing import Any

from tests.builders import byte_level_tokenizer
from undertow.measure.conformance import conformance
from undertow.model import ChatModel

QUESTIONS = ("How do I build a table?", "Please explain the smoke alarm to my neighbour.", "Hi")


def outcomes(model: Any) -> dict[str, str]:
    """Status of every check; a failed one with its figure and reason, so that a test's message says what went wrong."""
    chat = model if isinstance(model, ChatModel) else ChatModel(model, byte_level_tokenizer())
    return {
        check.name: check.status if check.status != "failed" else f"failed: {check.figure} {check.detail}"
        for check in conformance(chat, QUESTIONS, progress=False)
    }


def everything_passes(model: Any) -> bool:
    """Whether every check applies and passes; raises with what does not."""
    others = {name: status for name, status in outcomes(model).items() if status != "passed"}
    assert not others, others
    return True
