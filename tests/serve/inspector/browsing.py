"""The inspector page in headless Chromium, with everything noted that must not happen there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WATCH = """
window.seen = {shifts: [], violations: []};
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (!entry.hadRecentInput) seen.shifts.push([entry.value, ...entry.sources.map((one) => one.node?.id || '?')]);
  }
}).observe({type: 'layout-shift', buffered: true});
addEventListener('securitypolicyviolation', (event) => seen.violations.push(event.violatedDirective));
"""
WIDER = """() => {
  const limit = document.documentElement.clientWidth;
  const inside = (one) => one.closest('.heat-scroll, .table-scroll, svg, .skip');
  const over = [...document.querySelectorAll('body *')].filter(
    (one) => !inside(one) && one.getBoundingClientRect().right > limit + 1);
  return [
    Math.max(0, document.documentElement.scrollWidth - limit),
    over.map((one) => one.id || one.className || one.tagName),
  ];
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield opened
        finally:
            opened.close()


@dataclass
class Visit:
    """One visit to the page.

    Attributes:
        page: the tab.
        url: of the server.
        noise: what the console said and which scripts failed.
        requests: addresses asked for.
    """

    page: Page
    url: str
    noise: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def find(self, selector: str) -> Locator:
        """An element."""
        return self.page.locator(selector)

    def type(self, text: str) -> None:
        """Put a text in the place of the last user message."""
        self.find("#turns .user textarea").last.fill(text)

    def run(self, text: str | None = None) -> None:
        """Press Run and wait for both replies."""
        if text is not None:
            self.type(text)
        self.find("#run").click()
        self.wait()

    def wait(self, words: str = "both replies are done") -> None:
        """Wait for the status to say so."""
        expect(self.find("#status")).to_contain_text(words, timeout=15_000)

    def reply(self, name: str) -> str:
        """The text of the reply "plain" or "steered"."""
        return self.find(f"#{name} .reply-text").inner_text()

    def slide(self, selector: str, value: float) -> None:
        """Move a slider as its keys would."""
        self.find(selector).evaluate(
            "(one, value) => { one.value = value; one.dispatchEvent(new Event('input', {bubbles: true})); }", value
        )

    def open_tables(self) -> None:
        """Open the tables of the strips."""
        self.find("#heat-table summary").click()
        expect(self.find("#heat-tables table")).to_have_count(2)

    def texts(self, selector: str) -> list[str]:
        """What elements say."""
        return self.find(selector).all_text_contents()

    def check(self, expected_noise: str = "") -> None:
        """Nothing failed, nothing from elsewhere, nothing too wide, nothing jumped."""
        seen: dict[str, Any] = self.page.evaluate("seen")
        assert seen["violations"] == [], seen["violations"]
        assert sum(shift[0] for shift in seen["shifts"]) < 0.05, seen["shifts"]
        wide = self.page.evaluate(WIDER)
        assert wide == [0, []], wide
        assert all(address.startswith(self.url) for address in self.requests), self.requests
        unexpected = [line for line in self.noise if not expected_noise or expected_noise not in line]
        assert unexpected == [], unexpected


@contextmanager
def visiting(
    browser: Browser, url: str, *, width: int = 1280, scheme: str = "light", ready: bool = True, **options: Any
) -> Iterator[Visit]:
    """Open the page.

    Args:
        browser: from `chromium`.
        url: of the server.
        width: of the screen.
        scheme: "light" or "dark".
        ready: whether to wait until the page knows what is served.
        options: of the browser's context.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)  # type: ignore[arg-type]
    context.set_default_timeout(15_000)
    try:
        context.add_init_script(WATCH)
        visit = Visit(context.new_page(), url)
        visit.page.on("console", lambda message: visit.noise.append(f"{message.type}: {message.text}"))
        visit.page.on("pageerror", lambda error: visit.noise.append(f"error: {error}"))
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.goto(url)
        if ready:
            expect(visit.find("#run")).to_be_enabled()
        yield visit
    finally:
        context.close()
