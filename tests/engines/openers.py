"""Guards for Ray's workers to open: slow ones, ones that write down what they score, and ones that die of a prompt."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from undertow.errors import GuardError
from undertow.guard import LatentGuard
from undertow.model import load


def open_plain(folder: str) -> LatentGuard:
    """The guard in a folder that `Ground` describes."""
    return LatentGuard.from_pretrained(f"{folder}/guard", load(f"{folder}/model"))


def open_watched(folder: str, log: str, seconds: float = 0.0, deadly: str | None = None) -> LatentGuard:
    """The same, in a process that takes its time and notes every chunk that it begins.

    Args:
        log: file to which a line with the process id and the chunk's first row is added for every chunk.
        seconds: added to every chunk.
        deadly: a text at which the process kills itself.
    """
    from undertow.guard import scan

    score_chunk = scan.score_chunk

    def watched(guard, prompts, first_row, include_prompts):
        with open(log, "a") as stream:
            stream.write(f"{os.getpid()} {first_row}\n")
        if deadly is not None and any(prompt.text == deadly for prompt in prompts):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        return score_chunk(guard, prompts, first_row, include_prompts)

    scan.score_chunk = watched
    return open_plain(folder)


def open_nothing(folder: str) -> LatentGuard:
    """A folder that workers do not see."""
    raise GuardError(f"There is no guard at {folder}.")


def begun(log: Path) -> list[tuple[int, int]]:
    """Process id and first row of every chunk that was begun, in order."""
    if not log.exists():
        return []
    return [(int(process), int(row)) for process, row in (line.split() for line in log.read_text().splitlines())]
