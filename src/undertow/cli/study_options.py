"""Flags that the studies, the demo and the comparison share, and what becomes of figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from undertow.report.html import Report

FiguresOption = Annotated[
    str | None, typer.Option("--figures", metavar="png|svg", help="Write every figure as a file too, to DIR/figures.")
]
ShowPromptsOption = Annotated[
    bool,
    typer.Option("--show-prompts", help="Show harmful prompts whole in the report; by default they are truncated."),
]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="NAME",
        help="Judge of refusals: substring (the default), classifier:ID[#LABEL], endpoint:URL#MODEL.",
    ),
]
MostPromptsOption = Annotated[
    int, typer.Option("--prompts", min=20, help="Most bare prompts of each class in each half.")
]
ReplyTokensOption = Annotated[int, typer.Option("--reply-tokens", min=1, help="Tokens of a reply that are judged.")]
StudyModelArgument = Annotated[str, typer.Argument(metavar="[MODEL]", help="Hub id, folder, or organism:NAME.")]
FolderOption = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for everything it writes.")]


def check_figures(form: str | None) -> None:
    """Refuse a form of figures that cannot be drawn here, before anything runs.

    Raises:
        UndertowError: it is neither png nor svg, or a library is missing.
    """
    if form is not None:
        from undertow.report.export import check_export

        check_export(form)


def export_pages(pages: list[Report], folder: Path, form: str | None) -> list[Path]:
    """Write the figures of the last page as files, where a form was given; gives back the files."""
    if form is None or not pages:
        return []
    from undertow.report.export import export_figures

    return export_figures(pages[-1], folder, form)
