"""What runs on Ray's workers: the reader of the source, and the scorer that holds a guard."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from undertow.engines.parts import Parts
from undertow.errors import UndertowError
from undertow.guard.scan import LocalScorer, Work, chunks
from undertow.prompts import Prompt

if TYPE_CHECKING:
    from undertow.guard import LatentGuard

MOST_ATTEMPTS = 3
CHUNKS_A_TASK = 4

Kind = Literal["scored", "failed", "end"]

Task = tuple[list[tuple[int, list[Prompt]]], tuple[int, str] | None]
"""Chunks with their numbers; in the last task of a source the number of its prompts, and what stopped the reading."""


@dataclass(frozen=True)
class Setting:
    """What every worker must know.

    Attributes:
        open_guard: loads the guard; called once a worker.
        fingerprint, model_fingerprint: those of the guard that it must be.
        folder: the folder of the parts.
        include_prompts: whether the rows hold the prompts' text.
        chunk_rows: prompts in a chunk.
        workers: how many workers there are.
        threads: threads of each, or None to leave them as they are.
    """

    open_guard: Callable[[], LatentGuard]
    fingerprint: str
    model_fingerprint: str
    folder: Path
    include_prompts: bool
    chunk_rows: int
    workers: int
    threads: int | None


def message(kind: Kind, number: int, text: str = "") -> dict[str, list[Any]]:
    """A row that a worker sends back: a chunk is scored, has failed, or the source ends after so many prompts."""
    return {"kind": [kind], "number": [number], "text": [text]}


def read_tasks(work: Work, chunk_rows: int, first: int, finished: frozenset[int]) -> Iterator[bytes]:
    """The chunks of a source that are still to be scored, a few at a time, pickled; ends with a task that says so.

    Args:
        work: the scan.
        chunk_rows: prompts in a chunk.
        first: number of the first chunk that is wanted.
        finished: chunks that are on disk already.
    """
    task: list[tuple[int, list[Prompt]]] = []
    rows, reason = 0, ""
    try:
        for row, chunk in chunks(work.prompts(), 0, chunk_rows):
            rows += len(chunk)
            number = row // chunk_rows
            if number < first or number in finished:
                continue
            task.append((number, chunk))
            if len(task) == CHUNKS_A_TASK:
                yield pickle.dumps((task, None))
                task = []
    except UndertowError as error:
        # What comes before a line that cannot be read is scored and kept, as the local engine does.
        reason = str(error)
    yield pickle.dumps((task, (rows, reason)))


class Worker:
    """Scores chunks with a guard of its own and writes each as a part; never raises, but says what failed.

    A chunk whose scoring ended the process several times is given up, since it would end every other worker too.

    Args:
        setting: what to do.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.parts = Parts(setting.folder)
        self.scorer: LocalScorer | None = None
        self.failure = ""
        try:
            self._open()
        except (UndertowError, OSError) as error:
            self.failure = f"A worker could not open the guard: {error}"
        except Exception as error:
            # A device without memory for it, for one.
            self.failure = f"A worker could not open the guard ({type(error).__name__}): {_line(error)}"

    def __call__(self, table: Any) -> Iterator[dict[str, list[Any]]]:
        """Score the tasks in a table with the column `task`; yields a message for every chunk."""
        for packed in table.column("task").to_pylist():
            task: Task = pickle.loads(packed)
            for number, prompts in task[0]:
                failure = self._score(number, prompts)
                yield message("failed" if failure else "scored", number, failure)
            if task[1] is not None:
                yield message("end", *task[1])

    def _open(self) -> None:
        if self.parts.begin("guard") >= MOST_ATTEMPTS * self.setting.workers:
            self.failure = (
                "Loading the guard ended the workers time and again (killed, or out of memory); use fewer workers."
            )
            return
        if self.setting.threads is not None:
            import torch

            torch.set_num_threads(self.setting.threads)
        scorer = LocalScorer(self.setting.open_guard())
        self.parts.settle("guard")
        expected = (self.setting.fingerprint, self.setting.model_fingerprint)
        if (scorer.fingerprint, scorer.model_fingerprint) != expected:
            self.failure = "A worker found another guard or model than the one that the scan began with."
            return
        self.scorer = scorer

    def _score(self, number: int, prompts: list[Prompt]) -> str:
        """Score one chunk; returns what failed, or nothing."""
        if self.scorer is None:
            return self.failure
        if self.parts.has(number):
            return ""
        first = number * self.setting.chunk_rows
        where = f"rows {first} to {first + len(prompts) - 1}"
        name = f"{number:012d}"
        if self.parts.begin(name) >= MOST_ATTEMPTS:
            return (
                f"Scoring {where} ended its worker {MOST_ATTEMPTS} times (killed, crashed or out of memory); run the "
                "scan again, or take the prompt that does it out of the source."
            )
        try:
            self.parts.write(number, self.scorer.score_chunk(prompts, first, self.setting.include_prompts))
        except Exception as error:
            # Anything at all, so that the scan ends with the rows and the reason instead of a trace of Ray's.
            return f"A worker could not score {where} ({type(error).__name__}): {_line(error)}"
        finally:
            self.parts.settle(name)
        return ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
