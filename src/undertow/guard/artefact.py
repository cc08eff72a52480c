"""A guard's folder: written whole or not at all, and read with suspicion."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from undertow.errors import GuardError
from undertow.guard.rules.base import Array

SCHEMA = 1
TENSORS, SETTINGS, CARD = "guard.safetensors", "guard.json", "README.md"
_KEYS = ("model", "beliefs", "calibration", "metrics", "training", "warnings")


def write_folder(path: str | Path, settings: Mapping[str, Any], tensors: Mapping[str, Array], card: str) -> Path:
    """Write a guard's three files to a temporary sibling folder, then rename it into place.

    An earlier guard at the same place is replaced; anything else there is left alone.

    Raises:
        GuardError: the place holds something that is not a guard, or cannot be written to.
    """
    from safetensors.numpy import save

    target = Path(path).expanduser().absolute()
    _check_target(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise GuardError(f"The guard cannot be saved at {path}: {error.strerror}.") from None
    try:
        contents = {
            TENSORS: save({name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())}),
            SETTINGS: (json.dumps({"schema": SCHEMA, **settings}, indent=2, allow_nan=False) + "\n").encode(),
            CARD: card.encode(),
        }
        for name, content in contents.items():
            with open(temporary / name, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o777 & ~mask)
        _swap(temporary, target)
    except OSError as error:
        raise GuardError(f"The guard cannot be saved at {path}: {error.strerror}.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def read_folder(path: str | Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Settings and arrays of a saved guard, after checks that do not depend on the rule.

    Raises:
        GuardError: a file is missing or damaged, the schema is newer, or a value is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(path)
    if not folder.is_dir():
        raise GuardError(f"There is no guard at {path}: it is not a folder.")
    for name in (SETTINGS, TENSORS):
        if not (folder / name).is_file():
            raise GuardError(f"{path} is not a whole guard: {name} is missing.")
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise GuardError(f"{folder / SETTINGS} is not readable JSON ({error}); fit and save the guard again.") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("schema"), int):
        raise GuardError(f"{folder / SETTINGS} is not a guard's: it names no schema version.")
    if settings["schema"] > SCHEMA:
        raise GuardError(
            f"The guard at {path} has schema version {settings['schema']}, newer than {SCHEMA}; update undertow to "
            "read it."
        )
    missing = [key for key in _KEYS if key not in settings]
    if missing:
        raise GuardError(f"{folder / SETTINGS} lacks '{missing[0]}'; fit and save the guard again.")
    try:
        tensors = load_file(folder / TENSORS)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError):
        raise GuardError(
            f"{folder / TENSORS} is damaged or not a safetensors file; fit and save the guard again."
        ) from None
    for name, array in tensors.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise GuardError(
                f"The guard's array '{name}' holds values that are not finite numbers; fit and save the guard again."
            )
    return settings, tensors


def fingerprint(settings: Mapping[str, Any], tensors: Mapping[str, Array]) -> str:
    """SHA-256 over everything that a guard's verdicts depend on: model, beliefs and arrays."""
    digest = hashlib.sha256()
    deciding = {"model": settings["model"]["fingerprint"], "beliefs": settings["beliefs"]}
    digest.update(json.dumps(deciding, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(str(tensors[name].shape).encode())
        digest.update(np.ascontiguousarray(tensors[name], dtype=np.float32).tobytes())
    return digest.hexdigest()


def _check_target(target: Path) -> None:
    if target.is_dir():
        if any(target.iterdir()) and not (target / SETTINGS).is_file():
            raise GuardError(f"{target} holds other files, so no guard is written there; name a new folder.")
    elif target.exists() or target.is_symlink():
        raise GuardError(f"{target} is a file, and a guard is a folder; name a new folder.")


def _swap(temporary: Path, target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.replaced-", dir=target.parent))
        target.rename(aside / target.name)
        try:
            temporary.rename(target)
        except OSError:
            (aside / target.name).rename(target)
            raise
        finally:
            if target.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(temporary, target)
