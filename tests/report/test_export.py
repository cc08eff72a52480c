from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from undertow.report import export
from undertow.report.export import check_export, drawings_of, export_figures
from undertow.report.figures import Bar, guard_comparison
from undertow.report.html import Report, Section
from undertow.report.matrix import matrix
from undertow.report.tables import ReportError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CAN_DRAW = CHROMIUM is not None and find_spec("kaleido") is not None
VIEWED = matrix("flow", {"first one": [[0.1]], "second": [[0.9]]}, ["a"], ["b"], kind="share")
PLAIN = guard_comparison("guards", [Bar("linear", 0.9, 0.8, 0.95, 100)])


def test_every_view_is_a_drawing_of_its_own_in_the_colours_of_the_page() -> None:
    names = [name for name, _ in [*drawings_of(PLAIN), *drawings_of(VIEWED)]]
    assert names == ["guards", "flow--first-one", "flow--second"]
    shown = [[trace["visible"] for trace in plot["data"]] for _, plot in drawings_of(VIEWED)]
    assert shown == [[True, False], [False, True]]
    _, plot = next(drawings_of(VIEWED))
    assert plot["layout"]["paper_bgcolor"] == "#ffffff" and plot["layout"]["font"]["color"].startswith("#")
    assert plot["data"][0]["textfont"]["color"] == plot["layout"]["font"]["color"]
    assert VIEWED.plot["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ReportError, match="png or svg"):
        check_export("gif")


def test_without_kaleido_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "kaleido" else object())
    with pytest.raises(ReportError, match=r"pip install undertow\[figures\]"):
        check_export("png")


@pytest.mark.skipif(find_spec("kaleido") is None, reason="needs kaleido")
def test_without_a_browser_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from choreographer.browsers.chromium import Chromium

    monkeypatch.setattr(Chromium, "find_browser", staticmethod(lambda **options: None))
    with pytest.raises(ReportError, match="need Chrome or Chromium"):
        check_export("svg")


@pytest.mark.skipif(not CAN_DRAW, reason="needs kaleido and Chromium")
def test_figures_are_drawn_into_files(tmp_path: Path) -> None:
    report = Report("t", "s", [Section("one", figures=[PLAIN, VIEWED])])
    files = export_figures(report, tmp_path / "figures", "svg")
    assert [file.name for file in files] == ["guards.svg", "flow--first-one.svg", "flow--second.svg"]
    first, second, third = (file.read_text(encoding="utf-8") for file in files)
    assert first.startswith("<svg") and "linear" in first
    assert "10" in second and "90" in third and second != third


@pytest.mark.skipif(not CAN_DRAW, reason="needs kaleido and Chromium")
def test_a_browser_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kaleido

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("it fell\nover")

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", broken)
    with pytest.raises(ReportError, match="could not draw the figures: it fell over"):
        export_figures(Report("t", "s", [Section("one", figures=[PLAIN])]), tmp_path, "png")


def test_importing_it_needs_neither_kaleido_nor_plotly() -> None:
    import subprocess

    script = "import sys, undertow.report.export\nassert not {'kaleido', 'plotly', 'torch'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
