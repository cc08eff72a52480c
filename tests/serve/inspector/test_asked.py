from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from undertow.serve.inspector.asked import ReplyRequest

TURN = {"role": "user", "content": "bake0"}
STEERING = {"direction": "refusal", "state": 1, "coefficient": 1.5, "span": "tail"}


def test_a_request_becomes_a_prompt() -> None:
    asked = ReplyRequest.model_validate({"messages": [{"role": "system", "content": "a"}, TURN], "steering": STEERING})
    assert asked.prompt().messages == [{"role": "system", "content": "a"}, TURN]
    assert asked.steering is not None and asked.steering.coefficient == 1.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [TURN] * 65},
        {"messages": [{"role": "tool", "content": "a"}]},
        {"messages": [{"role": "user", "content": ["a"]}]},
        {"max_tokens": 0},
        {"max_tokens": 257},
        {"temperature": float("nan")},
        {"steering": {**STEERING, "coefficient": float("inf")}},
        {"steering": {**STEERING, "coefficient": 8.5}},
        {"steering": {**STEERING, "span": [0, 1]}},
        {"steering": {**STEERING, "direction": "gender"}},
        {"edits": []},
        {"on_harmful": "ignore"},
    ],
)
def test_anything_else_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReplyRequest.model_validate({"messages": [TURN], **wrong})
