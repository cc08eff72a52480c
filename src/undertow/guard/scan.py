"""Scoring a corpus: streamed, resumable after a kill at any moment, the same bytes whatever the batch size."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.errors import GuardError
from undertow.guard.journal import Journal, source_fingerprint
from undertow.guard.place import Place, ScanResult
from undertow.guard.rows import CHUNK_ROWS, Scorer, score_chunk
from undertow.progress import progress_bar
from undertow.prompts import Prompt, as_prompts, iterate_prompts

if TYPE_CHECKING:
    from undertow.guard.guard import LatentGuard

_SCHEMA = 2

Advance = Callable[[int], None]


class LocalScorer:
    """A guard in this process as a scorer.

    Args:
        guard: the guard.
    """

    chunk_rows = CHUNK_ROWS

    def __init__(self, guard: LatentGuard) -> None:
        self.guard = guard
        self.fingerprint = guard.fingerprint
        self.model_fingerprint = guard.model.identity.fingerprint
        self.has_refusal = guard.refusal is not None

    def score_chunk(self, prompts: list[Prompt], first_row: int, include_prompts: bool = False) -> list[dict[str, Any]]:
        """Rows of one aligned chunk, in order; a pure function of guard and prompts."""
        return score_chunk(self.guard, prompts, first_row, include_prompts)


@dataclass(frozen=True)
class Work:
    """What a scan has to do, for engines that fill the journal in their own way.

    Attributes:
        source: a prompt file or Hub dataset id, or prompts in memory.
        limit: at most so many prompts.
        reading: options for `iterate_prompts`.
        include_prompts: whether the text is written too.
        batch_size: rows written and synced at a time.
        task: what must be the same for the scan to be resumed.
        place: the files of the output.
    """

    source: str | Path | list[Prompt]
    limit: int | None
    reading: Mapping[str, Any]
    include_prompts: bool
    batch_size: int
    task: Mapping[str, Any]
    place: Place

    def prompts(self) -> Iterator[Prompt]:
        """The prompts, read as they are asked for. Raises PromptFileError where the source cannot be read."""
        if isinstance(self.source, list):
            return iter(self.source[: self.limit])
        return iterate_prompts(self.source, limit=self.limit, **self.reading)


Fill = Callable[[Work, Journal, Advance], None]
"""Commits all rows of the work to the journal, in order, and says how many each time; some may be there already."""


def scan(
    guard: LatentGuard | Scorer,
    source: Any,
    output: str | Path,
    *,
    batch_size: int = 64,
    resume: bool = True,
    limit: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    include_prompts: bool = False,
    fill: Fill | None = None,
    **reading: Any,
) -> ScanResult:
    """Score every prompt of a source and write one row each.

    Rows: `row` (from 0), `id`, `harmful` (probability), `harmfulness` (score), `refusal`, `flagged`, `quadrant`,
    `error`, and `prompt` where asked for. A prompt that cannot be judged (not renderable, too long, states not finite)
    gets the reason in `error` and nulls elsewhere.

    While it runs, OUTPUT.scan.json says which guard and source the output belongs to; JSON lines grow in OUTPUT
    itself, Parquet rows in OUTPUT.rows.jsonl until they are written in one go. Run the same call again after a kill or
    Ctrl-C and it goes on where it was. OUTPUT.scan.json stays beside a finished output, marked so; the same call then
    changes nothing and reports what is there.

    Args:
        guard: the guard, or a scorer that takes its place.
        source: a prompt file or Hub dataset id, or an in-memory sequence of prompts.
        output: a file ending in .jsonl, .ndjson or .parquet.
        batch_size: rows written and synced at a time. It has no influence on the output's bytes: prompts are always
            scored in aligned chunks of 64, or as many as the scorer takes.
        resume: False refuses to go on with an unfinished output.
        limit: at most so many prompts.
        overwrite: replace whatever output is there.
        include_prompts: whether the text is written too.
        fill: how the rows come into the output, for engines that do not score them one chunk after another.
        reading: for `iterate_prompts`: format, prompt_column, label_column, category_column, id_column.

    Raises:
        GuardError: the output exists, belongs to another guard, source or options, or its ending is unknown.
        PromptFileError: the source cannot be read; what was written before stays, and can be resumed.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise GuardError("The batch size and the limit of a scan must be at least 1.")
    scorer = guard if isinstance(guard, Scorer) else LocalScorer(guard)
    place = Place(Path(output))
    source = _checked(source, reading)
    task = _task(scorer, source, limit, include_prompts, reading)
    work = Work(source, limit, reading, include_prompts, batch_size, task, place)
    prompts = work.prompts()
    finished = place.open(task, resume=resume, overwrite=overwrite)
    if finished is not None:
        return finished
    total = len(source[:limit]) if isinstance(source, list) else limit
    place.manifest.write(task | {"finished": False})
    with Journal(place.rows_path) as journal, progress_bar(total, "Scanning", enabled=progress) as advance:
        resumed = journal.rows
        advance(resumed)
        if fill is None:
            _write_rows(scorer, prompts, work, journal, advance)
        else:
            fill(work, journal, advance)
        return place.finish(task, resumed, include_prompts)


