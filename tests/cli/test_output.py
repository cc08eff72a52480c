from __future__ import annotations

import json

import pytest

from undertow.cli.output import figure, literal, print_json, share, visible


def test_json_is_valid_whatever_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), 1: [float("inf"), 0.5], "b": ("\ud800", "é")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "1": [None, 0.5], "b": ["\ud800", "é"]}


def test_control_characters_are_shown_and_markup_is_not_read() -> None:
    assert visible("a\x1b[2J\nb\x07") == "a\\x1b[2J\nb\\x07"
    assert literal("[red]x[/red]").plain == "[red]x[/red]"


def test_figures_are_short() -> None:
    assert [figure(value) for value in (None, 0.0, 1.25e-7)] == ["", "0", "1.2e-07"]
    assert [share(value) for value in (None, 0.0, 0.4567)] == ["", "0.0%", "45.7%"]
