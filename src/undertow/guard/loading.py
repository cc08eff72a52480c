"""A saved guard and a model brought together, from a folder or the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from undertow.errors import GuardError, GuardMismatchError
from undertow.guard.artefact import CARD, SETTINGS, TENSORS, read_folder
from undertow.guard.belief import Belief
from undertow.guard.belief_map import BeliefMap
from undertow.guard.directions import BeliefDirections
from undertow.guard.steering import Steering

if TYPE_CHECKING:
    from undertow.guard.guard import LatentGuard
    from undertow.model import ChatModel
    from undertow.model.identity import ModelIdentity

GuardType = TypeVar("GuardType", bound="LatentGuard")


def load_guard(
    guard: type[GuardType],
    path: str | Path,
    model: ChatModel | None,
    force: bool,
    revision: str | None,
    options: Mapping[str, Any],
) -> GuardType:
    """Carry out `LatentGuard.from_pretrained`, whose arguments and errors these are."""
    from undertow.model.identity import ModelIdentity

    folder = Path(path) if Path(path).exists() or not _is_hub_id(str(path)) else download(str(path), revision)
    settings, tensors = read_folder(folder)
    try:
        identity = ModelIdentity.from_dict(settings["model"]["identity"])
        beliefs = settings["beliefs"]
        harmfulness = Belief.from_dict("harmfulness", beliefs["harmfulness"], tensors)
        refusal = None
        if beliefs["refusal"] is not None:
            refusal = Belief.from_dict("refusal", beliefs["refusal"], tensors)
        steering = None
        if settings.get("steering") is not None:
            steering = Steering.from_dict(settings["steering"], tensors["steering.direction"])
        directions = belief_map = None
        if settings.get("directions") is not None:
            directions = BeliefDirections.from_dict(settings["directions"], tensors)
        if settings.get("belief_map") is not None:
            belief_map = BeliefMap.from_dict(settings["belief_map"])
        warnings = tuple(str(warning) for warning in settings["warnings"])
        records = {name: dict(settings[name]) for name in ("calibration", "metrics", "training")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GuardError(
            f"guard.json in {path} lacks or garbles a value ({error}); fit and save the guard again."
        ) from None
    if model is None:
        from undertow.model import load

        model = load(identity.name, revision=identity.revision, thinking=identity.thinking, **options)
    mismatches = _compare(identity, model, force)
    return guard(
        model,
        identity,
        harmfulness,
        refusal,
        steering=steering,
        directions=directions,
        belief_map=belief_map,
        **records,
        warnings=warnings,
        mismatches=mismatches,
    )


def download(name: str, revision: str | None = None) -> Path:
    """The local copy of a guard on the Hugging Face Hub.

    Raises:
        GuardError: it cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[TENSORS, SETTINGS, CARD]))
    except Exception as error:
        raise GuardError(
            f"There is no guard at {name}: it is no folder, and the Hub does not give it ({type(error).__name__})."
        ) from error


def upload(folder: Path, repository: str, *, private: bool, token: str | None, revision: str | None) -> str:
    """Put a saved guard on the Hugging Face Hub.

    Returns:
        The address of the commit.

    Raises:
        GuardError: the upload fails.
    """
    from huggingface_hub import HfApi

    interface = HfApi(token=token)
    try:
        interface.create_repo(repository, private=private, exist_ok=True)
        return str(interface.upload_folder(repo_id=repository, folder_path=folder, revision=revision))
    except Exception as error:
        raise GuardError(f"The guard could not be uploaded to {repository} ({type(error).__name__}).") from error


def _compare(identity: ModelIdentity, model: ChatModel, force: bool) -> tuple[str, ...]:
    differences = identity.differences(model.identity)
    if not differences:
        return ()
    named = ", ".join(differences)
    if not force:
        raise GuardMismatchError(
            f"The guard was fitted on {identity.name}, and the model at hand ({model.identity.name}) differs in: "
            f"{named}; use the same model, or force it and read every verdict with that in mind."
        )
    return (f"The guard was fitted on {identity.name} and forced onto a model that differs in: {named}.",)


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~"))
