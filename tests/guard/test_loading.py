from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.builders import tiny_chat
from tests.guard.taught import many
from undertow.errors import GuardError, GuardMismatchError
from undertow.guard import LatentGuard
from undertow.guard.loading import download, upload
from undertow.model import ChatModel

PROMPTS = many("harmful", 8, 31, "persuasion") + many("harmless", 8, 31) + many("look-alike", 8, 31)


@pytest.fixture
def folder(guard, tmp_path):
    return guard.save_pretrained(tmp_path / "guard")


def test_verdicts_survive_saving_bit_for_bit(guard, folder, chat):
    again = LatentGuard.from_pretrained(folder, chat)
    assert again(PROMPTS) == guard(PROMPTS)
    assert again.fingerprint == guard.fingerprint
    assert again.warnings == guard.warnings
    assert again.metrics == json.loads(json.dumps(guard.metrics))
    assert again.steering.to_dict() == guard.steering.to_dict()
    assert (
        again.save_pretrained(folder.parent / "again").joinpath("guard.json").read_bytes()
        == (folder / "guard.json").read_bytes()
    )


def test_the_named_model_is_loaded(chat, tmp_path):
    place = tmp_path / "model"
    chat.model.save_pretrained(place)
    chat.tokenizer.save_pretrained(place)
    from undertow.model import load

    model = load(place)
    guard = LatentGuard.fit(
        model, many("harmful", 20, 3), many("harmless", 20, 3), progress=False, steering=False, refusal_rule=None
    )
    guard.save_pretrained(tmp_path / "guard")
    again = LatentGuard.from_pretrained(tmp_path / "guard")
    np.testing.assert_allclose(again.score(PROMPTS), guard.score(PROMPTS), rtol=1e-4)


def variants(chat: ChatModel) -> dict[str, ChatModel]:
    template = copy.deepcopy(chat.tokenizer)
    template.chat_template = chat.tokenizer.chat_template.replace("assistant\\n", "assistant \\n")
    thinking = copy.deepcopy(chat.tokenizer)
    thinking.chat_template = chat.tokenizer.chat_template + "{% if enable_thinking %}<think>{% endif %}"
    words = copy.deepcopy(chat.tokenizer)
    words.add_tokens(["another"])
    weights = copy.deepcopy(chat.model)
    weights.model.layers[0].mlp.up_proj.weight.data.mul_(2)
    return {
        "chat template": ChatModel(chat.model, template),
        "thinking mode": ChatModel(chat.model, thinking, thinking=True),
        "tokenizer": ChatModel(chat.model, words),
        "weights": ChatModel(weights, chat.tokenizer),
        "revision": ChatModel(chat.model, chat.tokenizer, revision="other"),
    }


@pytest.mark.parametrize("name", ["chat template", "thinking mode", "tokenizer", "weights", "revision"])
def test_another_model_is_refused_by_name_and_forced_with_a_warning(chat, guard, folder, name):
    other = variants(chat)[name]
    if name == "revision":
        settings = json.loads((folder / "guard.json").read_text())
        settings["model"]["identity"]["revision"] = "fitted"
        (folder / "guard.json").write_text(json.dumps(settings))
    with pytest.raises(GuardMismatchError, match=name):
        LatentGuard.from_pretrained(folder, other)
    forced = LatentGuard.from_pretrained(folder, other, force=True)
    verdict = forced("attack1 the thing3")
    assert name in verdict.warnings[0]


def test_another_shape_cannot_be_forced(folder):
    with pytest.raises(GuardMismatchError, match="width"):
        LatentGuard.from_pretrained(folder, tiny_chat(), force=True)


GARBLED = [
    (path, value)
    for path in [
        ("model", "identity"),
        ("model", "identity", "tokenizer_hash"),
        ("beliefs", "harmfulness"),
        ("beliefs", "refusal", "threshold"),
        ("beliefs", "harmfulness", "rule"),
        ("beliefs", "harmfulness", "states"),
        ("beliefs", "harmfulness", "probability", "slope"),
        ("steering", "refuse"),
    ]
    for value in ("gone", None, "nonsense", -1)
    if (path[-1], value) != ("slope", -1)  # a slope may be any number
]


@pytest.mark.parametrize(("path", "value"), GARBLED)
def test_garbled_settings_are_refused_in_one_sentence(chat, folder, path, value):
    settings = json.loads((folder / "guard.json").read_text())
    inner = settings
    for name in path[:-1]:
        inner = inner[name]
    if value == "gone":
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    (folder / "guard.json").write_text(json.dumps(settings))
    with pytest.raises(GuardError) as caught:
        LatentGuard.from_pretrained(folder, chat)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["shape", "missing", "states"])
def test_wrong_arrays_are_refused(chat, folder, damage):
    tensors = load_file(folder / "guard.safetensors")
    name = next(name for name in tensors if name.startswith("harmfulness") and tensors[name].ndim == 2)
    if damage == "missing":
        del tensors[name]
    elif damage == "shape":
        tensors[name] = tensors[name][:, :5].copy()
    else:
        tensors[name] = np.concatenate([tensors[name], tensors[name]])
    save_file(tensors, folder / "guard.safetensors")
    with pytest.raises(GuardError):
        LatentGuard.from_pretrained(folder, chat)


def test_a_guard_on_the_hub_is_downloaded_and_uploaded_as_a_folder(guard, chat, folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, revision, allow_patterns: str(folder))
    assert LatentGuard.from_pretrained("someone/a-guard", chat)(PROMPTS) == guard(PROMPTS)
    seen = {}

    class Interface:
        def __init__(self, token):
            seen["token"] = token

        def create_repo(self, repository, private, exist_ok):
            seen["private"] = private

        def upload_folder(self, repo_id, folder_path, revision):
            seen["files"] = sorted(path.name for path in folder_path.iterdir())
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Interface)
    assert guard.push_to_hub("someone/a-guard") == "https://hub/commit"
    assert seen == {"token": None, "private": True, "files": ["README.md", "guard.json", "guard.safetensors"]}


def test_what_the_hub_does_not_give_is_an_error_in_a_sentence(monkeypatch, tmp_path):
    import huggingface_hub

    def fail(*arguments, **options):
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(GuardError, match="someone/a-guard"):
        download("someone/a-guard")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    with pytest.raises(GuardError, match="could not be uploaded"):
        upload(tmp_path, "someone/a-guard", private=True, token=None, revision=None)


def test_the_same_model_in_bfloat16_is_accepted_and_judges_alike(chat, guard, folder):
    half = ChatModel(copy.deepcopy(chat.model).bfloat16(), chat.tokenizer)
    again = LatentGuard.from_pretrained(folder, half)
    same = [a.quadrant == b.quadrant for a, b in zip(again(PROMPTS), guard(PROMPTS), strict=True)]
    assert sum(same) >= len(same) - 2
    assert len(again.generate(PROMPTS[:4], on_harmful="steer", max_new_tokens=4, progress=False)) == 4
