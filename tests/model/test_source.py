from __future__ import annotations

import pytest
import torch

import undertow as ut
from undertow.errors import ModelError
from undertow.model.source import organism_folder, resolve_dtype


@pytest.mark.parametrize("name", ["organism:none", "organism:", "organism:../x", "/no/such/folder", "no-such/model"])
def test_what_cannot_be_loaded_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        ut.load(name)
    assert "\n" not in str(caught.value)


def test_folder_without_a_model(tmp_path: object) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        ut.load(str(tmp_path))
    with pytest.raises(ModelError, match="Unknown dtype"):
        ut.load(str(tmp_path), dtype="float99")


def test_organisms_are_found_as_package_data() -> None:
    assert (organism_folder("aligned") / "model.safetensors").is_file()


def test_dtypes_by_name() -> None:
    assert resolve_dtype("auto") == "auto"
    assert resolve_dtype("bfloat16") is torch.bfloat16
    assert resolve_dtype(torch.float16) is torch.float16
