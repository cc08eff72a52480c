"""A report: one self-contained HTML file that works offline, in light and dark, on a desk and on a phone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from undertow.measure.finding import Claim, Finding
from undertow.measure.storage import write_atomically
from undertow.report.figure import Figure
from undertow.report.tables import ReportError, Table, findings_table, written


@dataclass(frozen=True)
class Headline:
    """One number of the summary, large.

    Attributes:
        value: The number as shown, such as `97.3 %`.
        label: What it is, in a few plain words.
        note: Its interval, or what it is compared with.
        tone: `good`, `bad` or empty; colours the edge only.
    """

    value: str
    label: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Texts are plain: a blank line parts paragraphs, backticks set code; everything is escaped.

    Attributes:
        title: Heading.
        text: What was done and what came out.
        figures: Figures, shown in order.
        tables: Tables, shown in order.
        control: What the result was held against.
        how_to_read: One paragraph: how to read this.
        skipped: Why this part, or some of it, was not measured.
    """

    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    control: str = ""
    how_to_read: str = ""
    skipped: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that a study has to say.

    Attributes:
        title: Title of the page.
        summary: What came out, for a reader with one minute.
        headlines: The few numbers that carry the summary.
        sections: The parts.
        findings: The findings, tabled after the summary.
        foremost: Ids of the findings that stand first; the others are folded away beneath them. All stand there where
            this is empty.
        rules: For each finding's id, the rule that computed its verdict.
        run: What was run: model, seed, versions, durations; shown at the end.
        terms: Words that the reader may not know, with their meaning.
        subtitle: One line under the title, such as the model.
    """

    title: str
    summary: str
    sections: Sequence[Section]
    headlines: Sequence[Headline] = ()
    findings: Sequence[Finding] = ()
    foremost: Sequence[str] = ()
    rules: Mapping[str, str | Claim] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=dict)
    subtitle: str = ""

    def figure_data(self) -> dict[str, Any]:
        """Return the numbers behind all figures by figure name, for `write_findings(figures=...)`.

        Raises:
            ReportError: If two figures share a name.
        """
        numbers: dict[str, Any] = {}
        for figure in self.figures:
            if figure.name in numbers:
                raise ReportError(f"Two figures share the name {figure.name}: give each its own.")
            numbers[figure.name] = figure.data
        return numbers

    @property
    def figures(self) -> list[Figure]:
        """All figures, in order."""
        return [figure for section in self.sections for figure in section.figures]

    def html(self) -> str:
        """Return the page.

        Raises:
            ReportError: If plotly or jinja2 is missing, or two figures share a name.
        """
        try:
            import jinja2
            import markupsafe
        except ImportError:
            raise ReportError("Reports need jinja2: install it with pip install undertow[report].") from None
        self.figure_data()
        environment = jinja2.Environment(
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            finalize=_unbroken,
        )
        environment.filters["paragraphs"] = _paragraphs
        environment.filters["anchor"] = _anchor
        environment.filters["written"] = lambda value: written(value)
        figures = {
            f"figure-{_anchor(figure.name)}": {
                "data": figure.plot["data"],
                "layout": figure.plot["layout"],
                "views": {title: list(traces) for title, traces in figure.views.items()},
            }
            for figure in self.figures
        }
        template = environment.from_string(_resource("report.html.jinja"))
        return template.render(
            report=self,
            findings=self._findings_tables(),
            style=markupsafe.Markup(_resource("report.css")),
            script=markupsafe.Markup(_resource("report.js")),
            plotly=markupsafe.Markup(_plotly_script()) if figures else "",
            figures=markupsafe.Markup(_script_json(figures)),
        )

    def _findings_tables(self) -> list[Table]:
        if not self.findings:
            return []
        first = [finding for finding in self.findings if not self.foremost or finding.id in self.foremost]
        others = [finding for finding in self.findings if finding not in first]
        tables = [findings_table(first, self.rules)] if first else []
        if others:
            folded = findings_table(others, self.rules)
            tables.append(replace(folded, caption=f"{len(others)} more findings", folded=True))
        return tables

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all.

        Raises:
            ReportError: If plotly or jinja2 is missing, or two figures share a name.
        """
        return write_atomically(path, self.html())


def _resource(name: str) -> str:
    return resources.files("undertow.report").joinpath(name).read_text(encoding="utf-8")


def _plotly_script() -> str:
    from undertow.report.figure import require_plotly

    require_plotly()
    from plotly.offline import get_plotlyjs

    # A closing tag within the library would end the element that holds it.
    return re.sub(r"</(script)", r"<\\/\1", str(get_plotlyjs()), flags=re.IGNORECASE)


def _script_json(value: Any) -> str:
    """Return JSON that cannot end the script element that holds it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return "".join(escapes.get(character, character) for character in text)


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"


def _unbroken(value: Any) -> Any:
    """Keep a number and its per cent sign on one line; leave finished markup as it is."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return re.sub(r"(?<=\d) %", "\u202f%", value)
    return value


def _paragraphs(text: str) -> Any:
    """Return plain text as escaped paragraphs; backticks set code."""
    import markupsafe

    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        escaped = str(markupsafe.escape(_unbroken(" ".join(paragraph.split()))))
        parts.append("<p>" + re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped) + "</p>")
    return markupsafe.Markup("\n".join(parts)) if text.strip() else ""
