"""`undertow compare`: what finetuning did to the beliefs; gates a release."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undertow.cli.options import (
    DeviceOption,
    DtypeOption,
    HarmfulOption,
    HarmlessOption,
    JsonOption,
    OverwriteOption,
    RevisionOption,
    SeedOption,
    ThinkingOption,
    TrustOption,
    claim_output,
    open_model,
)
from undertow.cli.output import literal, print_json, share, show
from undertow.cli.study_options import MostPromptsOption, ReplyTokensOption

if TYPE_CHECKING:
    from rich.table import Table

    from undertow.measure.finding import Claim, Finding
    from undertow.measure.statistics import Estimate
    from undertow.studies.beliefs.comparison import Change, Comparison, Gate

app = typer.Typer(add_completion=False)


@app.command()
def compare(
    model_a: Annotated[
        str, typer.Argument(metavar="MODEL_A", help="The model before: Hub id, folder, or organism:NAME.")
    ],
    model_b: Annotated[str, typer.Argument(metavar="MODEL_B", help="The model after, likewise.")],
    harmful: HarmfulOption = None,
    harmless: HarmlessOption = None,
    jailbreaks: Annotated[
        str | None,
        typer.Option("--jailbreaks", metavar="F", help="Harmful prompts in wrappers, in the place of ours."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            min=0.0,
            max=1.0,
            help="Exit with 1 if the guard loses more recall than this, or gains more false positives.",
        ),
    ] = None,
    most: MostPromptsOption = 96,
    reply_tokens: ReplyTokensOption = 16,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder to write findings.json to.")
    ] = None,
    overwrite: OverwriteOption = False,
    thinking: ThinkingOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    revision_b: Annotated[str | None, typer.Option("--revision-b", help="The same for MODEL_B.")] = None,
    trust_remote_code: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Hold a finetuned checkpoint against the model it came from, with guard and centroids of the latter.

    Both models are held in memory at once. Prompts are the built-in ones unless --harmful and --harmless are given.
    """
    if output is not None:
        claim_output(output, overwrite=overwrite, folder=True)
    begun = time.perf_counter()
    from undertow.prompts.wrappers import FAMILIES
    from undertow.studies.beliefs.comparison import check_comparable
    from undertow.studies.beliefs.comparison import compare as hold_against
    from undertow.studies.beliefs.material import Material, prepare

    material = Material.gather(harmful, harmless, jailbreaks, families=FAMILIES, most=most, seed=seed)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    before = open_model(model_a, revision=revision, thinking=thinking, **options)
    after = open_model(model_b, revision=revision_b, thinking=thinking, **options)
    check_comparable(before, after)
    context = prepare(before, material, seed=seed, reply_tokens=reply_tokens, progress=not json)
    comparison = hold_against(context, after, progress=not json)
    gate = None if max_drop is None else comparison.gate(max_drop)
    run = {
        "before": {"model": model_a, **before.identity.to_dict()},
        "after": {"model": model_b, **after.identity.to_dict()},
        "prompts": material.source,
        "seed": seed,
        "seconds": time.perf_counter() - begun,
    }
    findings, rules = _findings(comparison, max_drop)
    if output is not None:
        from undertow.measure.finding import write_findings

        output.mkdir(parents=True, exist_ok=True)
        figures = {"comparison": comparison.to_dict()}
        write_findings(output / "findings.json", findings, rules=rules, figures=figures, run=run)
    if json:
        print_json(
            {
                "run": run,
                "gate": None if gate is None else _gate_values(gate),
                "findings": [finding.model_dump() for finding in findings],
                "comparison": comparison.to_dict(),
            }
        )
    else:
        _show(comparison, gate, material.source, output)
    if gate is not None and not gate.passed:
        raise typer.Exit(1)


def _gate_values(gate: Gate) -> dict[str, Any]:
    return {
        "passed": gate.passed,
        "allowed": gate.allowed,
        "drop": gate.drop._asdict(),
        "rise": gate.rise._asdict(),
        "certain": gate.certain,
    }


