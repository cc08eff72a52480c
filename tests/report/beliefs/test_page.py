from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.report.beliefs.made import HARMFUL_TEXT, SKIPPED, bare_result, full_result
from undertow.report.beliefs.page import beliefs_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_ten_parts_in_order_each_with_figure_control_and_reading() -> None:
    *parts, limits = beliefs_page(full_result()).sections
    assert len(parts) == 10
    for section in parts:
        assert section.figures and section.control and section.how_to_read and not section.skipped, section.title
    assert limits.title == "What this does not show" and "one grammar" in limits.text


def test_parts_that_were_skipped_say_why_and_the_page_still_stands() -> None:
    page = beliefs_page(bare_result())
    _, *parts, _ = page.sections
    assert [section.skipped for section in parts] == [bare_result().skipped[name] for name in SKIPPED]
    assert not any(section.figures or section.tables for section in parts)
    text = page.html()
    for reason in bare_result().skipped.values():
        assert reason in text


def test_all_figures_have_numbers_in_plain_json_and_a_place_on_the_page() -> None:
    page = beliefs_page(full_result())
    data = page.figure_data()
    json.dumps(data, allow_nan=False)
    text = page.html()
    places = set(re.findall(r'id="(figure-[a-z0-9-]+)"', text))
    assert {f"figure-{name.replace('_', '-')}" for name in data} == places
    assert len(data) >= 30


def test_harmful_prompts_are_truncated_unless_asked_for() -> None:
    def words(text: str) -> str:
        return re.sub(r"(<br>|\\u003cbr\\u003e)", " ", text)

    hidden, shown = (words(beliefs_page(full_result(), show_prompts=show).html()) for show in (False, True))
    assert HARMFUL_TEXT not in hidden and HARMFUL_TEXT in shown


class _Lists(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.options: dict[str, int] = {}
        self.current = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "select":
            self.current = str(dict(attrs)["data-figure"])
            self.options[self.current] = 0
        elif tag == "option":
            self.options[self.current] += 1


def test_figures_with_views_have_a_list_to_choose_from() -> None:
    page = beliefs_page(full_result())
    wanted = {f"figure-{one.name}": len(one.views) for one in page.figures if one.views}
    assert _Lists(page.html()).options == wanted
    assert {"figure-inversion", "figure-attack-flow", "figure-category-cosines", "figure-belief-map-families"} <= set(
        wanted
    )


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_on_a_phone_nothing_is_cut_off_and_every_view_draws(tmp_path: Path) -> None:
    from docs.pictures import browser, look

    path = beliefs_page(full_result()).write(tmp_path / "report.html")
    with browser() as opened:
        view = look(opened, path, 390, "dark", ("inversion",))
    assert view.problems == []
    assert view.pictures["inversion-390-dark.png"].startswith(b"\x89PNG")
