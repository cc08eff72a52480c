from __future__ import annotations

import html as html_module
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from undertow.measure.finding import Claim, judged_finding
from undertow.report.figures import Bar, Curve, belief_map, guard_comparison, score_curves
from undertow.report.html import Headline, Report, Section
from undertow.report.matrix import matrix
from undertow.report.tables import ReportError, Table

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror=alert(1)> & \u2028 'quoted' \"twice\""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def make(**changes: object) -> Report:
    rule = Claim(above=0.9)
    finding = judged_finding(
        rule,
        id="guard.recall",
        study="demo",
        claim=f"It recalls {HOSTILE}",
        value=0.97,
        low=0.95,
        high=0.99,
        n=300,
        control=0.1,
        reference=(0.5, f"source {HOSTILE}"),
    )
    figures = [
        belief_map("beliefs", [HOSTILE, "harmless"], [0.1, -0.1], [0.2, -0.2], labels=[HOSTILE, "b"]),
        guard_comparison("guards", [Bar(f"rule of a rather long name {HOSTILE}", 0.9, 0.8, 0.95, 100, "a", True)]),
        score_curves("curves", [Curve(HOSTILE, [0.1, 0.2], [0.0, 0.1], [0.2, 0.3])], [0, 1]),
    ]
    sections = [
        Section("First", f"Text with `code`.\n\nSecond paragraph {HOSTILE}", figures, control=HOSTILE),
        Section("Second", how_to_read=HOSTILE),
        Section("Third", tables=[Table(("Prompt", "Score"), ((HOSTILE, 0.5), ("y" * 300, 1)), (1,), HOSTILE)]),
    ]
    content = {
        "title": f"Report {HOSTILE}",
        "summary": f"One minute. {HOSTILE}",
        "headlines": [Headline("97 %", HOSTILE, "95 to 99 %", "good")],
        "sections": sections,
        "findings": [finding],
        "rules": {"guard.recall": rule},
        "run": {"model": HOSTILE, "seed": 0},
        "terms": {"t_inst": HOSTILE},
    }
    return Report(**(content | changes))  # type: ignore[arg-type]


class Page(HTMLParser):
    """Every element with its attributes, and the text of scripts and of everything else."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.words.append(data)


def test_hostile_texts_stay_texts() -> None:
    page = Page(make().html())
    assert len(page.scripts) == 3
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    text = "".join(page.words)
    assert text.count("window.broken = 1") >= 10
    figures = json.loads(page.scripts[1])
    assert figures["figure-curves"]["data"][1]["name"] == HOSTILE
    assert "<code>code</code>" in make().html()


def test_the_page_refers_to_nothing_outside_itself() -> None:
    page = Page(make().html())
    for tag, attrs in page.elements:
        assert not (tag in ("script", "iframe", "object", "embed") and ("src" in attrs or "data" in attrs))
        for name in ("src", "href", "action", "srcset"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), (tag, attrs)
    policy = [attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy and "default-src 'none'" in str(policy[0])
    style = re.search(r"<style>(.*?)</style>", make().html(), re.DOTALL)
    assert style and "url(" not in style.group(1) and "@import" not in style.group(1)


def test_plotly_is_inside_once_and_only_if_there_is_a_figure() -> None:
    from plotly.offline import get_plotlyjs

    with_figures, without = make().html(), make(sections=[Section("Only words", "Nothing to see.")]).html()
    assert abs(len(with_figures) - len(get_plotlyjs())) < 200_000
    assert len(without) < 60_000 and "<script" not in without
    assert Page(with_figures).scripts[0].count("plotly.js v") == 1


def test_every_part_is_shown() -> None:
    page = Page(make().html())
    text = " ".join(" ".join(page.words).split())
    for part in (
        "In one minute", "97 %", "Findings", "guard.recall", "0.970", "0.950 to 0.990", "300", "✓ reproduced",
        "reproduced if the whole 95 % interval lies above 0.9", "Control", "How to read this", "What was run",
        "Words used here", "Second paragraph",
    ):  # fmt: skip
        assert part in text, part
    places = {attrs.get("id") for _, attrs in page.elements}
    links = {str(attrs["href"])[1:] for tag, attrs in page.elements if tag == "a"}
    assert links == {"first", "second", "third"} <= places
    assert {"figure-beliefs", "figure-guards", "figure-curves"} <= places
    assert set(json.loads(page.scripts[1])) <= places
    labels = [attrs["aria-label"] for tag, attrs in page.elements if attrs.get("role") == "img"]
    assert len(labels) == 3 and all(labels)


def test_a_part_that_was_not_measured_says_why_and_a_figure_with_views_offers_them() -> None:
    viewed = matrix("flow", {f"one {HOSTILE}": [[0.1]], "two": [[0.9]]}, ["a"], ["b"], kind="share")
    page = Page(
        make(sections=[Section("Left out", skipped=f"Because {HOSTILE}"), Section("V", figures=[viewed])]).html()
    )
    text = "".join(page.words)
    assert "Not measured" in text and f"Because {' '.join(HOSTILE.split())}" in " ".join(text.split())
    lists = [attrs for tag, attrs in page.elements if tag == "select"]
    assert lists == [{"data-figure": "figure-flow"}]
    assert json.loads(page.scripts[1])["figure-flow"]["views"] == {f"one {HOSTILE}": [0], "two": [1]}


def test_written_in_one_step_with_its_numbers(tmp_path: Path) -> None:
    report = make()
    path = report.write(tmp_path / "folder" / "report.html")
    assert path.read_text(encoding="utf-8") == report.html()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert set(report.figure_data()) == {"beliefs", "guards", "curves"}
    figure = report.figures[0]
    with pytest.raises(ReportError, match="share the name beliefs"):
        make(sections=[Section("Twice", figures=[figure, figure])]).write(path)
    assert path.read_text(encoding="utf-8") == report.html()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_a_browser_nothing_overflows_and_nothing_fails(tmp_path: Path) -> None:
    listen = (
        "<head><script>window.failures = [];"
        "addEventListener('error', e => failures.push(e.message));"
        "addEventListener('securitypolicyviolation', e => failures.push(e.violatedDirective + e.blockedURI));</script>"
    )
    tell = """<script>setTimeout(() => {
      const room = document.documentElement.clientWidth;
      const over = [...document.querySelectorAll('body *')].filter(
        e => !e.closest('svg') && e.getBoundingClientRect().right > room + 1).map(e => e.tagName + '.' + e.className);
      parent.postMessage({wide: innerWidth, scroll: document.documentElement.scrollWidth - room, over, failures,
        drawn: document.querySelectorAll('.plot .main-svg').length, broken: window.broken || 0}, '*');
    }, 2500)</script></body>"""
    page = make().html().replace("<head>", listen, 1)
    (tmp_path / "page.html").write_text(tell.join(page.rsplit("</body>", 1)), encoding="utf-8")
    (tmp_path / "both.html").write_text(
        "<title>waiting</title><script>const said = []; addEventListener('message', e => { said.push(e.data);"
        "document.title = JSON.stringify(said); });</script>"
        + "".join(
            f"<iframe src='page.html' style='width:{width}px;height:700px;border:0'></iframe>" for width in (390, 1280)
        ),
        encoding="utf-8",
    )
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1800,900", "--virtual-time-budget=9000",
         "--dump-dom", (tmp_path / "both.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    said = json.loads(html_module.unescape(title.group(1)))
    assert sorted(one["wide"] for one in said) == [390, 1280]
    for one in said:
        assert one["scroll"] <= 0, one
        assert one["over"] == [] and one["failures"] == [] and one["broken"] == 0
        assert one["drawn"] >= 3
