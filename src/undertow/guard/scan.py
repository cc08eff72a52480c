"""Scoring a corpus: streamed, resumable after a kill at any moment, the same bytes whatever the batch size."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.errors import GuardError, PositionError
from undertow.guard.journal import Journal, Manifest, source_fingerprint
from undertow.guard.verdict import Verdict
from undertow.progress import progress_bar
from undertow.prompts import Prompt, as_prompts, iterate_prompts

if TYPE_CHECKING:
    from undertow.guard.guard import LatentGuard

CHUNK_ROWS = 64
"""Rows that are scored together, aligned to row numbers. Fixed, because a float depends on what shares its batch."""

TOKENS_PER_BATCH = 8192
_ROW_GROUP = 16_384
_SCHEMA = 1


@dataclass(frozen=True)
class ScanResult:
    """What a scan did.

    Attributes:
        path: the finished output.
        rows: rows in it.
        resumed: rows that an earlier, interrupted run had already written.
        flagged: prompts flagged.
        errors: rows that could not be scored; they carry an `error` and no scores.
        quadrants: how many prompts fell into each quadrant.
    """

    path: Path
    rows: int
    resumed: int
    flagged: int
    errors: int
    quadrants: dict[str, int] = field(default_factory=dict)


def scan(
    guard: LatentGuard,
    source: Any,
    output: str | Path,
    *,
    batch_size: int = 64,
    resume: bool = True,
    limit: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    include_prompts: bool = False,
    **reading: Any,
) -> ScanResult:
    """Score every prompt of a source and write one row each.

    Rows: `row` (from 0), `id`, `harmful` (probability), `harmfulness` (score), `refusal`, `flagged`, `quadrant`,
        `error`, and `prompt` where asked
    for. A prompt that cannot be judged (not renderable, too long, states not finite) gets the reason in `error` and
    nulls elsewhere.

    While it runs, OUTPUT.scan.json says which guard and source the output belongs to; JSON lines grow in OUTPUT
    itself, Parquet rows in OUTPUT.rows.jsonl until they are written in one go. Run the same call again after a kill or
    Ctrl-C and it goes on where it was. OUTPUT.scan.json stays beside a finished output, marked so; the same call then
    changes nothing and reports what is there.

    Args:
        guard: the guard.
        source: a prompt file or Hub dataset id, or an in-memory sequence of prompts.
        output: a file ending in .jsonl, .ndjson or .parquet.
        batch_size: rows written and synced at a time. It has no influence on the output's bytes: prompts are always
            scored in aligned chunks of 64.
        resume: False refuses to go on with an unfinished output.
        limit: at most so many prompts.
        overwrite: replace whatever output is there.
        include_prompts: whether the text is written too.
        reading: for `iterate_prompts`: format, prompt_column, label_column, category_column, id_column.

    Raises:
        GuardError: the output exists, belongs to another guard, source or options, or its ending is unknown.
        PromptFileError: the source cannot be read; what was written before stays, and can be resumed.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise GuardError("The batch size and the limit of a scan must be at least 1.")
    place = _Place(Path(output))
    source = _checked(source, reading)
    prompts = iter(source[:limit]) if isinstance(source, list) else iterate_prompts(source, limit=limit, **reading)
    task = _task(guard, source, limit, include_prompts, reading)
    finished = place.open(task, resume=resume, overwrite=overwrite)
    if finished is not None:
        return finished
    total = len(source[:limit]) if isinstance(source, list) else limit
    place.manifest.write(task | {"finished": False})
    with Journal(place.rows_path) as journal, progress_bar(total, "Scanning", enabled=progress) as advance:
        resumed = journal.rows
        advance(resumed)
        _write_rows(guard, prompts, journal, batch_size, include_prompts, advance)
        tally = _tally(journal.path)
        if place.parquet:
            _write_parquet(journal.path, place.output, include_prompts)
        place.manifest.write(task | {"finished": True} | tally)
    place.clean()
    return ScanResult(place.output, tally["rows"], resumed, tally["flagged"], tally["errors"], tally["quadrants"])


