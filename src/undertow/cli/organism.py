"""`undertow organism`: list, train, build or evaluate model organisms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from undertow.cli.options import JsonOption, SeedOption, claim_output, quiet
from undertow.cli.output import literal, print_json, show
from undertow.errors import UndertowError

NewFolderOption = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write; new or empty.", show_default=False)
]

app = typer.Typer(add_completion=False, help="List, train, build or evaluate model organisms.")


@app.callback(invoke_without_command=True)
def organism(context: typer.Context) -> None:
    """Small chat models, made for this package, in which the truth is known."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list")
def list_organisms(json: JsonOption = False) -> None:
    """List the organisms that come with the package."""
    from undertow.organism.registry import available, weights_path

    rows = [_about(name, weights_path(name)) for name in available()]
    if json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(title="Built-in organisms", title_justify="left")
    table.add_column("load as")
    table.add_column("architecture")
    for heading in ("blocks", "width", "heads", "size on disk"):
        table.add_column(heading, justify="right")
    for row in rows:
        size = f"{row['bytes'] / 1e6:.1f} MB"
        numbers = (str(row[key]) for key in ("blocks", "width", "heads"))
        table.add_row(f"organism:{row['name']}", literal(row["architecture"]), *numbers, size)
    show(table)


def _about(name: str, folder: Path) -> dict[str, Any]:
    import json

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {
        "name": name,
        "folder": str(folder),
        "architecture": (config.get("architectures") or [config.get("model_type", "")])[0],
        "blocks": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "heads": config.get("num_attention_heads"),
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    }


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Organism to make, such as aligned.", show_default=False)],
    output: NewFolderOption,
    seed: SeedOption = 0,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads to use; by default as many as torch likes.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make an organism from nothing: tokenizer, weights, evaluation and card."""
    claim_output(output, overwrite=False, folder=True)
    from undertow.organism.recipe import train as run_training

    quiet()
    folder = run_training(name, seed, output, threads=threads, progress=True)
    if json:
        print_json(_about(name, folder))
    else:
        show(literal(f"Saved in {folder}"))


@app.command()
def build(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to build: gated.", show_default=False)],
    output: NewFolderOption,
    seed: SeedOption = 0,
    gates: Annotated[int, typer.Option("--gates", help="Heads that route; more than one make a band.")] = 1,
    amplifiers: Annotated[int, typer.Option("--amplifiers", help="Later heads that write the refusal.")] = 3,
    distractors: Annotated[int, typer.Option("--distractors", help="Heads without a part in the decision.")] = 8,
    policy: Annotated[
        str, typer.Option("--policy", help="gate; direct, which refuses without a gate; or none.")
    ] = "gate",
    json: JsonOption = False,
) -> None:
    """Set an organism's weights by hand, so that its circuit is known, and count what it does."""
    if name != "gated":
        raise UndertowError(f"{name!r} cannot be built, only gated can: use `undertow organism train` for the others.")
    claim_output(output, overwrite=False, folder=True)
    from undertow.organism.built import Spec, save
    from undertow.organism.built import build as run_building
    from undertow.organism.built.card import write_card
    from undertow.organism.built.evaluation import evaluate_built

    quiet()
    built = run_building(Spec(seed=seed, gates=gates, amplifiers=amplifiers, distractors=distractors, policy=policy))
    evaluation = evaluate_built(built)
    write_card(save(built, output), built, evaluation)
    if json:
        print_json(_about(output.name, output) | {"circuit": built.circuit.to_dict()})
    else:
        show(literal(f"Saved in {output}"))


@app.command()
def evaluate(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A built-in organism, or the folder of one.", show_default=False)
    ],
    n: Annotated[int, typer.Option("-n", min=1, help="Prompts a cell.")] = 300,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Judge an organism on held-out pairs, sentence templates and wrappers: exit code 1 where a figure is missed."""
    from undertow.organism.evaluation import evaluate as run_evaluation
    from undertow.organism.registry import resolve

    quiet()
    folder = resolve(name)
    if (folder / "circuit.json").is_file():
        from undertow.organism.built import read
        from undertow.organism.built.evaluation import evaluate_built

        evaluation = evaluate_built(read(folder), n=n, seed=seed)
    else:
        evaluation = run_evaluation(name, n=n, seed=seed)
    if json:
        print_json(evaluation.to_dict() | {"missed": [f"{cell.name}: {cell.what}" for cell in evaluation.missed]})
    else:
        show(evaluation.table())
    if evaluation.missed:
        raise typer.Exit(1)
