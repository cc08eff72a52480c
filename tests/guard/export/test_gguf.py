from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from undertow.errors import GuardError
from undertow.guard import LatentGuard, Steering
from undertow.guard.export import export_control_vector
from undertow.guard.steering import Strength
from undertow.model import Add, ChatModel

gguf = pytest.importorskip("gguf")


@pytest.fixture
def steered(guard: LatentGuard) -> LatentGuard:
    """The fitted guard, steering at state 2 with coefficient 1.5."""
    strength = Strength(1.5, 9, 10, "prompts")
    direction = np.linspace(-1, 1, guard.model.width).astype(np.float32)
    steering = Steering(2, direction, strength, strength)
    return LatentGuard(
        guard.model, guard.identity, guard.harmfulness, guard.refusal, steering=steering, directions=guard.directions
    )


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    for tensor in reader.tensors:
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and len(tensor.shape) == 1
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def test_the_file_is_what_its_readers_expect(steered: LatentGuard, tmp_path: Path) -> None:
    export = export_control_vector(steered, tmp_path / "refusal.gguf")
    fields, tensors = read(export.path)
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama" and fields["controlvector.layer_count"] == 1
    assert fields["undertow.guard"] == steered.fingerprint
    assert "Strength 1 adds 1.5 times" in fields["general.description"]
    assert steered.steering is not None
    assert list(tensors) == ["direction.1"] and export.tensors == {"direction.1": 2}
    np.testing.assert_allclose(tensors["direction.1"], 1.5 * steered.steering.direction, rtol=1e-6)


def test_added_after_its_block_it_is_the_edit_at_the_state(
    chat: ChatModel, steered: LatentGuard, tmp_path: Path
) -> None:
    """What llama.cpp and repeng do, done with a plain hook: the tensor N is added to the output of block N, from 0."""
    _, tensors = read(export_control_vector(steered, tmp_path / "v.gguf", "harmfulness", states=[2, 3]).path)
    prompt = "attack3 the thing4 please"
    ids = torch.tensor([chat.render(prompt).ids])

    def adding(vector: np.ndarray) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = hidden + torch.from_numpy(vector)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    handles = [
        chat.model.model.layers[int(name.split(".")[1])].register_forward_hook(adding(vector))
        for name, vector in tensors.items()
    ]
    with torch.no_grad():
        controlled = chat.model(input_ids=ids).logits[0, -1].log_softmax(-1)
        for handle in handles:
            handle.remove()
        plain = chat.model(input_ids=ids).logits[0, -1].log_softmax(-1)
    assert steered.directions is not None
    edits = [
        Add(torch.from_numpy(steered.directions.difference("harmfulness", state)), 0.75, state=state, span="prompt")
        for state in (2, 3)
    ]
    with chat.edit(*edits):
        edited = chat.logits([prompt])[0]
    torch.testing.assert_close(controlled, edited, atol=1e-4, rtol=1e-4)
    assert (plain - edited).abs().max() > 0.01


def test_the_harmfulness_direction_is_the_difference_of_the_means(steered: LatentGuard, tmp_path: Path) -> None:
    _, tensors = read(export_control_vector(steered, tmp_path / "v.gguf", "harmfulness").path)
    assert steered.directions is not None
    low, high = steered.directions.means("harmfulness")[:, 2]
    np.testing.assert_allclose(tensors["direction.1"], 1.5 * (high - low), rtol=1e-5, atol=1e-6)


def test_repeng_reads_it(steered: LatentGuard, tmp_path: Path) -> None:
    repeng = pytest.importorskip("repeng")
    export = export_control_vector(steered, tmp_path / "v.gguf")
    vector = repeng.ControlVector.import_gguf(export.path)
    assert vector.model_type == "llama" and list(vector.directions) == [1]


@pytest.mark.parametrize(
    ("states", "words"),
    [([1], "states 2 to 3 of this model, not 1"), ([4], "not 4"), ([], "not none"), ([0, 2], "not 0")],
)
def test_states_that_its_readers_cannot_reach_are_refused(
    states: list[int], words: str, steered: LatentGuard, tmp_path: Path
) -> None:
    with pytest.raises(GuardError, match=words):
        export_control_vector(steered, tmp_path / "v.gguf", states=states)
    assert list(tmp_path.iterdir()) == []


def test_a_guard_without_the_direction_is_refused(steered: LatentGuard, tmp_path: Path) -> None:
    older = LatentGuard(steered.model, steered.identity, steered.harmfulness, None, steering=steered.steering)
    export_control_vector(older, tmp_path / "own.gguf")
    with pytest.raises(GuardError, match="keeps no harmfulness direction at state 2"):
        export_control_vector(older, tmp_path / "v.gguf", "harmfulness")
    bare = LatentGuard(steered.model, steered.identity, steered.harmfulness, None)
    with pytest.raises(GuardError, match="no steering direction, so there is no state to take"):
        export_control_vector(bare, tmp_path / "v.gguf")
    untried = LatentGuard(steered.model, steered.identity, steered.harmfulness, None, directions=steered.directions)
    export = export_control_vector(untried, tmp_path / "v.gguf", "harmfulness", states=[2])
    assert export.coefficient == 1 and "untried" in export.notes[-1]


def test_a_guard_that_was_forced_says_so(steered: LatentGuard, tmp_path: Path) -> None:
    steered.mismatches = ("The guard was forced.",)
    notes = export_control_vector(steered, tmp_path / "v.gguf").notes
    assert notes[0] == "The guard was forced." and "Strength 1" in notes[1]


def test_a_direction_of_nothing_is_refused(steered: LatentGuard, tmp_path: Path) -> None:
    assert steered.steering is not None
    steered.steering = replace(steered.steering, direction=np.zeros(steered.model.width, dtype=np.float32))
    with pytest.raises(GuardError, match="zero or not finite"):
        export_control_vector(steered, tmp_path / "v.gguf")


def test_the_output_is_checked_and_replaced_whole(steered: LatentGuard, tmp_path: Path) -> None:
    with pytest.raises(GuardError, match=r"ends in \.gguf"):
        export_control_vector(steered, tmp_path / "vector.bin")
    path = tmp_path / "v.gguf"
    export_control_vector(steered, path)
    with pytest.raises(GuardError, match="exists already"):
        export_control_vector(steered, path, "harmfulness")
    before = path.read_bytes()
    export_control_vector(steered, path, "harmfulness", overwrite=True)
    assert path.read_bytes() != before and [entry.name for entry in tmp_path.iterdir()] == ["v.gguf"]
    deep = export_control_vector(steered, tmp_path / "new" / "deep" / "v.gguf").path
    assert list(deep.parent.iterdir()) == [deep]
    with pytest.raises(GuardError, match="cannot be written to"):
        export_control_vector(steered, path / "below.gguf")
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(GuardError, match="is a folder"):
        export_control_vector(steered, tmp_path / "folder.gguf", overwrite=True)


def test_without_gguf_one_sentence_says_what_to_install(
    steered: LatentGuard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(GuardError, match=r"install undertow\[export\]"):
        export_control_vector(steered, tmp_path / "v.gguf")
