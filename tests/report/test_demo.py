from __future__ import annotations

import json
import re

from tests.demonstrated import demonstrated
from undertow.report.demo import demo_page


def test_the_report_mentions_every_finding_and_holds_every_figure():
    result, folder = demonstrated()
    page = (folder / "report.html").read_text(encoding="utf-8")
    for finding in result.findings:
        assert finding.id in page
    figures = json.loads((folder / "findings.json").read_text())["figures"]
    assert set(figures) == {"belief-map", "quadrants", "guards", "states-t_inst", "states-t_post"}
    for name in figures:
        assert f'id="figure-{name.replace("_", "-")}"' in page
    points = figures["belief-map"]["points"]
    assert sum(len(values["harmfulness"]) for values in points.values()) == sum(cell.n for cell in result.cells)


def test_harmful_prompts_are_truncated_unless_asked_for():
    result, _ = demonstrated()
    long = [prompt.text for prompt in result.cell("persuasion").observed.prompts if len(prompt.text) > 90]
    assert long

    def text(page: str) -> str:
        return re.sub(r"(<br>|\\u003cbr\\u003e)", " ", page)

    hidden, shown = (text(demo_page(result, show_prompts=show).html()) for show in (False, True))
    assert not any(prompt in hidden for prompt in long)
    assert any(prompt in shown for prompt in long)


def test_every_section_says_how_to_read_it_and_has_a_control():
    result, _ = demonstrated()
    *sections, limits = demo_page(result).sections
    assert limits.title == "What this does not show"
    for section in sections:
        assert section.control and section.how_to_read, section.title


def test_the_page_asks_the_network_for_nothing():
    page = (demonstrated()[1] / "report.html").read_text(encoding="utf-8")
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=[\"']https?:", outside)
