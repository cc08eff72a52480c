"""`undertow import`: published arrays, read without running any code in them, as safetensors."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from undertow.cli.options import JsonOption, OverwriteOption, claim_output
from undertow.cli.output import literal, print_json, show

app = typer.Typer(add_completion=False)


class Kind(StrEnum):
    """What an array holds; a centroid cannot be told from a direction by its shape."""

    centroids = "centroids"
    direction = "direction"
    states = "states"


class Position(StrEnum):
    """Where the states were read."""

    t_inst = "t_inst"
    t_post = "t_post"


@app.command()
def import_arrays(
    arrays: Annotated[
        Path, typer.Argument(metavar="ARRAYS", help="A .pt, .npy, .npz or .safetensors file.", show_default=False)
    ],
    kind: Annotated[Kind, typer.Option("--as", help="What the file holds.", show_default=False)],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="A .safetensors file to write.", show_default=False)
    ],
    name: Annotated[str | None, typer.Option("--name", help="Take the array of this name only.")] = None,
    meaning: Annotated[
        str, typer.Option("--kind", help="What a direction points to: harmfulness, refusal, ...")
    ] = "harmfulness",
    position: Annotated[
        Position, typer.Option("--position", help="Token position a direction was read at.")
    ] = Position.t_inst,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Turn published arrays into safetensors that the other commands read.

    Arrays are (states, width) for centroids and directions, (states, prompts, 2, width) for states at t_inst and
    t_post. No code in the file is run, and anything but plain finite arrays is refused.
    """
    claim_output(output, overwrite=overwrite)
    from undertow.measure.arrays import load_arrays
    from undertow.measure.storage import save_tensors

    found = load_arrays(arrays, kind.value)
    if name is not None:
        found = found.select(name)
    about: dict[str, Any] = {"source": found.source, "states": list(range(found.states))}
    if kind is Kind.direction:
        direction = found.direction(kind=meaning, position=position.value)
        direction.save(output)
        about |= {"kind": meaning, "position": position.value}
    else:
        save_tensors(output, f"published {kind.value}/1", found.arrays, about)
    shapes = {label: list(array.shape) for label, array in found.arrays.items()}
    if json:
        print_json({"output": str(output), "as": kind.value, "arrays": shapes, **about})
        return
    for label, shape in shapes.items():
        show(literal(f"{label}: {' x '.join(map(str, shape))}, {kind.value}"))
    show(literal(f"Saved in {output}"))
