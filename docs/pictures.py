"""Pictures of a report, and a check of it, in headless Chromium.

    python docs/pictures.py demo/report.html docs/images
    python docs/pictures.py beliefs/report.html OUT --check --figure belief-map --figure dissociation

Takes the page 1280 and 390 pixels wide, light and dark, and some figures alone. With --check it ends with exit code 1
where the page writes an error to the console, asks the network for anything, is wider than the screen, draws nothing
in a figure or in one of its views, or cuts off a figure's text. It works on any report. Chromium is driven
by its DevTools protocol over a pipe, so nothing but the standard library is needed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from typing import Any

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
FIGURES = ("belief-map",)
TALLEST = 14_000
OVERFLOW = """(() => {
  const limit = document.documentElement.clientWidth;
  const wide = [...document.querySelectorAll('main *')].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width > 0 && box.right > limit + 1 && !one.closest('svg');
  });
  return {page: document.documentElement.scrollWidth, limit,
    wide: wide.slice(0, 5).map(one => one.tagName.toLowerCase() + (one.className ? '.' + one.className : ''))};
})()"""
PLOTS = """(() => [...document.querySelectorAll('.plot')].map(
  one => [one.id, one.querySelectorAll('svg').length, one.getBoundingClientRect().height]))()"""


CUT = """(() => [...document.querySelectorAll('.plot')].flatMap(plot => {
  const room = plot.getBoundingClientRect();
  return [...plot.querySelectorAll('svg text')].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width > 0 && (box.left < room.left - 2 || box.right > room.right + 2
      || box.top < room.top - 2 || box.bottom > room.bottom + 2);
  }).map(one => [plot.id, one.textContent]);
}))()"""
VIEWS = """(async () => {
  const empty = [];
  for (const list of document.querySelectorAll('select[data-figure]')) {
    const first = list.value;
    for (const view of [...[...list.options].map(one => one.value), first]) {
      list.value = view;
      list.dispatchEvent(new Event('change'));
      await new Promise(done => setTimeout(done, 150));
      const place = document.getElementById(list.dataset.figure);
      const shown = place.querySelectorAll('.heatmaplayer image, .scatterlayer .point, .barlayer .point').length;
      if (!shown) empty.push(list.dataset.figure + ' in the view ' + view);
    }
  }
  return empty;
})()"""


class BrowserError(Exception):
    """Chromium cannot be found, started or talked to."""


class Browser:
    """One headless Chromium, spoken to by messages that end in a zero byte."""

    def __init__(self, profile: Path) -> None:
        binary = next(
            (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
        )
        if binary is None:
            raise BrowserError("Chromium is not installed: install it, for instance with apt-get install chromium.")
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        command = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "browser", binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._count = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result; events that come meanwhile are kept."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            answer = self._next(deadline)
            if answer is None:
                break
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise BrowserError(f"Chromium refuses {method}: {answer['error'].get('message')}.")
                return dict(answer["result"])
        raise BrowserError(f"Chromium did not answer {method} within a minute.")

    def wait(self, method: str, seconds: float) -> None:
        """Wait for an event, at most so long."""
        deadline = time.monotonic() + seconds
        while not any(event["method"] == method for event in self.events):
            if self._next(deadline) is None:
                raise BrowserError(f"Chromium sent no {method} within {seconds:g} s.")

    def drain(self, seconds: float) -> None:
        """Take in events for a while."""
        deadline = time.monotonic() + seconds
        while self._next(deadline) is not None:
            pass

    def close(self) -> None:
        """End the browser."""
        with suppress(BrowserError, OSError):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for descriptor in (self._out, self._in):
            os.close(descriptor)

    def _next(self, deadline: float) -> dict[str, Any] | None:
        while b"\0" not in self._buffer:
            ready, _, _ = select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            part = os.read(self._in, 1 << 20)
            if not part:
                raise BrowserError("Chromium has ended.")
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\0", 1)
        message = dict(json.loads(line))
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a fresh profile, ended afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        opened = Browser(Path(profile))
        try:
            yield opened
        finally:
            opened.close()


@dataclass
class View:
    """The page at one width in one colour scheme.

    Attributes:
        name: such as `1280-light`.
        problems: sentences on what is wrong.
        pictures: file name -> PNG.
    """

    name: str
    problems: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)


def look(opened: Browser, report: Path, width: int, scheme: str, figures: Sequence[str] = FIGURES) -> View:
    """Open the page in a tab of its own, note what is wrong, and take its pictures and those of some figures."""
    view = View(f"{width}-{scheme}")
    target = opened.call("Target.createTarget", url="about:blank")["targetId"]
    session = opened.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    opened.events.clear()
    for domain in ("Page", "Runtime", "Log", "Network"):
        opened.call(f"{domain}.enable", session)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.call("Emulation.setDeviceMetricsOverride", session, **size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.call("Emulation.setEmulatedMedia", session, features=[feature])
    address = report.absolute().as_uri()
    opened.call("Page.navigate", session, url=address)
    opened.wait("Page.loadEventFired", 60)
    opened.drain(1.0)

    def evaluate(script: str) -> Any:
        found = opened.call("Runtime.evaluate", session, expression=script, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    view.problems += [f"draws nothing in {name}" for name in evaluate(VIEWS)]
    overflow = evaluate(OVERFLOW)
    if overflow["page"] > overflow["limit"]:
        view.problems.append(
            f"is {overflow['page']} pixels wide on a screen of {overflow['limit']}: {', '.join(overflow['wide'])}"
        )
    view.problems += [f"draws nothing in {name}" for name, drawn, height in evaluate(PLOTS) if not drawn or height < 50]
    view.problems += [f"cuts off {text!r} in {name}" for name, text in evaluate(CUT)]
    height = int(evaluate("document.documentElement.scrollHeight"))
    for number, top in enumerate(range(0, height, TALLEST), start=1):
        part: dict[str, float] = {"x": 0, "y": top, "width": width, "height": min(TALLEST, height - top), "scale": 1}
        name = f"report-{view.name}" + (f"-{number}" if height > TALLEST else "")
        view.pictures[f"{name}.png"] = _picture(opened, session, part)
    for figure in figures:
        box = evaluate(
            f"(() => {{ const one = document.getElementById('figure-' + {json.dumps(figure)}); if (!one) return null;"
            " const box = one.getBoundingClientRect();"
            " return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height}; })()"
        )
        if box is not None:
            view.pictures[f"{figure}-{view.name}.png"] = _picture(opened, session, {**box, "scale": 2})
    view.problems += _noise(opened.events, address)
    opened.call("Target.closeTarget", targetId=target)
    return view


def _picture(opened: Browser, session: str, clip: dict[str, float]) -> bytes:
    taken = opened.call("Page.captureScreenshot", session, format="png", captureBeyondViewport=True, clip=clip)
    return base64.b64decode(taken["data"])


def _noise(events: list[dict[str, Any]], address: str) -> list[str]:
    """What the console and the network saw that a self-contained page must not do."""
    found = []
    for event in events:
        parameters = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            found.append(f"throws: {details.get('exception', {}).get('description', details.get('text'))}")
        elif event["method"] == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            said = " ".join(str(part.get("value", part.get("description", ""))) for part in parameters["args"])
            found.append(f"writes to the console: {said}")
        elif event["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            found.append(f"logs: {parameters['entry']['text']}")
        elif event["method"] == "Network.requestWillBeSent":
            wanted = parameters["request"]["url"]
            if wanted.split("#")[0] != address and not wanted.startswith(("data:", "blob:", "about:")):
                found.append(f"asks the network for {wanted}")
    return found


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("report", type=Path)
    flags.add_argument("output", type=Path)
    flags.add_argument("--check", action="store_true", help="exit code 1 where anything is wrong with the page")
    flags.add_argument(
        "--figure", action="append", metavar="NAME", help="take this figure alone too; belief-map if none"
    )
    arguments = flags.parse_args()
    if not arguments.report.is_file():
        print(f"There is no report {arguments.report}; make one with undertow demo or undertow study.", file=sys.stderr)
        return 2
    try:
        with browser() as opened:
            figures = arguments.figure or FIGURES
            views = [look(opened, arguments.report, width, scheme, figures) for width in WIDTHS for scheme in SCHEMES]
    except BrowserError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.output.mkdir(parents=True, exist_ok=True)
    for view in views:
        for name, content in view.pictures.items():
            (arguments.output / name).write_bytes(content)
        for problem in view.problems:
            print(f"{arguments.report} at {view.name} {problem}", file=sys.stderr)
    wrong = sum(len(view.problems) for view in views)
    print(f"{sum(len(view.pictures) for view in views)} pictures in {arguments.output}, {wrong} problems")
    return 1 if arguments.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
