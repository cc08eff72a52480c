"""`undertow scan`: score a corpus of prompts with a guard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undertow.cli.guards import ForceOption, open_guard
from undertow.cli.options import (
    CategoryColumnOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LabelColumnOption,
    OverwriteOption,
    PromptColumnOption,
    RevisionOption,
    ThinkingOption,
    TrustOption,
    reading_options,
)
from undertow.cli.output import literal, print_json, share, show

if TYPE_CHECKING:
    from undertow.guard import LatentGuard, ScanResult

app = typer.Typer(add_completion=False)


@app.command()
def scan(
    guard: Annotated[
        str, typer.Argument(metavar="GUARD", help="Folder of a guard, or its Hub id.", show_default=False)
    ],
    prompts: Annotated[
        str, typer.Argument(metavar="PROMPTS", help="A file of prompts, or a Hub dataset.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="A .jsonl or .parquet file.", show_default=False)
    ],
    model: Annotated[str | None, typer.Option("--model", help="Model to read; by default the guard's own.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows written at a time.")] = 64,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most prompts to score.")] = None,
    include_prompts: Annotated[bool, typer.Option("--include-prompts", help="Write the prompts' text too.")] = False,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    prompt_column: PromptColumnOption = None,
    label_column: LabelColumnOption = None,
    category_column: CategoryColumnOption = None,
    thinking: ThinkingOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Score every prompt of a corpus and write a row for each.

    Interrupted, run it again as it was and it goes on where it stopped. The output does not depend on --batch-size.
    """
    reading = reading_options(prompt_column, label_column, category_column)
    read_through(prompts, limit, reading)
    opened = open_guard(
        guard,
        model,
        thinking=thinking,
        force=force,
        revision=revision,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    from undertow.guard.scan import scan as run_scan

    result = run_scan(
        opened,
        prompts,
        output,
        batch_size=batch_size,
        limit=limit,
        overwrite=overwrite,
        include_prompts=include_prompts,
        **reading,
    )
    if json:
        print_json(_summary(opened, result))
    else:
        _show(opened, result)


def read_through(source: str, limit: int | None, reading: dict[str, Any]) -> None:
    """Read a file of prompts once before anything is scored, so that a bad line in it costs no hours of work.

    Raises:
        PromptFileError: the file, or one of its lines, cannot be read.
    """
    from undertow.progress import progress_bar
    from undertow.prompts import iterate_prompts

    if Path(source).is_file():
        with progress_bar(limit, "Reading prompts") as advance:
            for _ in iterate_prompts(source, limit=limit, **reading):
                advance(1)


def _summary(guard: LatentGuard, result: ScanResult) -> dict[str, Any]:
    return {
        "output": str(result.path),
        "rows": result.rows,
        "resumed": result.resumed,
        "flagged": result.flagged,
        "errors": result.errors,
        "quadrants": result.quadrants,
        "guard": guard.fingerprint,
        "warnings": list(guard.mismatches),
    }


def _show(guard: LatentGuard, result: ScanResult) -> None:
    from rich.table import Table

    from undertow.guard import QUADRANTS

    table = Table(title=literal(f"{result.rows} prompts in {result.path}"), title_justify="left")
    table.add_column("what the model believes and is about to do")
    table.add_column("prompts", justify="right")
    table.add_column("share", justify="right")
    for name in QUADRANTS if guard.refusal is not None else ("harmful", "harmless"):
        count = result.quadrants.get(name, 0)
        table.add_row(name, str(count), share(count / result.rows))
    if result.errors:
        table.add_row("could not be scored", str(result.errors), share(result.errors / result.rows))
    table.add_section()
    table.add_row("flagged as harmful", str(result.flagged), share(result.flagged / result.rows))
    show(table)
    if result.resumed:
        show(f"{result.resumed} of these rows were there already.")
    for warning in guard.mismatches:
        show(literal(warning, "yellow"))
