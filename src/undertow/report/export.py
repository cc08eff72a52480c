"""Figures of a report as PNG or SVG files, drawn by kaleido in a browser that is installed already."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from undertow.errors import UndertowError
from undertow.report.figure import Figure
from undertow.report.html import Report
from undertow.report.tables import ReportError

FORMATS = ("png", "svg")
WIDTH = 900
SCALE = 2
_INK, _SOFT, _LINE, _GRID, _PAPER = "#1c1e21", "#5a5f66", "#deded9", "#e8e8e4", "#ffffff"


def check_export(form: str) -> None:
    """Refuse an export that cannot work, before anything is measured for it.

    Args:
        form: "png" or "svg".

    Raises:
        ReportError: the format is unknown, or plotly, kaleido or a browser is missing.
    """
    if form not in FORMATS:
        raise ReportError(f"There is no figure format {form!r}: use {' or '.join(FORMATS)}.")
    if find_spec("plotly") is None or find_spec("kaleido") is None:
        raise ReportError("Figures as files need kaleido: install it with pip install undertow[figures].")
    browser()


def browser() -> str:
    """The path of the browser that draws: `BROWSER_PATH` of the environment, or Chrome or Chromium where it is found.

    Raises:
        ReportError: there is none.
    """
    from choreographer.browsers.chromium import Chromium

    found = Chromium.find_browser(skip_local=False)
    if not found or not Path(found).is_file():
        raise ReportError(
            "Figures as files need Chrome or Chromium: install one, or set BROWSER_PATH to where it lies, or leave out "
            "--figures."
        )
    return str(found)


def export_figures(report: Report, folder: str | Path, form: str = "png") -> list[Path]:
    """Write every figure, in the light colours of the page, as NAME.png or NAME.svg; a figure with views once a view.

    Args:
        report: the report.
        folder: where to; made if it is missing. Files of the same names are replaced.
        form: "png" or "svg".

    Returns:
        The files, in the order of the figures.

    Raises:
        ReportError: see `check_export`; or the browser fails to draw one.
        UndertowError: the folder cannot be written to.
    """
    check_export(form)
    import kaleido

    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UndertowError(f"The folder {target} cannot be made: {error.strerror or error}.") from None
    drawings = [drawing for figure in report.figures for drawing in drawings_of(figure)]
    wanted: list[dict[str, Any]] = [
        {
            "fig": plot,
            "path": str(target / f"{name}.{form}"),
            "opts": {
                "format": form,
                "width": WIDTH,
                "height": int(plot["layout"].get("height", 420)),
                "scale": SCALE if form == "png" else 1,
            },
        }
        for name, plot in drawings
    ]
    if not wanted:
        return []
    try:
        # No formulas are drawn, so the script for them is not asked of the network.
        failed = kaleido.write_fig_from_object_sync(wanted, kopts={"path": browser(), "mathjax": False})
    except Exception as error:
        raise ReportError(f"The browser could not draw the figures: {_line(error)}.") from None
    if failed:
        raise ReportError(f"The browser could not draw {len(failed)} of {len(wanted)} figures: {_line(failed[0])}.")
    return [Path(one["path"]) for one in wanted]


def drawings_of(figure: Figure) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every view of a figure as (file name without ending, plotly JSON in the light colours of the page)."""
    if not figure.views:
        yield _file_name(figure.name), _coloured(figure.plot)
        return
    chosen = {index for traces in figure.views.values() for index in traces}
    for title, traces in figure.views.items():
        plot = _coloured(figure.plot)
        for index in chosen:
            plot["data"][index]["visible"] = index in traces
        yield f"{_file_name(figure.name)}--{_file_name(title)}", plot


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-") or "figure"


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__


def _coloured(plot: dict[str, Any]) -> dict[str, Any]:
    """A copy with the colours that the page's script would set."""
    found = copy.deepcopy(plot)
    layout = found["layout"]
    layout["paper_bgcolor"] = layout["plot_bgcolor"] = _PAPER
    layout["font"] = {**layout.get("font", {}), "color": _INK, "family": "system-ui, Arial, sans-serif"}
    layout["margin"] = {side: max(int(size), 16) for side, size in layout.get("margin", {}).items()}
    for key, axis in layout.items():
        if re.fullmatch(r"[xy]axis\d*", key):
            axis |= {"gridcolor": _GRID, "linecolor": _LINE, "zerolinecolor": _LINE, "tickfont": {"color": _SOFT}}
    for annotation in layout.get("annotations", ()):
        annotation["font"] = {**annotation.get("font", {}), "color": _SOFT}
    for trace in found["data"]:
        if trace.get("type") == "heatmap" and trace.get("texttemplate"):
            trace["textfont"] = {**trace.get("textfont", {}), "color": _INK}
    return found