class _Place:
    """The files of one output."""

    def __init__(self, output: Path) -> None:
        ending = output.suffix.lower()
        if ending not in (".jsonl", ".ndjson", ".parquet"):
            raise GuardError(f"A scan writes .jsonl or .parquet, and {output.name} ends in neither.")
        if not output.parent.is_dir():
            raise GuardError(f"The folder {output.parent} for the output does not exist.")
        if output.is_dir():
            raise GuardError(f"{output} is a folder; name a file for the output.")
        self.output = output
        self.parquet = ending == ".parquet"
        if self.parquet and find_spec("pyarrow") is None:
            raise GuardError("Writing .parquet needs pyarrow: install undertow[data], or write .jsonl.")
        self.rows_path = output.with_name(output.name + ".rows.jsonl") if self.parquet else output
        self.manifest = Manifest(output.with_name(output.name + ".scan.json"))

    def open(self, task: Mapping[str, Any], *, resume: bool, overwrite: bool) -> ScanResult | None:
        """Make way for a fresh scan or check that the unfinished one is ours; a result where all is done already."""
        if overwrite:
            # The rows go first: a note without rows starts anew, rows without their note would be taken for finished.
            self.rows_path.unlink(missing_ok=True)
            self.output.unlink(missing_ok=True)
            self.manifest.remove()
            return None
        before = self.manifest.read()
        if before is None:
            if self.output.exists():
                raise GuardError(f"{self.output} exists already; name another output or use overwrite.")
            self.rows_path.unlink(missing_ok=True)
            return None
        different = [name for name in task if before.get(name) != task[name]]
        state = "finished" if before.get("finished") else "unfinished"
        if different:
            names = ", ".join(name.replace("_", " ") for name in different)
            raise GuardError(
                f"{self.output} holds the {state} scan of another {names}; name another output or use overwrite."
            )
        if not resume:
            raise GuardError(f"{self.output} holds a {state} scan; resume it, name another output or use overwrite.")
        if not before.get("finished"):
            return None
        if not self.output.exists():
            self.manifest.remove()
            return None
        self.clean()
        return ScanResult(
            self.output, before["rows"], before["rows"], before["flagged"], before["errors"], before["quadrants"]
        )

    def clean(self) -> None:
        """Remove what only an unfinished scan needs."""
        if self.parquet:
            self.rows_path.unlink(missing_ok=True)


