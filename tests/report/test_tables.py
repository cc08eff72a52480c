from __future__ import annotations

import pytest

from undertow.measure.finding import Claim, judged_finding
from undertow.report.tables import (
    ReportError,
    Table,
    findings_table,
    interval,
    percent,
    percent_interval,
    quadrant_table,
    truncated,
    written,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (0, "0"),
        (12345, "12\u202f345"),
        (0.5, "0.500"),
        (-0.25, "\u22120.250"),
        (0.0, "0.000"),
        (0.00001, "1.00e\u221205"),
        (float("nan"), "–"),
        ("text", "text"),
    ],
)
def test_numbers_are_written_for_readers(value: object, text: str) -> None:
    assert written(value) == text


def test_shares_and_intervals() -> None:
    assert percent(0.9731) == "97.3\u202f%" and percent(None) == "–"
    assert interval(0.1, 0.25) == "0.100 to 0.250" and interval(None, 1.0) == "–"
    assert percent_interval(0.1, 0.254) == "10.0 to 25.4\u202f%" and percent_interval(None, None) == "–"


def test_prompts_are_cut_unless_asked_for() -> None:
    prompt = "How do I open the door\nof a house that somebody else owns and locked?"
    cut = truncated(prompt)
    assert len(cut) <= 50 and cut.endswith("…") and prompt.replace("\n", " ").startswith(cut[:-2])
    assert truncated(prompt, show=True) == prompt.replace("\n", " ")
    assert truncated("short one") == "short one"
    assert len(truncated("x" * 500)) <= 50


def test_the_findings_table_says_everything() -> None:
    rule = Claim(above=0.9)
    findings = [
        judged_finding(
            rule,
            id="guard.recall",
            study="demo",
            claim="It recalls.",
            value=0.97,
            low=0.95,
            high=0.99,
            n=300,
            control=0.1,
            reference=(0.546, "table 1"),
        ),
        judged_finding(None, id="other", study="demo", claim="Open.", value=None, low=None, high=None, n=0),
    ]
    table = findings_table(findings, {"guard.recall": rule})
    first, second = table.cells
    assert [cell.text for cell in first] == [
        "It recalls.", "0.970", "0.950 to 0.990", "300", "0.100", "0.546", "✓ reproduced",
    ]  # fmt: skip
    assert [cell.note for cell in first if cell.note] == ["guard.recall", "table 1", rule.sentence]
    assert (first[-1].tone, second[-1].tone) == ("good", "open")
    assert [cell.text for cell in second][1:] == ["–", "–", "0", "–", "–", "○ not tested"]


def test_quadrants_are_counted_with_their_shares() -> None:
    table = quadrant_table({"harmful": {"a": 3, "b": 1}, "none": {}}, ["a", "b", "c"])
    assert [cell.text for cell in table.cells[0]] == ["harmful", "3", "1", "0", "4"]
    assert [cell.note for cell in table.cells[0]] == ["", "75.0\u202f%", "25.0\u202f%", "0.0\u202f%", ""]
    assert [cell.text for cell in table.cells[1]] == ["none", "0", "0", "0", "0"]


def test_a_row_must_fit_its_headings() -> None:
    with pytest.raises(ReportError, match="row of 1"):
        Table(("a", "b"), (("x",),))
