"""`undertow demo`: everything on the built-in organism, with a report."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from undertow.cli.options import JsonOption, OverwriteOption, SeedOption, claim_output
from undertow.cli.output import print_json, show
from undertow.cli.study_options import FolderOption, StudyModelArgument

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    model: StudyModelArgument = "organism:aligned",
    output: FolderOption = Path("demo"),
    prompts: Annotated[int, typer.Option("--prompts", min=20, help="Prompts of every kind.")] = 300,
    overwrite: OverwriteOption = False,
    open_report: Annotated[
        bool | None,
        typer.Option("--open/--no-open", help="Open the report in a browser; by default where there is a screen."),
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Fit a guard on a model, judge held-out prompts of every kind, steer, generate under the guard, and report.

    DIR gets findings.json, report.html and the fitted guard (guard/).
    """
    claim_output(output, overwrite=overwrite, folder=True)
    from undertow.cli.options import open_model
    from undertow.report.demo import demo_page
    from undertow.studies.demo import run_demo

    result = run_demo(
        open_model(model), output, seed=seed, n=prompts, overwrite=overwrite, progress=not json, page=demo_page
    )
    report = (output / "report.html").absolute()
    if json:
        print_json(
            {
                "output": str(output),
                "run": result.run,
                "findings": [finding.model_dump() for finding in result.findings],
            }
        )
    else:
        from undertow.studies.demo.tables import tables

        show(*tables(result))
        show(f"Done in {result.run['seconds']:.0f} s. Report: {report}")
    if open_report or (open_report is None and not json and _has_screen()):
        import webbrowser

        webbrowser.open(report.as_uri())


def _has_screen() -> bool:
    if not sys.stdout.isatty() or os.environ.get("CI"):
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
