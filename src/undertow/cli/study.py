"""`undertow study`: the studies, one command each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undertow.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    OverwriteOption,
    RevisionOption,
    SeedOption,
    ThinkingOption,
    TrustOption,
    claim_output,
    open_model,
)
from undertow.cli.output import print_json, show
from undertow.cli.study_options import (
    FiguresOption,
    FolderOption,
    JudgeOption,
    MostPromptsOption,
    ReplyTokensOption,
    ShowPromptsOption,
    StudyModelArgument,
    check_figures,
    export_pages,
)
from undertow.cli.study_routing import routing
from undertow.errors import UndertowError

if TYPE_CHECKING:
    from undertow.report.html import Report
    from undertow.studies.beliefs.result import BeliefsResult

app = typer.Typer(add_completion=False, help="Run a published study on a model, one command a study.")
app.command()(routing)


@app.callback(invoke_without_command=True)
def study(context: typer.Context) -> None:
    """Run a published study on a model: its figures and tables, with intervals and controls, in one report."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def beliefs(
    model: StudyModelArgument = "organism:aligned",
    output: FolderOption = Path("beliefs"),
    harmful: Annotated[
        str | None, typer.Option("--harmful", metavar="F", help="Harmful prompts: a file or a Hub id.")
    ] = None,
    harmless: Annotated[
        str | None, typer.Option("--harmless", metavar="F", help="Harmless prompts: a file or a Hub id.")
    ] = None,
    jailbreaks: Annotated[
        str | None,
        typer.Option(
            "--jailbreaks",
            metavar="F",
            help="Wrapped harmful prompts, instead of our wrappers; column wrapper: family.",
        ),
    ] = None,
    gcg: Annotated[
        int, typer.Option("--gcg", min=0, metavar="N", help="Search suffixes by gradient for N prompts; 0: do not.")
    ] = 0,
    judge: JudgeOption = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="NAME",
            help="Another guard to compare with: llama-guard:ID or classifier:ID[#LABEL]; repeatable.",
        ),
    ] = None,
    prompts: MostPromptsOption = 200,
    reply_tokens: ReplyTokensOption = 16,
    show_prompts: ShowPromptsOption = False,
    figures: FiguresOption = None,
    overwrite: OverwriteOption = False,
    thinking: ThinkingOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Does the model know harm apart from refusing it? Ten parts, after arXiv 2507.11878.

    DIR gets findings.json and report.html. Without files the built-in prompts are used.
    """
    if (harmful is None) != (harmless is None):
        raise UndertowError("Give --harmful and --harmless together, or neither for the built-in prompts.")
    claim_output(output, overwrite=overwrite, folder=True)
    check_figures(figures)
    from undertow.report.beliefs.page import beliefs_page
    from undertow.studies.beliefs.run import run_beliefs

    pages: list[Report] = []

    def page(result: BeliefsResult) -> Report:
        pages.append(beliefs_page(result, show_prompts=show_prompts))
        return pages[-1]

    chat = open_model(
        model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code, thinking=thinking
    )
    result = run_beliefs(
        chat,
        output,
        harmful=harmful,
        harmless=harmless,
        jailbreaks=jailbreaks,
        judge=judge,
        baselines=tuple(baseline or ()),
        gcg=gcg,
        seed=seed,
        most=prompts,
        reply_tokens=reply_tokens,
        overwrite=overwrite,
        progress=not json,
        page=page,
    )
    files = export_pages(pages, output / "figures", figures)
    if json:
        print_json(_plain(result, output, files))
        return
    from undertow.studies.beliefs.tables import summary_tables

    show(*summary_tables(result))
    written = f" {len(files)} figures in {output / 'figures'}." if files else ""
    show(f"Done in {result.run.get('seconds', 0.0):.0f} s. Report: {(output / 'report.html').absolute()}.{written}")


def _plain(result: BeliefsResult, output: Path, files: list[Path]) -> dict[str, Any]:
    return {
        "output": str(output),
        "run": result.run,
        "skipped": result.skipped,
        "findings": [finding.model_dump() for finding in result.findings],
        "figures": [str(file) for file in files],
    }
