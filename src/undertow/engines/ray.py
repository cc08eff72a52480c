"""A scan spread over Ray's workers: one guard a device, the output byte for byte that of one process.

The source is read by one generator task that streams chunks to the workers, so that every format and any length goes
through in constant memory and the reading is the same code as without Ray; parsing is thousands of times faster than
scoring. Workers write finished chunks to files of their own, and this process appends them to the output in order.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.engines.parts import Parts
from undertow.engines.session import running_ray
from undertow.engines.worker import Setting, Worker, read_tasks
from undertow.errors import GuardError, PromptFileError
from undertow.guard.journal import Journal
from undertow.guard.place import ScanResult
from undertow.guard.scan import Advance, LocalScorer, Work, scan, too_many_rows
from undertow.prompts import Prompt

if TYPE_CHECKING:
    from undertow.guard import LatentGuard

_COMMIT_SECONDS = 0.2
_CHUNKS_A_COMMIT = 64


@dataclass(frozen=True)
class Described:
    """What the driver must know of a guard, so that it need not hold guard and model while the workers score.

    Attributes:
        fingerprint: of the guard.
        model_fingerprint: of the model that it reads.
        has_refusal: whether its rows hold a belief of refusal.
        chunk_rows: prompts that are scored together.
    """

    fingerprint: str
    model_fingerprint: str
    has_refusal: bool
    chunk_rows: int

    @classmethod
    def of(cls, guard: LatentGuard) -> Described:
        """The description of a guard at hand."""
        scorer = LocalScorer(guard)
        return cls(scorer.fingerprint, scorer.model_fingerprint, scorer.has_refusal, scorer.chunk_rows)

    def score_chunk(self, prompts: list[Prompt], first_row: int, include_prompts: bool = False) -> list[dict[str, Any]]:
        """Raises GuardError: the workers score."""
        raise GuardError("The driver of a scan with Ray holds no guard to score with.")


def require_ray() -> None:
    """Raises GuardError: a package that scans with Ray need is not installed."""
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise GuardError("Scanning with Ray needs Ray Data: install undertow[ray].")


def scan_with_ray(
    guard: LatentGuard | Described,
    source: Any,
    output: str | Path,
    *,
    open_guard: Callable[[], LatentGuard],
    workers: int | None = None,
    address: str | None = None,
    **options: Any,
) -> ScanResult:
    """Score every prompt of a source on Ray's workers; rows, files and resuming are those of `guard.scan.scan`.

    A scan that one engine began the other can finish. The bytes equal the local engine's where it computes on the same
    kind of device with as many threads: one a worker on a CPU.

    Args:
        guard: the guard, or what describes it; the workers load their own.
        source: a prompt file or Hub dataset id, or an in-memory sequence of prompts; not standard input.
        output: a file ending in .jsonl, .ndjson or .parquet.
        open_guard: loads the same guard on a worker; Ray pickles it.
        workers: how many guards are loaded, one a GPU, or one a CPU core where there is no GPU; by default as many as
            there are.
        address: of a Ray cluster. Source, guard and the output's folder must then lie on a file system that all its
            machines share. By default a Ray of this process, on this machine, is started and stopped again; one that
            runs in this process already is used and left running.
        options: as for `scan`; its `batch_size` has no say here, since workers hand over whole chunks.

    Raises:
        GuardError: as `scan` does; or Ray is missing, cannot be reached or has too few devices, or a worker fails.
        PromptFileError: the source cannot be read.
    """
    require_ray()
    if workers is not None and workers < 1:
        raise GuardError("The number of workers must be at least 1.")
    if isinstance(source, str | Path) and str(source) == "-":
        raise GuardError("Ray's workers cannot read standard input; write the prompts to a file first.")
    scorer = guard if isinstance(guard, Described) else Described.of(guard)
    fill = partial(_fill, scorer, open_guard, workers, address)
    return scan(scorer, source, output, fill=fill, **options)


def _fill(
    scorer: Described,
    open_guard: Callable[[], LatentGuard],
    workers: int | None,
    address: str | None,
    work: Work,
    journal: Journal,
    advance: Advance,
) -> None:
    """The `Fill` of a scan."""
    parts = Parts(work.place.open_parts(work.task).absolute())
    parts.settle_all()
    merge = Merge(parts, journal, scorer.chunk_rows, advance)
    if isinstance(work.source, str | Path) and Path(work.source).is_file():
        work = replace(work, source=Path(work.source).absolute())
    end: tuple[int, str] | None = None
    with running_ray(workers, address) as (count, device):
        setting = Setting(
            open_guard=open_guard,
            fingerprint=scorer.fingerprint,
            model_fingerprint=scorer.model_fingerprint,
            folder=parts.folder,
            include_prompts=work.include_prompts,
            chunk_rows=scorer.chunk_rows,
            workers=count,
            threads=1 if device == "CPU" else None,
        )
        try:
            for row in _results(work, setting, merge, device):
                if row["kind"] == "failed":
                    raise GuardError(row["text"])
                if row["kind"] == "end":
                    end = (row["number"], row["text"])
                else:
                    merge.add(row["number"])
        finally:
            merge.catch_up()
    if end is None:
        raise GuardError("Ray ended before the whole source was read; run the scan again to go on.")
    if journal.rows > end[0]:
        raise too_many_rows(journal)
    if end[1]:
        raise PromptFileError(end[1])
    if journal.rows < end[0]:
        raise GuardError(f"Ray lost the rows from {journal.rows} on; run the scan again to go on.")


@dataclass
class Merge:
    """Appends finished parts to the journal in the order of the source.

    Attributes:
        ready: chunks that are finished and not yet in the journal.
    """

    parts: Parts
    journal: Journal
    chunk_rows: int
    advance: Advance
    ready: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.next = self.journal.rows // self.chunk_rows
        self.last = 0.0
        self.ready = self.parts.finished()
        self._go_on()

    def add(self, chunk: int) -> None:
        """Take a chunk that is finished; one that was lost with its machine and scored again may be there already."""
        if chunk < self.next:
            self.parts.remove(chunk)
        else:
            self.ready.add(chunk)
        # Not at every chunk: a commit waits for the disk, and many workers finish many chunks a second.
        if time.monotonic() - self.last > _COMMIT_SECONDS:
            self.catch_up()

    def catch_up(self) -> None:
        """Append whatever follows on the journal's last row."""
        while self.next in self.ready:
            rows, end = self._following()
            try:
                self.journal.commit(rows)
            except BaseException:
                # Ctrl-C or a full disk; what is there now decides where the next commit goes on.
                self.journal.recover()
                self.next = self.journal.rows // self.chunk_rows
                self._go_on()
                raise
            self.next = end
            self._go_on()
            self.advance(len(rows))
        self.last = time.monotonic()

    def _go_on(self) -> None:
        """Remove the parts that are in the output."""
        # Said before they go, so that a worker which is given a chunk again finds the one or the other.
        self.parts.forget_below(self.next)
        for chunk in [number for number in self.ready if number < self.next]:
            self.ready.discard(chunk)
            self.parts.remove(chunk)

    def _following(self) -> tuple[list[dict[str, Any]], int]:
        """Rows that come next, of no more chunks than memory holds with ease, and the chunk after them."""
        fresh: list[dict[str, Any]] = []
        chunk = self.next
        while chunk in self.ready and chunk < self.next + _CHUNKS_A_COMMIT:
            rows = self.parts.read(chunk)
            first = chunk * self.chunk_rows
            if [row["row"] for row in rows] != list(range(first, first + len(rows))):
                raise GuardError(f"{self.parts.folder} holds rows that are not its own; use overwrite to start anew.")
            fresh += rows[max(0, self.journal.rows - first) :]
            chunk += 1
        return fresh, chunk


