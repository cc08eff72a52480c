"""Finding built-in organisms."""

from __future__ import annotations

from pathlib import Path

import pytest

from undertow.errors import ModelError
from undertow.organism.registry import available, resolve, weights_path


def test_names_and_paths_lead_to_the_same_folder() -> None:
    assert "aligned" in available()
    assert resolve("organism:aligned") == resolve("aligned") == weights_path("aligned")
    assert resolve(weights_path("aligned")) == weights_path("aligned")


@pytest.mark.parametrize("name", ["organism:nobody", "nobody", "", "../aligned"])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ModelError, match="aligned"):
        resolve(name)


def test_a_folder_without_a_model_is_no_organism(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no built-in organism"):
        resolve(tmp_path)
