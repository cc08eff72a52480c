"""`undertow study routing`: which heads carry a model's decision to refuse, and what it costs to find out."""

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
    ReplyTokensOption,
    ShowPromptsOption,
    StudyModelArgument,
    check_figures,
    export_pages,
)
from undertow.errors import UndertowError

if TYPE_CHECKING:
    from undertow.report.html import Report
    from undertow.studies.routing.plan import Plan
    from undertow.studies.routing.result import RoutingResult


def routing(
    model: StudyModelArgument = "organism:bilingual",
    output: FolderOption = Path("routing"),
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs", metavar="FILE", help="Matched pairs: CSV, JSONL, ... with columns sensitive and control."
        ),
    ] = None,
    pairs_most: Annotated[
        int | None,
        typer.Option("--pairs-most", min=16, metavar="N", help="Most pairs; 120 of an organism's."),
    ] = None,
    readout: Annotated[
        str, typer.Option("--readout", metavar="NAME", help="log-odds (the default), control-loss or projection.")
    ] = "log-odds",
    refusal_token: Annotated[
        list[str] | None,
        typer.Option("--refusal-token", metavar="TEXT", help="Opening of a refusal for the log-odds; repeatable."),
    ] = None,
    answer_token: Annotated[
        list[str] | None,
        typer.Option("--answer-token", metavar="TEXT", help="Opening of an answer for the log-odds; repeatable."),
    ] = None,
    judge: JudgeOption = None,
    cipher: Annotated[
        str,
        typer.Option("--cipher", metavar="none|default|FILE", help="Cipher of part 9, or a file with a table."),
    ] = "default",
    compare_with: Annotated[
        str | None, typer.Option("--compare-with", metavar="MODEL", help="A second model on the same pairs.")
    ] = None,
    builds: Annotated[
        int | None,
        typer.Option("--builds", min=0, metavar="N", help="Built circuits to find; 50 for organisms, else 0."),
    ] = None,
    branches: Annotated[
        int | None, typer.Option("--branches", min=1, metavar="N", help="Most branches of replay in a pass; 512.")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option("--memory", metavar="GB", help="Bound on memory, weights included: chooses branches and batches."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what it would cost here, at 8B and at 72B; nothing is measured.")
    ] = False,
    flops: Annotated[
        float | None,
        typer.Option("--tflops", metavar="T", help="Speed the plan reckons with, in TFLOP/s; measured by default."),
    ] = None,
    permutations: Annotated[int, typer.Option("--permutations", min=100, help="Sign flips of every test.")] = 10_000,
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
    """Which heads carry the decision to refuse? Ten parts, after arXiv 2604.04385.

    DIR gets findings.json and report.html. The built-in organisms come with matched pairs; other models need --pairs.
    """
    if flops is not None and not flops > 0:
        raise UndertowError("A speed in TFLOP/s is a number above 0.")
    if not plan:
        claim_output(output, overwrite=overwrite, folder=True)
        check_figures(figures)
    settings: dict[str, Any] = {
        "pairs": pairs,
        "pairs_most": pairs_most,
        "readout": readout,
        "refusal_tokens": tuple(refusal_token or ()),
        "answer_tokens": tuple(answer_token or ()),
        "judge": judge,
        "cipher": cipher,
        "builds": builds,
        "seed": seed,
        "reply_tokens": reply_tokens,
        "branches": branches,
        "memory": None if memory is None else memory * 1e9,
        "permutations": permutations,
    }
    rate = None if flops is None else flops * 1e12
    from undertow.studies.routing.preparing import Settings, check_settings

    check_settings(model, Settings(**settings))
    shared: dict[str, Any] = {
        "device": device,
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
        "thinking": thinking,
    }
    chat = open_model(model, revision=revision, **shared)
    second = None if compare_with is None else open_model(compare_with, **shared)
    if plan:
        _print_plan(chat, settings | {"compare_with": second}, rate, json)
        return
    from undertow.report.routing.page import routing_page
    from undertow.studies.routing.run import run_routing

    pages: list[Report] = []
    costs: list[Plan] = []

    def page(result: RoutingResult) -> Report:
        pages.append(routing_page(result, show_prompts=show_prompts))
        return pages[-1]

    def announce(cost: Plan) -> None:
        costs.append(cost)
        if not json:
            from undertow.studies.routing.plan_table import plan_tables

            show(*plan_tables([cost]))

    result = run_routing(
        chat,
        output,
        compare_with=second,
        overwrite=overwrite,
        progress=not json,
        page=page,
        announce=announce,
        **settings,
    )
    files = export_pages(pages, output / "figures", figures)
    if json:
        from undertow.studies.routing.plan_table import plain_plan

        print_json(_plain(result, output, files) | ({"plan": plain_plan(costs[0])} if costs else {}))
        return
    from undertow.studies.routing.tables import summary_tables

    show(*summary_tables(result))
    written = f" {len(files)} figures in {output / 'figures'}." if files else ""
    show(f"Done in {result.run.get('seconds', 0.0):.0f} s. Report: {(output / 'report.html').absolute()}.{written}")


def _print_plan(chat: Any, settings: dict[str, Any], flops: float | None, json: bool) -> None:
    from undertow.studies.routing.plan_table import plain_plan, plan_tables
    from undertow.studies.routing.run import plan_routing

    found = plan_routing(chat, flops=flops, **settings)
    if json:
        print_json({"plans": [plain_plan(one) for one in found]})
        return
    show(*plan_tables(found))


def _plain(result: RoutingResult, output: Path, files: list[Path]) -> dict[str, Any]:
    return {
        "output": str(output),
        "run": result.run,
        "skipped": result.skipped,
        "findings": [finding.model_dump() for finding in result.findings],
        "figures": [str(file) for file in files],
    }
