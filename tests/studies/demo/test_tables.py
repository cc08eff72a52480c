from __future__ import annotations

import io

from rich.console import Console

from undertow.studies.demo import DemoResult
from undertow.studies.demo.tables import tables


def test_everything_is_shown(result: DemoResult):
    console = Console(width=200, file=io.StringIO())
    for part in tables(result):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for finding in result.findings:
        assert finding.id in text
    for cell in result.cells:
        assert cell.kind.title in text
    for detector in result.detectors:
        assert detector.title in text
    for example in result.acting.examples:
        assert example.prompt.text[:40] in text
    for quadrant in result.quadrant_names:
        assert quadrant in text
