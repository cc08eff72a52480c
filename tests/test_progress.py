from __future__ import annotations

import io
import re
import sys
import time

import pytest

from undertow.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_with_a_rate_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, shown = io.StringIO(), Terminal()
    for stream in (quiet, shown):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar(10, "Counting") as advance:
            for _ in range(10):
                advance(1)
                time.sleep(0.03)
    assert quiet.getvalue() == ""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    assert "Counting" in text and "10/10" in text and "/s" in text


def test_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with progress_bar(3, "Counting", enabled=False) as advance:
        advance(3)
    assert shown.getvalue() == ""
