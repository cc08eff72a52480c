"""The files of one scan: where its rows grow, the note that says whose they are, and what is left at the end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from undertow.errors import GuardError
from undertow.guard.journal import Manifest

_ROW_GROUP = 16_384
_MARK = ".undertow-scan"


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


class Place:
    """The files of one output.

    Args:
        output: a file ending in .jsonl, .ndjson or .parquet.

    Attributes:
        output: the finished file.
        rows_path: where the rows grow; the output itself unless that is Parquet.
        manifest: OUTPUT.scan.json.
        parts: OUTPUT.parts, the folder for chunks that workers finish out of order.

    Raises:
        GuardError: nothing can be written there.
    """

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
        self.parts = output.with_name(output.name + ".parts")

    def open(self, task: Mapping[str, Any], *, resume: bool, overwrite: bool) -> ScanResult | None:
        """Make way for a fresh scan or check that the unfinished one is ours; a result where all is done already."""
        if overwrite:
            # The rows go first: a note without rows starts anew, rows without their note would be taken for finished.
            self.rows_path.unlink(missing_ok=True)
            self.output.unlink(missing_ok=True)
            self._remove_parts()
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
        self._clean()
        return ScanResult(
            self.output, before["rows"], before["rows"], before["flagged"], before["errors"], before["quadrants"]
        )

    def finish(self, task: Mapping[str, Any], resumed: int, include_prompts: bool) -> ScanResult:
        """Count the rows, write Parquet where asked, note that all is done, and remove what only a running scan needs.

        The journal must still be held, so that no other scan writes in between.

        Args:
            task: what the note says besides.
            resumed: rows that were there before.
            include_prompts: whether the rows hold the prompts' text.
        """
        tally = _tally(self.rows_path)
        if self.parquet:
            _write_parquet(self.rows_path, self.output, include_prompts)
        self.manifest.write({**task, "finished": True, **tally})
        self._clean()
        return ScanResult(self.output, tally["rows"], resumed, tally["flagged"], tally["errors"], tally["quadrants"])

    def open_parts(self, task: Mapping[str, Any]) -> Path:
        """The folder for chunks that workers finish out of order, made where missing.

        Every task has its own, so that a worker which outlives a scan cannot write into another one.

        Raises:
            GuardError: the folder holds something else.
        """
        mark = self.parts / _MARK
        if self.parts.exists() and not mark.exists() and (not self.parts.is_dir() or any(self.parts.iterdir())):
            raise GuardError(f"{self.parts} holds something else than parts of a scan; name another output.")
        key = hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()[:16]
        self.parts.mkdir(exist_ok=True)
        mark.touch()
        folder = self.parts / key
        folder.mkdir(exist_ok=True)
        return folder

    def _clean(self) -> None:
        if self.parquet:
            self.rows_path.unlink(missing_ok=True)
        self._remove_parts()

    def _remove_parts(self) -> None:
        mark = self.parts / _MARK
        if not mark.is_file():
            return
        for folder in self.parts.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
        mark.unlink(missing_ok=True)
        # A worker that outlives its scan may have written there just now; what it leaves is never read.
        with suppress(OSError):
            self.parts.rmdir()


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
