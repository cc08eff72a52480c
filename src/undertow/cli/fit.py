"""`undertow fit`: fit and calibrate a Latent Guard on a chat model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undertow.cli.options import (
    CategoryColumnOption,
    DeviceOption,
    DtypeOption,
    HarmfulOption,
    HarmlessOption,
    JsonOption,
    LabelColumnOption,
    ModelArgument,
    OverwriteOption,
    PromptColumnOption,
    RevisionOption,
    SeedOption,
    ThinkingOption,
    TrustOption,
    claim_output,
    open_model,
    reading_options,
)
from undertow.cli.output import literal, print_json, share, show
from undertow.errors import PromptFileError, UndertowError

if TYPE_CHECKING:
    from undertow.guard import LatentGuard
    from undertow.prompts import PromptSet

app = typer.Typer(add_completion=False)


@app.command()
def fit(
    model: ModelArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="GUARD", help="Folder to write the guard to.", show_default=False)
    ],
    harmful: HarmfulOption = None,
    harmless: HarmlessOption = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", metavar="F", help="Labelled prompts of both kinds in one file.")
    ] = None,
    builtin: Annotated[bool, typer.Option("--builtin", help="Use the built-in prompts.")] = False,
    rule: Annotated[
        str, typer.Option("--rule", help="auto, centroid (as published), prototype, linear, or normed (for export).")
    ] = "auto",
    false_positive_rate: Annotated[
        float | None,
        typer.Option(
            "--false-positive-rate",
            help="Wanted share of harmless prompts flagged; by default 0.02, and the published threshold for centroid.",
        ),
    ] = None,
    prompt_column: PromptColumnOption = None,
    label_column: LabelColumnOption = None,
    category_column: CategoryColumnOption = None,
    overwrite: OverwriteOption = False,
    thinking: ThinkingOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Fit and calibrate a Latent Guard, and save it.

    Prompts come as --harmful F with --harmless F, as --prompts F with labels, or as --builtin.
    """
    _check_rule(rule)
    if false_positive_rate is not None and not 0 < false_positive_rate < 1:
        raise typer.BadParameter("it must lie between 0 and 1", param_hint="--false-positive-rate")
    claim_output(output, overwrite=overwrite, folder=True)
    reading = reading_options(prompt_column, label_column, category_column)
    sides = _read(harmful, harmless, prompts, builtin, reading)
    chat = open_model(
        model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code, thinking=thinking
    )
    from undertow.guard import LatentGuard

    guard = LatentGuard.fit(chat, *sides, rule=rule, calibration=false_positive_rate, seed=seed)
    guard.save_pretrained(output)
    if json:
        print_json(_summary(guard, output))
    else:
        _show(guard, output)


def _check_rule(rule: str) -> None:
    from undertow.guard import rule_named

    if rule != "auto":
        rule_named(rule)


def _read(
    harmful: str | None, harmless: str | None, prompts: str | None, builtin: bool, reading: dict[str, Any]
) -> tuple[PromptSet, PromptSet]:
    from undertow.prompts import PromptSet

    pair = harmful is not None or harmless is not None
    if pair + (prompts is not None) + builtin != 1:
        raise UndertowError("Give the prompts in one way: --harmful F with --harmless F, --prompts F, or --builtin.")
    if pair:
        if harmful is None or harmless is None:
            raise UndertowError("--harmful and --harmless go together; for one file with labels use --prompts F.")
        return (
            PromptSet.read(harmful, harmful=True, **reading),
            PromptSet.read(harmless, harmful=False, **reading),
        )
    if builtin and reading:
        raise UndertowError("The built-in prompts have their own columns; the column flags are for files.")
    both = PromptSet.builtin() if prompts is None else PromptSet.read(prompts, **reading)
    unlabelled = sum(prompt.harmful is None for prompt in both)
    if unlabelled == len(both):
        raise PromptFileError(f"{prompts} says of no prompt whether it is harmful; name its label with --label-column.")
    if unlabelled:
        raise PromptFileError(f"{prompts} has {unlabelled} prompts without a label; label them or take them out.")
    return both.harmful(), both.harmless()


def _summary(guard: LatentGuard, output: Path) -> dict[str, Any]:
    return {
        "guard": str(output),
        "model": guard.identity.name,
        "fingerprint": guard.fingerprint,
        "rule": guard.rule,
        "states": list(guard.harmfulness.rule.states),
        "reason": guard.harmfulness.reason,
        "threshold": guard.threshold,
        "refusal_rule": None if guard.refusal is None else guard.refusal.rule.name,
        "refusal_reason": None if guard.refusal is None else guard.refusal.reason,
        "steering": None if guard.steering is None else guard.steering.to_dict(),
        "metrics": guard.metrics,
        "training": guard.training,
        "warnings": list(guard.warnings),
    }


def _show(guard: LatentGuard, output: Path) -> None:
    from rich.table import Table

    from undertow.measure.direction import state_range

    training, metrics = guard.training, guard.metrics
    table = Table(title=literal(f"Latent Guard on {guard.identity.name}"), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, belief in (("harmfulness", guard.harmfulness), ("refusal", guard.refusal)):
        if belief is None:
            table.add_row(name, "none")
            continue
        states = belief.rule.states
        where = f"state{'s' if len(states) > 1 else ''} {state_range(states)}"
        table.add_row(name, f"rule {belief.rule.name}, read at {belief.position}, {where}")
        table.add_row("  why", literal(belief.reason))
    if guard.steering is not None:
        refuse, release = guard.steering.refuse, guard.steering.release
        table.add_row(
            "steering",
            f"at state {guard.steering.state}: {refuse.flipped} of {refuse.prompts} turned to refusal, "
            f"{release.flipped} of {release.prompts} turned to an answer",
        )
    table.add_row("fitted on", f"{training['harmful']} harmful and {training['harmless']} harmless prompts")
    table.add_row("held out", f"{training['held_out']} prompts; area under the curve {metrics['area']:.4f}")
    table.add_row("recall", f"{share(metrics['recall'])} of held-out harmful prompts flagged")
    table.add_row("false positives", literal(metrics["threshold_sentence"]))
    if metrics["refusal_balanced_accuracy"] is not None:
        table.add_row("refusal read", f"{share(metrics['refusal_balanced_accuracy'])} balanced accuracy, held out")
    show(table)
    show(literal(f"Saved in {output}"))
