"""The report that every study uses: findings and figures in one self-contained HTML file.

Nothing here is imported until it is asked for; only figures need plotly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undertow.report.figure import Figure as Figure
    from undertow.report.html import Headline as Headline
    from undertow.report.html import Report as Report
    from undertow.report.html import Section as Section
    from undertow.report.tables import Table as Table
    from undertow.report.tables import findings_table as findings_table
    from undertow.report.tables import truncated as truncated

_HOMES = {
    "Figure": "figure",
    "Headline": "html",
    "Report": "html",
    "Section": "html",
    "Table": "tables",
    "findings_table": "tables",
    "truncated": "tables",
}

__all__ = ["Figure", "Headline", "Report", "Section", "Table", "findings_table", "truncated"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