def _task(
    guard: LatentGuard,
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
        "guard": guard.fingerprint,
        "model": guard.model.identity.fingerprint,
        "source": hashed,
        "limit": limit,
        "include_prompts": include_prompts,
        "reading": {name: value for name, value in sorted(reading.items()) if value is not None},
        "chunk_rows": CHUNK_ROWS,
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


def _write_rows(
    guard: LatentGuard,
    prompts: Iterator[Prompt],
    journal: Journal,
    batch_size: int,
    include_prompts: bool,
    advance: Any,
) -> None:
    row = journal.rows // CHUNK_ROWS * CHUNK_ROWS
    skipped = sum(1 for _ in islice(prompts, row))
    if skipped < row:
        raise GuardError(f"{journal.path} holds more rows than the source has prompts; use overwrite to start anew.")
    waiting: list[dict[str, Any]] = []
    try:
        while chunk := list(islice(prompts, CHUNK_ROWS)):
            rows = score_chunk(guard, chunk, row, include_prompts)
            waiting.extend(rows[max(0, journal.rows - row) :])
            row += len(chunk)
            while len(waiting) >= batch_size:
                journal.commit(waiting[:batch_size])
                del waiting[:batch_size]
                advance(batch_size)
        journal.commit(waiting)
        advance(len(waiting))
    except BaseException:
        # On Ctrl-C or a bad line, what is scored is kept; the interruption may have come in the midst of a commit.
        journal.recover()
        journal.commit([scored for scored in waiting if scored["row"] >= journal.rows])
        raise
    if journal.rows > row:
        raise GuardError(f"{journal.path} holds more rows than the source has prompts; use overwrite to start anew.")


def score_chunk(
    guard: LatentGuard, prompts: list[Prompt], first_row: int, include_prompts: bool = False
) -> list[dict[str, Any]]:
    """Rows of one aligned chunk, in order; a pure function of guard and prompts.

    Args:
        prompts: at most `CHUNK_ROWS`.
        first_row: number of the first prompt within the source.
    """
    errors: dict[int, str] = {}
    try:
        verdicts = _judge(guard, prompts)
    except PositionError:
        for index, prompt in enumerate(prompts):
            try:
                guard.model.render(prompt)
            except PositionError as error:
                errors[index] = str(error)
        good = [index for index in range(len(prompts)) if index not in errors]
        judged = _judge(guard, [prompts[index] for index in good])
        verdicts = [None] * len(prompts)
        for index, verdict in zip(good, judged, strict=True):
            verdicts[index] = verdict
    rows = []
    for index, (prompt, verdict) in enumerate(zip(prompts, verdicts, strict=True)):
        if verdict is None:
            errors.setdefault(index, "The model gives states that are not finite for this prompt.")
        row: dict[str, Any] = {
            "row": first_row + index,
            "id": prompt.id,
            "harmful": None if verdict is None else verdict.harmful,
            "harmfulness": None if verdict is None else verdict.harmfulness,
            "refusal": None if verdict is None else verdict.refusal,
            "flagged": None if verdict is None else verdict.flagged,
            "quadrant": None if verdict is None else verdict.quadrant,
            "error": errors.get(index),
        }
        if include_prompts:
            row["prompt"] = prompt.text
        rows.append(row)
    return rows


def _judge(guard: LatentGuard, prompts: list[Prompt]) -> list[Verdict | None]:
    """Verdicts, None where a state is not finite."""
    if not prompts:
        return []
    captured = guard.model.capture(
        prompts, states=guard.states, positions=guard.positions, progress=False, tokens_per_batch=TOKENS_PER_BATCH
    )
    harmfulness, refusal = guard.beliefs({position: captured.at(position) for position in guard.positions})
    finite = np.isfinite(harmfulness) if refusal is None else np.isfinite(harmfulness) & np.isfinite(refusal)
    good = np.flatnonzero(finite)
    judged = guard.verdicts(
        harmfulness[good], None if refusal is None else refusal[good], [prompts[index].id for index in good]
    )
    verdicts: list[Verdict | None] = [None] * len(prompts)
    for index, verdict in zip(good, judged, strict=True):
        verdicts[index] = verdict
    return verdicts


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8", errors="surrogatepass") as stream:
        for line in stream:
            yield json.loads(line)


def _tally(path: Path) -> dict[str, Any]:
    rows = flagged = errors = 0
    quadrants: Counter[str] = Counter()
    for row in _lines(path):
        rows += 1
        errors += row["error"] is not None
        flagged += bool(row["flagged"])
        if row["quadrant"] is not None:
            quadrants[row["quadrant"]] += 1
    return {"rows": rows, "flagged": flagged, "errors": errors, "quadrants": dict(sorted(quadrants.items()))}


def _write_parquet(rows_path: Path, output: Path, include_prompts: bool) -> None:
    """Turn the rows into Parquet with row groups of a fixed size, under a temporary name, then rename."""
    import pyarrow
    from pyarrow import parquet

    fields = [
        ("row", pyarrow.int64()),
        ("id", pyarrow.string()),
        ("harmful", pyarrow.float64()),
        ("harmfulness", pyarrow.float64()),
        ("refusal", pyarrow.float64()),
        ("flagged", pyarrow.bool_()),
        ("quadrant", pyarrow.string()),
        ("error", pyarrow.string()),
    ]
    schema = pyarrow.schema(fields + ([("prompt", pyarrow.string())] if include_prompts else []))
    temporary = output.with_name(f".{output.name}.partial")
    rows = _lines(rows_path)
    with parquet.ParquetWriter(temporary, schema) as writer:
        while group := list(islice(rows, _ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema), row_group_size=_ROW_GROUP)
    with open(temporary, "rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, output)
