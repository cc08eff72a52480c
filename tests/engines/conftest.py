"""A small guard on disk, prompts for it, and what an undisturbed local scan makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.guard.taught import fit_prompts, many, taught_chat
from undertow.guard import LatentGuard
from undertow.guard.scan import scan

ROWS = 1500


@dataclass(frozen=True)
class Ground:
    """What the tests start from; nobody writes here.

    Attributes:
        folder: holds model, guard, prompts.jsonl and the reference outputs.
        guard: the guard, loaded.
    """

    folder: Path
    guard: LatentGuard

    @property
    def source(self) -> Path:
        return self.folder / "prompts.jsonl"

    @property
    def whole(self) -> Path:
        """Rows of an undisturbed local scan."""
        return self.folder / "whole.jsonl"


def write_source(path: Path, rows: int) -> Path:
    """Prompts of all kinds with ids, a conversation and one that is too long among them."""
    kinds = [("harmful", None), ("harmless", "persuasion"), ("look-alike", None), ("harmful", "persuasion")]
    groups = [many(kind, -(-rows // 4), 8, wrapper) for kind, wrapper in kinds]
    texts: list = [prompt.text for group in zip(*groups, strict=True) for prompt in group][:rows]
    if rows > 200:
        texts[100] = "attack1 " * 100
        texts[170] = [{"role": "system", "content": "please"}, {"role": "user", "content": "bake1 the thing2"}]
    lines = [json.dumps({"prompt": text, "id": f"p{row}"}) + "\n" for row, text in enumerate(texts)]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ground(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("engines")
    chat = taught_chat()
    chat.model.save_pretrained(folder / "model")
    chat.tokenizer.save_pretrained(folder / "model")
    fitted = LatentGuard.fit(
        chat,
        *fit_prompts(),
        rule="centroid",
        refusal_rule="centroid",
        calibration=0.05,
        steering=False,
        progress=False,
    )
    fitted.save_pretrained(folder / "guard")
    from tests.engines.openers import open_plain

    guard = open_plain(str(folder))
    write_source(folder / "prompts.jsonl", ROWS)
    scan(guard, folder / "prompts.jsonl", folder / "whole.jsonl", progress=False)
    return Ground(folder, guard)
