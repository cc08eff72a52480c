"""Pictures of the inspector page, and a click through it, in headless Chromium.

    python docs/inspector_pictures.py docs/images
    python docs/inspector_pictures.py docs/images --check

Fits a guard on the built-in organism, serves it on a free port of this machine, and asks it about a jailbreak. Writes
inspector-{1280,390}-{light,dark}.png. With --check no picture is written; the exit code is 1 where the page writes
an error to the console, breaks its content security policy, asks anything but its own server, is wider than the
screen, or does not get to both replies.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 60.0
JAILBREAK = "a jailbreak"
WATCH = """
window.violations = [];
addEventListener('securitypolicyviolation', (event) => violations.push(event.violatedDirective));
"""


@dataclass
class View:
    """The page at one width in one colour scheme.

    Attributes:
        name: such as `1280-light`.
        problems: sentences on what is wrong.
        picture: the page as PNG.
    """

    name: str
    problems: list[str] = field(default_factory=list)
    picture: bytes = b""


@contextmanager
def served() -> Iterator[str]:
    """The address of a server of a guard that is fitted on the built-in organism; every policy is allowed."""
    import undertow as ut
    from undertow.serve.app import create_app
    from undertow.serve.server import server_for
    from undertow.serve.settings import PolicySettings, ServeSettings

    prompts = ut.PromptSet.builtin("train")
    model = ut.load("organism:aligned")
    guard = ut.LatentGuard.fit(
        model, prompts.harmful(), prompts.harmless(), rule="linear", refusal_rule="linear", progress=False
    )
    settings = ServeSettings(guard="built-in", policy=PolicySettings(allowed=("flag", "steer", "release")))
    server = server_for(create_app(guard, settings), settings)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until = time.monotonic() + SECONDS
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(SECONDS)


def look(browser: Browser, url: str, width: int, scheme: str) -> View:
    """Click through the page once and take its picture."""
    from playwright.sync_api import Error, expect

    view = View(f"{width}-{scheme}")
    options: dict[str, Any] = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    context = browser.new_context(**options)
    context.set_default_timeout(SECONDS * 1000)
    context.add_init_script(WATCH)
    page = context.new_page()
    page.on("console", lambda message: view.problems.append(f"writes to the console: {message.text}"))
    page.on("pageerror", lambda error: view.problems.append(f"throws: {error}"))
    page.on("request", lambda request: _foreign(view, url, request.url))
    try:
        page.goto(url)
        expect(page.locator("#run")).to_be_enabled()
        page.locator("#on-harmful").select_option("flag")
        page.locator("#example").select_option(label=JAILBREAK)
        page.locator("#run").click()
        expect(page.locator("#status")).to_contain_text("both replies are done", timeout=SECONDS * 1000)
        for reply in ("plain", "steered"):
            expect(page.locator(f"#{reply} .curve path.line")).to_have_count(2)
        page.locator("#heat-table summary").click()
        expect(page.locator("#heat-tables table")).to_have_count(2)
        page.locator("#heat-table summary").click()
        page.locator("#steer").click()
        expect(page.locator("#status")).to_contain_text("steered reply is done", timeout=SECONDS * 1000)
        # The pointer would leave its mark on the picture.
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        view.picture = page.screenshot(full_page=True)
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if over > 0:
            view.problems.append(f"is {over} pixels wider than the screen")
        view.problems += [f"breaks its policy: {one}" for one in page.evaluate("violations")]
    except (Error, AssertionError) as error:
        view.problems.append(f"does not get through: {str(error).splitlines()[0]}")
    finally:
        context.close()
    return view


def _foreign(view: View, url: str, asked: str) -> None:
    if not asked.startswith(url):
        view.problems.append(f"asks the network for {asked}")


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("output", type=Path)
    flags.add_argument("--check", action="store_true", help="only click through; exit code 1 where anything is wrong")
    arguments = flags.parse_args()
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        print("Chromium is not installed: install it, for instance with apt-get install chromium.", file=sys.stderr)
        return 2
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("The pictures need playwright: install it with pip install playwright.", file=sys.stderr)
        return 2
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=list(FLAGS))
        views = [look(browser, url, width, scheme) for width in WIDTHS for scheme in SCHEMES]
        browser.close()
    for view in views:
        for problem in view.problems:
            print(f"The inspector at {view.name} {problem}", file=sys.stderr)
        if not arguments.check and view.picture:
            arguments.output.mkdir(parents=True, exist_ok=True)
            (arguments.output / f"inspector-{view.name}.png").write_bytes(view.picture)
    wrong = sum(len(view.problems) for view in views)
    print(f"{len(views)} views of the inspector, {wrong} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
