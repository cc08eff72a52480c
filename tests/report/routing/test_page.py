from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.routed_result import HARMLESS, SECRET, SKIPPED, bare_result, full_result, hollow_result
from undertow.report.routing.page import routing_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RESULTS = {"full": full_result(), "bare": bare_result(), "hollow": hollow_result()}
TITLES = (
    "The pairs",
    "Every head, exchanged on its own",
    "The circuit",
    "Heads together",
    "Ablation against interchange",
    "Detection turned down and up",
    "When the decision is fixed",
    "Under a cipher",
    "Two models on the same pairs",
    "Circuits whose heads are known",
)


@cache
def _html(name: str, show_prompts: bool = False) -> str:
    return routing_page(RESULTS[name], show_prompts=show_prompts).html()


def test_parts_in_order_each_with_figure_control_and_reading() -> None:
    claims, *parts, limits = routing_page(full_result()).sections
    assert claims.title == "What the paper claims"
    assert tuple(section.title for section in parts) == TITLES
    for section in parts:
        assert section.figures and section.control and section.how_to_read and not section.skipped, section.title
    assert "one grammar" in limits.text


def test_parts_that_were_skipped_say_why() -> None:
    page = routing_page(bare_result())
    reasons = bare_result().skipped
    said = [section.skipped for section in page.sections if section.title in TITLES]
    assert said[3:] == [reasons[name] for name in SKIPPED]
    assert said[1] == reasons["screening, tail"]
    text = _html("bare")
    assert all(reason in text for reason in reasons.values())
    empty = [section for section in page.sections if section.title in TITLES[3:]]
    assert not any(section.figures or section.tables for section in empty)


def test_a_part_that_is_missing_without_a_reason_is_still_said_to_be_missing() -> None:
    silent = replace(bare_result(), skipped={})
    for section in routing_page(silent).sections:
        if section.title in TITLES[3:]:
            assert "does not say why" in section.skipped


@pytest.mark.parametrize("name", list(RESULTS))
def test_figures_have_a_title_plain_numbers_and_a_place(name: str) -> None:
    page = routing_page(RESULTS[name])
    data = page.figure_data()
    json.dumps(data, allow_nan=False)
    text = _html(name)
    places = set(re.findall(r'id="(figure-[a-z0-9-]+)"', text))
    assert {f"figure-{name.replace('_', '-')}" for name in data} == places
    for figure in page.figures:
        layout = figure.plot["layout"]
        above = layout["legend"].get("title", {}).get("text") or layout["annotations"][-1]["text"]
        words = re.sub(r"<br>", " ", above).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        assert words.split() == figure.data["title"].split()
        assert "n = " in words or re.search(r"n pairs|n = gates|\d+ (report|built|pairs)|by topic", words), words


def test_titles_name_an_interval_or_say_that_there_is_none() -> None:
    for figure in routing_page(full_result()).figures:
        assert re.search(r"95 %|interval|family-wise", figure.data["title"]), figure.name


class _Text(HTMLParser):
    """What is outside of scripts, and every address that could be fetched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.addresses: list[str] = []
        self._script = False
        self.figures: Any = None
        self._figures = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self._script = tag == "script"
        self._figures = known.get("id") == "figures"
        self.addresses += [
            str(known[name]) for name in ("src", "href", "srcset", "data", "action") if known.get(name) is not None
        ]

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = self._figures = False

    def handle_data(self, data: str) -> None:
        if self._figures:
            self.figures = json.loads(data)
        elif not self._script:
            self.said.append(data)


def test_the_page_asks_for_nothing_from_outside() -> None:
    page = _Text(_html("full"))
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not any("http" in part for part in page.said)
    assert "http" not in json.dumps(page.figures)


def test_sensitive_prompts_are_truncated_unless_asked_for_and_always_escaped() -> None:
    hidden, shown = (_html("full", show) for show in (False, True))
    assert SECRET not in "".join(_Text(hidden).said) and SECRET in "".join(_Text(shown).said)
    for page in (hidden, shown):
        assert HARMLESS in "".join(_Text(page).said)
        assert "<b>the thing</b>" not in page and "<i>a swan</i>" not in page


def test_names_of_groups_and_models_cannot_become_markup_of_a_figure() -> None:
    page = routing_page(full_result())
    plots = json.dumps([figure.plot for figure in page.figures])
    assert "weapons &lt;i&gt;" in plots and "<i>" not in re.sub(r'"(legendgroup|title|name)": "[^"]*"', "", plots)


def test_with_no_gate_it_says_so_plainly() -> None:
    page = routing_page(bare_result())
    assert "No gate was found among 24 heads." in page.summary
    assert page.headlines[0].value == "0"
    assert "No gate was found" in next(one for one in page.sections if one.title == "The circuit").control


def test_empty_bands_and_numbers_that_are_none_break_nothing() -> None:
    page = routing_page(hollow_result())
    sections = {section.title: section for section in page.sections}
    assert "there is no band" in sections["Heads together"].text and not sections["Heads together"].figures
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", "".join(_Text(_html("hollow")).said).lower())
    assert json.loads(json.dumps(page.figure_data()))["heads"]["panels"][0]["values"] == [None] * 24


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_on_a_phone_nothing_is_cut_off_and_every_view_draws(tmp_path: Path) -> None:
    from docs.pictures import browser, look

    path = routing_page(full_result()).write(tmp_path / "report.html")
    with browser() as opened:
        view = look(opened, path, 390, "dark", ("modulation",))
    assert view.problems == []
    assert view.pictures["modulation-390-dark.png"].startswith(b"\x89PNG")
