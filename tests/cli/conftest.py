"""One small taught model on disk, prompts for it, a guard fitted through the command line, and arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.guard.taught import fit_prompts, taught_chat
from undertow.cli.app import app
from undertow.prompts import Prompt

STATES, WIDTH = 4, 32


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


def run_command(*arguments: object) -> Outcome:
    """Run `undertow` in this process; anything but a clean end is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="undertow")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def run() -> Run:
    return run_command


def write_prompts(path: Path, prompts: list[Prompt], *, labels: bool = True) -> Path:
    rows = [
        {"prompt": prompt.text, "wrapper": prompt.wrapper, "style": prompt.style}
        | ({"harmful": prompt.harmful} if labels else {})
        for prompt in prompts
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Ground:
    """Good files that the tests start from; nobody writes here."""

    model: Path
    harmful: Path
    harmless: Path
    both: Path
    guard: Path
    states: Path
    centroids: tuple[Path, Path]
    direction: Path
    fit: Outcome


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    chat = taught_chat()
    chat.model.save_pretrained(folder / "model")
    chat.tokenizer.save_pretrained(folder / "model")
    harmful, harmless = fit_prompts()
    sets = {"harmful.jsonl": harmful, "harmless.jsonl": harmless, "both.jsonl": harmful + harmless}
    files = [write_prompts(folder / name, prompts) for name, prompts in sets.items()]
    fitted = run(
        "fit", folder / "model", "--harmful", files[0], "--harmless", files[1], "-o", folder / "guard",
        "--rule", "linear", "--false-positive-rate", "0.05", "--json",
    )  # fmt: skip
    assert fitted.code == 0, fitted.err
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(STATES, 10, 2, WIDTH, generator=generator).half()
    torch.save(states, folder / "states.pt")
    centroids = (folder / "harmful.pt", folder / "harmless.pt")
    for path, mean in zip(centroids, (states[:, :5, 0].float().mean(1), states[:, 5:, 0].float().mean(1)), strict=True):
        torch.save(mean.half(), path)
    direction = folder / "direction.safetensors"
    assert run("import", centroids[0], "--as", "direction", "-o", direction).code == 0
    return Ground(folder / "model", *files, folder / "guard", folder / "states.pt", centroids, direction, fitted)