def _task(
    scorer: Scorer,
    source: str | Path | list[Prompt],
    limit: int | None,
    include_prompts: bool,
    reading: Mapping[str, Any],
) -> dict[str, Any]:
    """What must be the same for a scan to be resumed."""
    if isinstance(source, list):
        canonical = "\n".join(json.dumps([prompt.messages, prompt.id]) for prompt in source)
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
    else:
        hashed = source_fingerprint(Path(source)) if Path(source).is_file() else f"name:{source}"
    return {
        "schema": _SCHEMA,
        "guard": scorer.fingerprint,
        "model": scorer.model_fingerprint,
        "source": hashed,
        "limit": limit,
        "include_prompts": include_prompts,
        "reading": {name: value for name, value in sorted(reading.items()) if value is not None},
        "chunk_rows": scorer.chunk_rows,
    }


def _checked(source: Any, reading: Mapping[str, Any]) -> str | Path | list[Prompt]:
    """The name of a file or dataset as it is, anything else as a list of prompts."""
    if isinstance(source, str | Path):
        return source
    if not isinstance(source, Iterable):
        raise GuardError(f"A scan reads a file, a Hub dataset or a sequence of prompts, not {type(source).__name__}.")
    if reading:
        raise GuardError(f"The option {next(iter(reading))} is for files, and the source is in memory.")
    prompts = as_prompts(source)
    if not prompts:
        raise GuardError("There is no prompt to scan in the source.")
    return prompts


def _write_rows(scorer: Scorer, prompts: Iterator[Prompt], work: Work, journal: Journal, advance: Advance) -> None:
    size = work.batch_size
    row = journal.rows // scorer.chunk_rows * scorer.chunk_rows
    skipped = sum(1 for _ in islice(prompts, row))
    if skipped < row:
        raise too_many_rows(journal)
    waiting: list[dict[str, Any]] = []
    try:
        for rows in _scored(scorer, prompts, row, work.include_prompts):
            waiting.extend(rows[max(0, journal.rows - row) :])
            row += len(rows)
            while len(waiting) >= size:
                journal.commit(waiting[:size])
                del waiting[:size]
                advance(size)
        journal.commit(waiting)
        advance(len(waiting))
    except BaseException:
        # On Ctrl-C or a bad line, what is scored is kept; the interruption may have come in the midst of a commit.
        journal.recover()
        journal.commit([scored for scored in waiting if scored["row"] >= journal.rows])
        raise
    if journal.rows > row:
        raise too_many_rows(journal)


def too_many_rows(journal: Journal) -> GuardError:
    """The error for an output with more rows than its source has prompts."""
    return GuardError(f"{journal.path} holds more rows than the source has prompts; use overwrite to start anew.")


def chunks(prompts: Iterator[Prompt], first_row: int, size: int) -> Iterator[tuple[int, list[Prompt]]]:
    """Aligned chunks of a source from an aligned row on, each with its first row."""
    row = first_row
    while chunk := list(islice(prompts, size)):
        yield row, chunk
        row += len(chunk)


def _scored(
    scorer: Scorer, prompts: Iterator[Prompt], first_row: int, include_prompts: bool
) -> Iterator[list[dict[str, Any]]]:
    """Rows of every chunk, in order, as many scored at the same time as the scorer says."""
    waiting = chunks(prompts, first_row, scorer.chunk_rows)
    most = getattr(scorer, "chunks_in_flight", 1)
    if most == 1:
        for row, chunk in waiting:
            yield scorer.score_chunk(chunk, row, include_prompts)
        return
    pool = ThreadPoolExecutor(most, thread_name_prefix="undertow-scan")
    try:
        yield from _scored_ahead(scorer, waiting, most, include_prompts, pool)
    finally:
        # After an error nobody waits for what is under way; a thread ends with its request.
        pool.shutdown(wait=False, cancel_futures=True)


def _scored_ahead(
    scorer: Scorer,
    waiting: Iterator[tuple[int, list[Prompt]]],
    most: int,
    include_prompts: bool,
    pool: ThreadPoolExecutor,
) -> Iterator[list[dict[str, Any]]]:
    flying: deque[Future[list[dict[str, Any]]]] = deque()
    failure: Exception | None = None
    while True:
        while failure is None and len(flying) < most:
            try:
                row, chunk = next(waiting)
            except StopIteration:
                break
            except Exception as error:
                # The chunks before a line that cannot be read are whole, and are kept.
                failure = error
            else:
                flying.append(pool.submit(scorer.score_chunk, chunk, row, include_prompts))
        if not flying:
            break
        yield flying.popleft().result()
    if failure is not None:
        raise failure