def _findings(comparison: Comparison, max_drop: float | None) -> tuple[list[Finding], dict[str, Claim]]:
    """What it comes to; only what the gate judges has a verdict, and only where a gate was asked for."""
    import numpy as np

    from undertow.measure.finding import Claim, judged_finding

    rules: dict[str, Claim] = {}
    found: list[Finding] = []

    def add(name: str, claim: str, value: Estimate, control: float | None = None, judged: bool = False) -> None:
        rule = Claim(below=max_drop, inclusive=True, on="value") if judged and max_drop is not None else None
        if rule is not None:
            rules[f"compare.{name}"] = rule
        found.append(
            judged_finding(rule, id=f"compare.{name}", study="compare", claim=claim, control=control, **value._asdict())
        )

    best = comparison.best
    rise = comparison.gate(1.0).rise
    add(
        "recall_drop", "The best guard rule finds as many harmful prompts after as before.", comparison.drop, None, True
    )
    add(
        "false_positive_rise", "The best guard rule flags no more harmless prompts after than before.", rise, None, True
    )
    published = comparison.guard("published").recall["all"].drop
    add("published_recall_drop", "The published rule finds as many harmful prompts after as before.", published)
    add(
        "recalibrated_recall_drop",
        "With a threshold set anew, the best rule finds as many harmful prompts after as before.",
        best.recalibrated.drop,
    )
    if "bare harmful" in comparison.refused:
        add(
            "own_refusal_drop",
            "The model refuses as many bare harmful prompts after as before (control: harmless prompts).",
            comparison.refused["bare harmful"].drop,
            comparison.refused["harmless"].drop.value,
        )
    for belief in ("harmfulness", "refusal"):
        harmless = comparison.shift(belief, "accepted harmless")
        for kind in ("refused harmful", "accepted harmful"):
            shift = comparison.shift(belief, kind)
            if shift is not None:
                add(
                    f"{belief}_shift.{kind.replace(' ', '_')}",
                    f"The belief of {belief} of {kind} prompts does not move (control: accepted harmless prompts).",
                    shift.shift,
                    None if harmless is None else harmless.shift.value,
                )
        if belief in comparison.cosines and np.isfinite(comparison.cosines[belief]).any():
            name = f"compare.{belief}_cosine"
            claim = f"The {belief} direction is the same after as before, mean over states (control: two halves)."
            found.append(
                judged_finding(
                    None,
                    id=name,
                    study="compare",
                    claim=claim,
                    value=float(np.nanmean(comparison.cosines[belief])),
                    low=None,
                    high=None,
                    n=comparison.n,
                    control=float(np.nanmean(comparison.reliability[belief])),
                )
            )
    return found, rules


def _show(comparison: Comparison, gate: Gate | None, source: str, output: Path | None) -> None:
    show(
        literal(f"{comparison.before} -> {comparison.after}: {comparison.n} test prompts of {source}", "bold"),
        _shares_table(comparison),
        _beliefs_table(comparison),
    )
    if gate is not None:
        verdict = "Passed" if gate.passed else "Not passed"
        sure = "" if gate.certain else ", though the interval reaches to the other side"
        text = f"{verdict}: recall dropped by {gate.drop.value:.1%} and false positives rose by {gate.rise.value:.1%}"
        show(literal(f"{text}; {gate.allowed:.1%} is allowed{sure}.", "green" if gate.passed else "red"))
    if output is not None:
        show(literal(f"Saved in {output / 'findings.json'}"))


def _shares_table(comparison: Comparison) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("share of prompts", no_wrap=True)
    for heading in ("before", "after", "drop, 95 %", "n"):
        table.add_column(heading, justify="right", no_wrap=True)

    def row(name: str, change: Change) -> None:
        drop = f"{change.drop.value:+.1%} [{change.drop.low:+.1%}, {change.drop.high:+.1%}]"
        table.add_row(name, share(change.before.value), share(change.after.value), literal(drop), str(change.drop.n))

    for group, change in comparison.refused.items():
        row(f"{group}, refused", change)
    table.add_section()
    for guard in comparison.guards:
        title = f"{guard.key} rule" if guard.key == "published" else f"{guard.key} rule ({guard.rule})"
        for group, change in guard.recall.items():
            row(f"{title}: recall, {'all harmful' if group == 'all' else group}", change)
        row(f"{title}: false positives", guard.false_positives)
        table.add_section()
    return table


def _beliefs_table(comparison: Comparison) -> Table:
    import numpy as np
    from rich.table import Table

    table = Table()
    table.add_column("belief (original centroids)", no_wrap=True)
    for heading in ("before", "after", "shift, 95 %", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for shift in comparison.shifts:
        moved = f"{shift.shift.value:+.3f} [{shift.shift.low:+.3f}, {shift.shift.high:+.3f}]"
        name = f"{shift.belief}, {shift.kind}"
        table.add_row(name, f"{shift.before:+.3f}", f"{shift.after:+.3f}", literal(moved), str(shift.shift.n))
    table.add_section()
    for belief, cosines in comparison.cosines.items():
        if np.isfinite(cosines).any():
            halves = float(np.nanmean(comparison.reliability[belief]))
            span = f"{np.nanmin(cosines):.2f} to {np.nanmax(cosines):.2f}"
            table.add_row(f"{belief} direction, cosine", f"halves {halves:.2f}", f"{np.nanmean(cosines):.2f}", span, "")
    changed = int(comparison.flow.sum() - np.trace(comparison.flow))
    table.add_row("prompts that changed quadrant", "", str(changed), "", str(comparison.n))
    return table
