"""Flags that several commands share, so that one word means one thing everywhere, and what they open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undertow.errors import ModelError, UndertowError

if TYPE_CHECKING:
    from undertow.model import ChatModel

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Hub id, folder, or organism:NAME.", show_default=False)
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, mps, or auto to spread a model; by default the GPU if any."),
]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto (the checkpoint's), float32, bfloat16 or float16.")]
RevisionOption = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit on the Hub.")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Let code from the checkpoint run.")]
ThinkingOption = Annotated[
    bool | None,
    typer.Option("--thinking/--no-thinking", help="Thinking mode to render prompts in; by default the template's."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there already.")]
PromptColumnOption = Annotated[
    str | None, typer.Option("--prompt-column", help="Column of the prompts; guessed by default.")
]
LabelColumnOption = Annotated[
    str | None, typer.Option("--label-column", help="Column that says whether a prompt is harmful; guessed by default.")
]
HarmfulOption = Annotated[
    str | None, typer.Option("--harmful", metavar="F", help="Harmful prompts: a file or a Hub dataset.")
]
HarmlessOption = Annotated[
    str | None, typer.Option("--harmless", metavar="F", help="Harmless prompts: a file or a Hub dataset.")
]
CategoryColumnOption = Annotated[
    str | None, typer.Option("--category-column", help="Column of the category; guessed by default.")
]


def open_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    thinking: bool | None = None,
) -> ChatModel:
    """Load a model as the shared flags say.

    Raises:
        ModelError: it cannot be loaded, or there is no such device.
        CoverageError, PositionError: see `undertow.load`.
    """
    from undertow.model import load

    quiet()
    return load(
        name,
        revision=revision,
        dtype=dtype,
        device_map=checked_device(device),
        trust_remote_code=trust_remote_code,
        thinking=thinking,
    )


def quiet() -> None:
    """Keep the log lines of transformers off standard error, where one sentence is to stand."""
    from transformers.utils import logging

    logging.set_verbosity_error()


def checked_device(device: str | None) -> str | None:
    """The device as given, once it is known to exist here.

    Raises:
        ModelError: there is no device of this name.
    """
    if device is None or device == "auto":
        return device
    import torch

    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ModelError(f"There is no device {device!r}: use cpu, cuda, cuda:1, mps or auto.") from None
    backend = {"cuda": torch.cuda, "mps": torch.mps}.get(wanted.type)
    count = 1 if wanted.type == "cpu" else 0 if backend is None else backend.device_count()
    if (wanted.index or 0) >= count:
        raise ModelError(f"There is no device {device!r} on this machine: it has {count} of type {wanted.type}.")
    return device


def claim_output(path: Path, *, overwrite: bool, folder: bool = False) -> Path:
    """Refuse an output that cannot or must not be written, before any work is done for it.

    Args:
        path: where the output will go.
        overwrite: whether what is there may be replaced.
        folder: whether the output is a folder.

    Raises:
        UndertowError: it exists already, is of the other kind, or its folder cannot be written to.
    """
    if not path.name:
        raise UndertowError("The name of the output is empty.")
    if path.is_dir() and not folder:
        raise UndertowError(f"{path} is a folder; name a file for the output.")
    if path.is_file() and folder:
        raise UndertowError(f"{path} is a file, and the output is a folder; name another.")
    if path.exists() and not overwrite and not (folder and not any(path.iterdir())):
        raise UndertowError(f"{path} exists already; name another output or add --overwrite.")
    parent = next(above for above in path.absolute().parents if above.exists())
    if not parent.is_dir():
        raise UndertowError(f"{parent} is a file, so {path} cannot be written there.")
    import os

    if not os.access(parent, os.W_OK | os.X_OK):
        raise UndertowError(f"There is no permission to write in {parent}.")
    return path


def reading_options(prompt_column: str | None, label_column: str | None, category_column: str | None) -> dict[str, Any]:
    """The column flags that were given, as keywords for `PromptSet.read` and `iterate_prompts`."""
    given = {"prompt_column": prompt_column, "label_column": label_column, "category_column": category_column}
    return {name: value for name, value in given.items() if value is not None}
