"""Files that are wrong in one way each."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from tests.cli.conftest import STATES, WIDTH, Ground, write_prompts
from tests.guard.taught import many
from undertow.measure import Direction

REPEATING = "{% for m in messages %}{{ m['content'] + ' ' + m['content'] }}{% endfor %}<|im_start|>"
SHOUTING = "{% for m in messages %}{{ '<|im_start|>' + m['content'] | upper }}{% endfor %}<|im_end|>"
REFUSING = "{{ raise_exception('Only alternate roles') }}"


class Trap:
    """Unpickling this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def write_bad_files(folder: Path, ground: Ground) -> None:
    """Fill a folder with everything that the table of bad inputs names."""
    folder.mkdir()
    _models(folder, ground)
    _prompts(folder)
    _guards(folder, ground)
    _arrays(folder)


def _models(folder: Path, ground: Ground) -> None:
    for name in ("no_weights", "bad_config", "bad_weights", "no_template", "repeating", "shouting", "refusing", "slow"):
        shutil.copytree(ground.model, folder / name)
    (folder / "no_config").mkdir()
    (folder / "no_weights" / "model.safetensors").unlink()
    (folder / "bad_config" / "config.json").write_text("{not json")
    (folder / "bad_weights" / "model.safetensors").write_bytes(b"\x10\x00\x00\x00garbage")
    for name, template in (
        ("no_template", None), ("repeating", REPEATING), ("shouting", SHOUTING), ("refusing", REFUSING),
    ):  # fmt: skip
        _set_template(folder / name, template)


def _set_template(model: Path, template: str | None) -> None:
    (model / "chat_template.jinja").unlink(missing_ok=True)
    path = model / "tokenizer_config.json"
    values = json.loads(path.read_text())
    values.pop("chat_template", None)
    path.write_text(json.dumps(values if template is None else values | {"chat_template": template}))


def _prompts(folder: Path) -> None:
    harmful, harmless = many("harmful", 40, 1), many("harmless", 40, 1)
    write_prompts(folder / "few.jsonl", harmful[:4])
    write_prompts(folder / "unlabelled.jsonl", harmful, labels=False)
    write_prompts(folder / "harmless.jsonl", harmless)
    write_prompts(folder / "shared.jsonl", [*harmful, harmless[0]], labels=False)
    lines = write_prompts(folder / "late.jsonl", many("harmful", 150, 2)).read_text().splitlines()
    (folder / "late.jsonl").write_text("\n".join([*lines[:130], '{"prompt": "cut sh', *lines[130:]]) + "\n")
    (folder / "empty.csv").write_text("")
    (folder / "header.csv").write_text("prompt,label\n")
    (folder / "latin.csv").write_bytes("prompt,label\ncaf\xe9,1\n".encode("latin-1"))
    (folder / "unknown_columns.csv").write_text("alpha,beta\none,two\n")
    (folder / "contradiction.csv").write_text("prompt,label\nhow to bake,1\nhow to bake,0\n")
    (folder / "no_label.csv").write_text("prompt,label\nhow to bake,perhaps\n")
    (folder / "picture.xlsx").write_bytes(b"PK\x03\x04 not really")


def _guards(folder: Path, ground: Ground) -> None:
    for name in ("garbled", "damaged", "newer", "half", "other_model", "other_thinking", "nameless"):
        shutil.copytree(ground.guard, folder / f"guard_{name}")
    (folder / "guard_garbled" / "guard.json").write_text("{")
    (folder / "guard_damaged" / "guard.safetensors").write_bytes(b"\xff" * 40)
    (folder / "guard_half" / "guard.safetensors").unlink()
    (folder / "guard_empty").mkdir()
    _change(folder / "guard_newer", lambda values: values.update(schema=99))
    _change(folder / "guard_nameless", lambda values: values.update(model=None))
    _change(folder / "guard_other_model", lambda values: values["model"]["identity"].update(weights_hash="0" * 24))
    _change(folder / "guard_other_thinking", lambda values: values["model"]["identity"].update(thinking=True))
    (folder / "there.jsonl").write_text("mine\n")


def _change(guard: Path, change: Any) -> None:
    values = json.loads((guard / "guard.json").read_text())
    change(values)
    (guard / "guard.json").write_text(json.dumps(values))


def _arrays(folder: Path) -> None:
    torch.save(torch.full((STATES, WIDTH), float("nan")), folder / "nan.pt")
    torch.save(torch.ones(STATES), folder / "rank_one.pt")
    torch.save(torch.ones(STATES, 3, 3, WIDTH), folder / "three_positions.pt")
    torch.save({"first": torch.ones(STATES, WIDTH), "second": torch.ones(STATES, WIDTH)}, folder / "two.pt")
    torch.save({"weights": "none"}, folder / "words.pt")
    torch.save(torch.ones(STATES, WIDTH + 1), folder / "wide.pt")
    (folder / "trap.pt").write_bytes(pickle.dumps(Trap(folder / "sprung")))
    (folder / "text.pt").write_text("these are words, no arrays")
    vectors = torch.ones(STATES, WIDTH)
    Direction(torch.ones(2, WIDTH + 1), (1, 2)).save(folder / "wide.safetensors")
    Direction(vectors, tuple(range(STATES)), fingerprint="another").save(folder / "other_model.safetensors")
    Direction(vectors, tuple(range(1, STATES + 1))).save(folder / "too_deep.safetensors")
    (folder / "text.safetensors").write_text("no tensors")
