"""Where the organisms that come with the package lie."""

from __future__ import annotations

import json
from pathlib import Path

from undertow.errors import ModelError

WEIGHTS = Path(__file__).parent / "weights"


def available() -> list[str]:
    """Names of the organisms whose weights come with the package."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))


def weights_path(name: str) -> Path:
    """Folder of a built-in organism, in Hugging Face format.

    Raises:
        ModelError: there is no organism of that name.
    """
    if name not in available():
        raise ModelError(
            f"There is no built-in organism {name!r}; the built-in organisms are {', '.join(available()) or 'none'}."
        )
    return WEIGHTS / name


def resolve(path_or_name: str | Path) -> Path:
    """The folder of an organism given by name, as ``organism:NAME``, or by its path.

    Raises:
        ModelError: neither a folder with a model nor the name of a built-in organism.
    """
    path = Path(path_or_name)
    if (path / "config.json").is_file():
        return path
    return weights_path(str(path_or_name).removeprefix("organism:"))


def recipe_of(folder: Path) -> str:
    """The recipe that made an organism, as its configuration names it; those that name none are of ``aligned``."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str(config.get("organism", "aligned"))