def _results(work: Work, setting: Setting, merge: Merge, device: str) -> Iterator[dict[str, Any]]:
    """Run the reader and the workers; yields the workers' messages as they come."""
    import pyarrow
    import ray
    from ray.data import ActorPoolStrategy, DataContext, from_arrow

    first, finished = merge.next, frozenset(merge.ready)
    shared = ray.put(work)

    def read(_: Any) -> Iterator[dict[str, Any]]:
        for task in read_tasks(ray.get(shared), setting.chunk_rows, first, finished):
            yield {"task": [task]}

    context = DataContext.get_current()
    quiet = {
        # Every task becomes a block of its own at once, instead of waiting until 128 MiB have come together.
        "target_max_block_size": 1,
        "enable_progress_bars": False,
        "print_on_execution_start": False,
    }
    before = {name: getattr(context, name) for name in quiet}
    vars(context).update(quiet)
    try:
        with warnings.catch_warnings():
            # A source of few chunks gives less work than there are workers, of which Ray Data warns.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.data")
            source = from_arrow(pyarrow.table({"start": [0]}))
            tasks = source.map_batches(read, batch_size=None, num_cpus=0.5)
            scored = tasks.map_batches(
                Worker,
                fn_constructor_args=(setting,),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=setting.workers, max_tasks_in_flight_per_actor=2),
                num_cpus=1,
                num_gpus=1 if device == "GPU" else None,
            )
            yield from scored.iter_rows()
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise GuardError(f"Ray could not go on ({reason[0].strip()}); run the scan again to resume it.") from error
    finally:
        vars(context).update(before)
