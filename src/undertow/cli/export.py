"""`undertow export`: a guard for other engines."""

from __future__ import annotations

from enum import StrEnum
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
    SeedOption,
    ThinkingOption,
    TrustOption,
    claim_output,
    reading_options,
)
from undertow.cli.output import figure, literal, print_json, show
from undertow.errors import UndertowError

if TYPE_CHECKING:
    from rich.table import Table

    from undertow.guard.export import ClassifierExport
    from undertow.prompts import PromptSet

app = typer.Typer(add_completion=False)


class Format(StrEnum):
    """What a guard can be turned into."""

    classifier = "sequence-classifier"
    control_vector = "gguf"


class Direction(StrEnum):
    """Directions that a control vector can hold."""

    refusal = "refusal"
    harmfulness = "harmfulness"


@app.command()
def export(
    guard: Annotated[str, typer.Argument(metavar="GUARD", help="A guard's folder or Hub id.", show_default=False)],
    to: Annotated[
        Format,
        typer.Option("--to", help="A classifier for vLLM and transformers, or a control vector.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="Folder, or file.gguf, to write.", show_default=False)
    ],
    harmful: Annotated[
        str | None, typer.Option("--harmful", metavar="F", help="Harmful prompts to fit a classifier's head on.")
    ] = None,
    harmless: Annotated[str | None, typer.Option("--harmless", metavar="F", help="Harmless prompts likewise.")] = None,
    builtin: Annotated[bool, typer.Option("--builtin", help="Fit the head on the built-in prompts.")] = False,
    direction: Annotated[
        Direction | None,
        typer.Option("--direction", help="Which direction a control vector holds; by default refusal."),
    ] = None,
    states: Annotated[
        str | None,
        typer.Option("--states", help="States of a control vector, such as 8,9,10; by default the guard's own."),
    ] = None,
    prompt_column: PromptColumnOption = None,
    label_column: LabelColumnOption = None,
    category_column: CategoryColumnOption = None,
    overwrite: OverwriteOption = False,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="The model; by default the one the guard names.")
    ] = None,
    force: ForceOption = False,
    thinking: ThinkingOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Turn a guard into a stock sequence classifier, or its direction into a control vector.

    A guard fitted with --rule normed is exported as it is; for any other a head is fitted, on --harmful F with
    --harmless F or on --builtin, and its agreement with the guard is shown.
    """
    reading = reading_options(prompt_column, label_column, category_column)
    _check_flags(to, harmful, harmless, builtin, direction, states, reading)
    claim_output(output, overwrite=overwrite, folder=to is Format.classifier)
    sides = _sides(harmful, harmless, builtin, reading)
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
    from undertow.guard.export import export_classifier, export_control_vector

    if to is Format.control_vector:
        wanted = Direction.refusal if direction is None else direction
        written = export_control_vector(
            opened, output, wanted.value, states=_states(states), overwrite=overwrite
        ).to_dict()
        if json:
            print_json(written)
        else:
            show(literal(f"Saved {', '.join(written['tensors'])} in {output}"), *map(literal, written["notes"]))
        return
    found = export_classifier(opened, output, *sides, overwrite=overwrite, seed=seed)
    if json:
        print_json(found.to_dict())
    else:
        show(_table(found), literal(f"Saved in {output}"))


def _check_flags(
    to: Format,
    harmful: str | None,
    harmless: str | None,
    builtin: bool,
    direction: Direction | None,
    states: str | None,
    reading: dict[str, Any],
) -> None:
    """Refuse flags that the format has no use for, instead of leaving them unheard."""
    pair = harmful is not None or harmless is not None
    if to is Format.control_vector:
        if pair or builtin or reading:
            raise UndertowError("Prompts are for the head of a sequence classifier; a control vector needs none.")
        _states(states)
        return
    if direction is not None:
        raise UndertowError("--direction is for control vectors; a classifier reads harmfulness.")
    if states is not None:
        raise UndertowError("--states is for control vectors; a classifier reads the guard's own state.")
    if pair and (harmful is None or harmless is None):
        raise UndertowError("--harmful and --harmless go together.")
    if pair and builtin:
        raise UndertowError("Give the prompts in one way: --harmful F with --harmless F, or --builtin.")
    if reading and not pair:
        raise UndertowError("The column flags are for files: give --harmful F and --harmless F.")


def _states(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UndertowError(f"--states takes numbers with commas between them, such as 8,9,10, not {text!r}.") from None


def _sides(
    harmful: str | None, harmless: str | None, builtin: bool, reading: dict[str, Any]
) -> tuple[PromptSet, PromptSet] | tuple[()]:
    from undertow.prompts import PromptSet

    if builtin:
        both = PromptSet.builtin()
        return both.harmful(), both.harmless()
    if harmful is None or harmless is None:
        return ()
    return PromptSet.read(harmful, harmful=True, **reading), PromptSet.read(harmless, harmful=False, **reading)


def _table(export: ClassifierExport) -> Table:
    from rich.table import Table

    table = Table(
        title=literal(f"Classifier from {export.guard.identity.name}"), title_justify="left", show_header=False
    )
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row("class", f"{export.architecture}, {export.blocks} blocks, labels harmless and harmful")
    table.add_row("flag from", f"a probability of {export.threshold:.6f} on")
    table.add_row(
        "checked",
        f"in plain transformers on {export.checked} prompts: probabilities differ by at most "
        f"{figure(export.largest_difference)}",
    )
    if export.agreement is not None:
        table.add_row("agreement", literal(export.agreement.sentence()))
    for note in export.notes:
        table.add_row("note", literal(note))
    return table
