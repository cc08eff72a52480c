"""Opening a saved guard together with the model that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undertow.cli.options import open_model
from undertow.errors import GuardError

if TYPE_CHECKING:
    from undertow.guard import LatentGuard

ForceOption = Annotated[
    bool, typer.Option("--force", help="Accept another model than the guard's own, with a warning.")
]


def open_guard(
    path: str,
    model: str | None = None,
    *,
    thinking: bool | None = None,
    force: bool = False,
    revision: str | None = None,
    **model_options: Any,
) -> LatentGuard:
    """Load a guard and a model for it.

    Args:
        path: the guard's folder, or its id on the Hub.
        model: the model to read; None takes the one that the guard names.
        thinking: thinking mode; None takes the guard's own.
        force: accept another model.
        revision: of the model; None takes the guard's own where the guard's model is taken.
        model_options: for `open_model`.

    Raises:
        GuardError: the guard cannot be read.
        GuardMismatchError: the model is not the one that the guard was fitted on.
        ModelError: the model cannot be loaded.
    """
    from undertow.guard import LatentGuard
    from undertow.guard.artefact import read_folder
    from undertow.guard.loading import download

    folder = Path(path)
    if not folder.exists() and path.count("/") == 1 and not path.startswith((".", "~", "/")):
        folder = download(path)
    about = read_folder(folder)[0]["model"]
    if not isinstance(about, dict) or not isinstance(about.get("name"), str):
        raise GuardError(f"guard.json in {path} does not name a model; fit and save the guard again.")
    chat = open_model(
        model or about["name"],
        thinking=about.get("thinking") if thinking is None else thinking,
        revision=revision or (about.get("revision") if model is None else None),
        **model_options,
    )
    return LatentGuard.from_pretrained(folder, model=chat, force=force)
