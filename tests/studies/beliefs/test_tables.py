from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from tests.report.beliefs.made import bare_result, full_result
from undertow.studies.beliefs.result import BeliefsResult
from undertow.studies.beliefs.tables import LINES, summary_tables


def _printed(result: BeliefsResult, width: int = 100) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False)
    for part in summary_tables(result):
        console.print(part)
    return stream.getvalue()


def test_one_screen_says_what_is_known_seen_attacked_and_found() -> None:
    text = _printed(full_result())
    for part in (
        "accepted harmful", "89.6 % (81.7 to 94.9)", "linear", "94.8 % (88.3 to 98.3)", "97.9 %, 2.1 %, 96.9 %",
        "5.0 (0.0 to 10.0)", "2 reproduced, 1 not reproduced, 1 not tested", "beliefs.double_dissociation",
    ):  # fmt: skip
        assert part in text, part


def test_it_fits_the_screen_however_many_findings_there_are() -> None:
    result = full_result()
    many = tuple(
        finding.model_copy(update={"id": f"beliefs.finding_{number}"})
        for number in range(12)
        for finding in result.findings[:3]
    )
    lines = _printed(replace(result, findings=many)).splitlines()
    assert len(lines) <= LINES + 2 and max(map(len, lines)) <= 100
    assert any("more in findings.json" in line for line in lines)


def test_judged_findings_come_before_those_that_were_not_tested() -> None:
    result = full_result()
    text = _printed(replace(result, findings=tuple(reversed(result.findings))))
    assert text.index("beliefs.suffixes_hide_harm") < text.index("beliefs.categories")


def test_parts_that_were_skipped_are_named() -> None:
    text = _printed(bare_result())
    assert "Not measured: separation, belief map" in text
    assert "judge" not in text and "attack" not in text.replace("attacks", "")
