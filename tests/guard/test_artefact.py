from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from undertow.errors import GuardError
from undertow.guard.artefact import read_folder, write_folder

SETTINGS = {name: {} for name in ("model", "beliefs", "calibration", "metrics", "training")} | {"warnings": []}
TENSORS = {"a": np.ones((2, 3), dtype=np.float32)}


def test_round_trip(tmp_path):
    write_folder(tmp_path / "guard", SETTINGS, TENSORS, "card")
    settings, tensors = read_folder(tmp_path / "guard")
    assert settings == {"schema": 1} | SETTINGS
    np.testing.assert_array_equal(tensors["a"], TENSORS["a"])
    assert sorted(path.name for path in (tmp_path / "guard").iterdir()) == [
        "README.md",
        "guard.json",
        "guard.safetensors",
    ]


def test_an_earlier_guard_is_replaced_and_nothing_else_is_left(tmp_path):
    write_folder(tmp_path / "guard", SETTINGS, TENSORS, "one")
    write_folder(tmp_path / "guard", SETTINGS | {"warnings": ["x"]}, TENSORS, "two")
    assert (tmp_path / "guard" / "README.md").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["guard"]


def test_a_failure_leaves_the_old_guard_and_no_traces(tmp_path):
    write_folder(tmp_path / "guard", SETTINGS, TENSORS, "one")
    with pytest.raises(ValueError, match="JSON"):
        write_folder(tmp_path / "guard", SETTINGS | {"metrics": {"x": float("nan")}}, TENSORS, "two")
    assert (tmp_path / "guard" / "README.md").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["guard"]


def test_other_files_are_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(GuardError, match="holds other files"):
        write_folder(tmp_path, SETTINGS, TENSORS, "card")
    with pytest.raises(GuardError, match="is a file"):
        write_folder(tmp_path / "notes.txt", SETTINGS, TENSORS, "card")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "guard.json").unlink(), "guard.json is missing"),
        (lambda folder: (folder / "guard.safetensors").unlink(), "guard.safetensors is missing"),
        (lambda folder: (folder / "guard.json").write_text("{"), "not readable JSON"),
        (lambda folder: (folder / "guard.json").write_bytes(b"\xff\xfe\x00"), "not readable JSON"),
        (lambda folder: (folder / "guard.json").write_text("[]"), "no schema version"),
        (lambda folder: (folder / "guard.json").write_text('{"schema": 99}'), "newer than 1"),
        (lambda folder: (folder / "guard.json").write_text('{"schema": 1}'), "lacks 'model'"),
        (lambda folder: (folder / "guard.safetensors").write_bytes(b"abc"), "damaged"),
        (lambda folder: cut(folder / "guard.safetensors"), "damaged"),
        (lambda folder: save_file({"a": np.array([np.nan])}, folder / "guard.safetensors"), "not finite"),
        (lambda folder: save_file({"a": np.array([1])}, folder / "guard.safetensors"), "not finite"),
    ],
)
def test_damaged_folders_are_refused_in_one_sentence(tmp_path, damage, sentence):
    folder = write_folder(tmp_path / "guard", SETTINGS, TENSORS, "card")
    damage(folder)
    with pytest.raises(GuardError, match=sentence) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)


def test_a_place_without_a_guard_is_named(tmp_path):
    with pytest.raises(GuardError, match="There is no guard"):
        read_folder(tmp_path / "nowhere")


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def test_arrays_are_float32_and_json_is_plain(tmp_path, guard):
    folder = guard.save_pretrained(tmp_path / "guard")
    assert {array.dtype for array in load_file(folder / "guard.safetensors").values()} == {np.dtype(np.float32)}
    settings = json.loads((folder / "guard.json").read_text())
    assert settings["schema"] == 1
    assert settings["model"]["template_hash"] == guard.identity.template_hash
    assert settings["training"]["sha256"].keys() == {"harmful", "harmless"}
    card = (folder / "README.md").read_text()
    for part in ("Held-out figures", "False positives", "Why this rule", guard.harmfulness.reason):
        assert part in card
