"""`undertow score-states`: the published rule applied to states, without any model."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer

from undertow.cli.import_arrays import Position
from undertow.cli.options import JsonOption, OverwriteOption, claim_output
from undertow.cli.output import literal, print_json, share, show

app = typer.Typer(add_completion=False)


@app.command()
def score_states(
    states: Annotated[
        Path, typer.Argument(metavar="STATES", help="States (L + 1, n, 2, width) in a file.", show_default=False)
    ],
    harmful: Annotated[
        Path, typer.Option("--harmful", metavar="CENTROID", help="Centroid of refused harmful prompts.")
    ],
    harmless: Annotated[
        Path, typer.Option("--harmless", metavar="CENTROID", help="Centroid of answered harmless prompts.")
    ],
    position: Annotated[
        Position, typer.Option("--position", help="t_inst for harmfulness, t_post for refusal.")
    ] = Position.t_inst,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT", help="A .jsonl file, a row for each prompt.")
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Score states by the published rule: nearer to the harmful centroid or to the harmless one.

    The belief is the mean over all states of the difference of two cosines; at or above 0 a prompt counts as harmful
    (at t_post, with centroids of refused and answered prompts: as about to be refused).
    """
    if output is not None:
        if output.suffix.lower() not in (".jsonl", ".ndjson"):
            raise typer.BadParameter("it must end in .jsonl", param_hint="--output")
        claim_output(output, overwrite=overwrite)
    from undertow.measure.arrays import load_arrays
    from undertow.measure.arrays import score_states as score
    from undertow.measure.storage import write_atomically

    positive, negative = load_arrays(harmful, "centroids"), load_arrays(harmless, "centroids")
    found = load_arrays(states, "states")
    rows: list[dict[str, Any]] = []
    for name, array in found.arrays.items():
        beliefs = score(array, positive, negative, position=position.value).tolist()
        rows += [
            {"array": name, "row": row, "belief": belief, "positive": belief >= 0} for row, belief in enumerate(beliefs)
        ]
    if output is not None:
        write_atomically(output, "".join(json_text.dumps(row) + "\n" for row in rows))
    summary = [_summary(name, rows) for name in found.names]
    if json:
        print_json({"position": position.value, "output": output and str(output), "arrays": summary, "rows": rows})
        return
    _show(summary, position.value)
    if output is not None:
        show(literal(f"Saved in {output}"))


def _summary(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    beliefs = [row["belief"] for row in rows if row["array"] == name]
    positive = sum(belief >= 0 for belief in beliefs)
    return {
        "array": name,
        "n": len(beliefs),
        "positive": positive,
        "share": positive / len(beliefs),
        "mean": sum(beliefs) / len(beliefs),
        "lowest": min(beliefs),
        "highest": max(beliefs),
    }


def _show(summary: list[dict[str, Any]], position: str) -> None:
    from rich.table import Table

    what = "believed harmful" if position == "t_inst" else "about to be refused"
    table = Table(title=f"The published rule at {position}", title_justify="left")
    table.add_column("array")
    for heading in ("prompts", what, "share", "mean belief", "lowest", "highest"):
        table.add_column(heading, justify="right")
    for one in summary:
        beliefs = [f"{one[key]:+.4f}" for key in ("mean", "lowest", "highest")]
        table.add_row(literal(one["array"]), str(one["n"]), str(one["positive"]), share(one["share"]), *beliefs)
    show(table)
