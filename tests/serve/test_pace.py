from __future__ import annotations

import pytest

from undertow.serve.pace import Pace


def test_an_estimate_follows_what_was_seen() -> None:
    pace = Pace()
    assert pace.tokens_within(9.0) == pace.tokens_within(0.1) > 0
    pace.note(1000, 0.5)
    assert pace.tokens_within(0.1) == 200
    for _ in range(60):
        pace.note(1000, 0.1)
    assert pace.tokens_within(0.1) == pytest.approx(1000, rel=0.01)
    pace.note(0, 0.0)
    for _ in range(100):
        pace.note(0, 1.0)
    assert pace.tokens_within(1.0) == 1
