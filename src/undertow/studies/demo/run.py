"""Running the demo and writing what it found."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from undertow.errors import UndertowError
from undertow.guard.artefact import SETTINGS as GUARD_SETTINGS
from undertow.measure.finding import write_findings
from undertow.measure.storage import write_atomically
from undertow.studies.demo.result import DemoResult

DEFAULT_MODEL = "organism:aligned"
PROMPTS = 300
LEAST_PROMPTS = 20
FINDINGS, REPORT, GUARD = "findings.json", "report.html", "guard"


class Page(Protocol):
    """A report: what `undertow.report.Report` offers of itself."""

    def html(self) -> str:
        """The page."""

    def figure_data(self) -> dict[str, Any]:
        """The numbers behind its figures."""


def run_demo(
    model: Any = DEFAULT_MODEL,
    output: str | Path = "demo",
    *,
    seed: int = 0,
    n: int = PROMPTS,
    overwrite: bool = False,
    progress: bool = True,
    page: Callable[[DemoResult], Page] | None = None,
) -> DemoResult:
    """Run the demo and write `findings.json`, `report.html` and the fitted guard (`guard/`) into a folder.

    Everything is written at the end, to a folder beside it that is then moved into place.

    Args:
        model: a name for `undertow.load`, or a loaded `ChatModel`.
        output: the folder.
        seed: of prompts, splits and controls.
        n: prompts of every kind, at least 20; 300 for the stated intervals.
        overwrite: whether files of an earlier demo in that folder may be replaced; others are left alone.
        progress: whether bars are shown on standard error.
        page: makes the report, such as `undertow.report.demo.demo_page`; without it no `report.html` is written and
            the findings carry no figures.

    Raises:
        UndertowError: the output exists and may not be replaced, or n is too small.
        ModelError: the model cannot be loaded.
    """
    target = Path(output).expanduser().absolute()
    check_output(target, overwrite)
    started = time.perf_counter()
    result = measure_demo(model, seed=seed, n=n, progress=progress)
    made = None if page is None else page(result)
    html = None if made is None else made.html()
    run = {**result.run, "seconds": round(time.perf_counter() - started, 1)}
    result = replace(result, run=run)
    with _partial(target) as folder:
        write_findings(
            folder / FINDINGS,
            result.findings,
            rules=result.rules,
            figures=None if made is None else made.figure_data(),
            run=run,
        )
        if html is not None:
            write_atomically(folder / REPORT, html)
        result.guard.save_pretrained(folder / GUARD)
        _install(folder, target)
    return result


def measure_demo(model: Any = DEFAULT_MODEL, *, seed: int = 0, n: int = PROMPTS, progress: bool = True) -> DemoResult:
    """Measure everything that the demo shows, and write nothing.

    Args:
        model, seed, n, progress: as for `run_demo`.

    Raises:
        UndertowError: n is too small.
        ModelError: the model cannot be loaded.
    """
    if n < LEAST_PROMPTS:
        raise UndertowError(f"The demo needs at least {LEAST_PROMPTS} prompts of every kind, not {n}.")
    clock = Clock()
    with clock("start"):
        from undertow.guard import LatentGuard
        from undertow.model import ChatModel, load
        from undertow.studies.demo.acting import act
        from undertow.studies.demo.behaviour import observe, observe_cells
        from undertow.studies.demo.curves import separation
        from undertow.studies.demo.detectors import CALIBRATION, Bench, controls, detectors
        from undertow.studies.demo.findings import findings_of
        from undertow.studies.demo.kinds import fit_prompts, test_prompts

        chat = model if isinstance(model, ChatModel) else load(model)
        training, test = fit_prompts(n, seed), test_prompts(n, seed)
    with clock("fit the guard"):
        guard = LatentGuard.fit(
            chat, training.positive, training.negative, calibration=CALIBRATION, seed=seed, progress=progress
        )
    with clock("read held-out prompts"):
        cells = observe_cells(chat, test, seed, progress)
    with clock("fit rivals and controls"):
        bench = Bench.prepare(observe(chat, training.prompts, progress), cells, seed)
        found, nothing = detectors(bench, guard), controls(bench, guard)
    with clock("steer and guard"):
        acting = act(guard, training, cells, seed)
    with clock("judge"):
        verdicts = {
            cell.kind.name: guard.read(
                {position: cell.observed.states[position][:, list(guard.states)] for position in guard.positions},
                [prompt.id for prompt in cell.observed.prompts],
            )
            for cell in cells
        }
        result = findings_of(
            DemoResult(
                guard=guard,
                cells=tuple(cells),
                verdicts=verdicts,
                detectors=tuple(found),
                controls=nothing,
                bands=separation(bench),
                acting=acting,
                seed=seed,
                n=n,
            )
        )
    return replace(result, run=_about(result) | {"seconds_by_step": clock.seconds})


class Clock:
    """Seconds that named steps take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)


def check_output(target: Path, overwrite: bool) -> None:
    """Raises UndertowError where the demo could not or must not write its folder."""
    if target.exists() and not target.is_dir():
        raise UndertowError(f"{target} is a file, and the demo writes a folder; name another.")
    if not target.is_dir():
        return
    if any(target.iterdir()) and not overwrite:
        raise UndertowError(f"{target} exists already; name another output or add --overwrite.")
    guard = target / GUARD
    if guard.exists() and not (guard.is_dir() and (guard / GUARD_SETTINGS).is_file()):
        raise UndertowError(f"{guard} holds something that is not a guard, so it is not replaced; name a new folder.")


def _about(result: DemoResult) -> dict[str, Any]:
    import numpy
    import sklearn
    import torch
    import transformers

    from undertow import __version__

    identity = result.guard.identity
    return {
        "model": identity.name,
        "revision": identity.revision,
        "fingerprint": identity.fingerprint,
        "seed": result.seed,
        "prompts_of_every_kind": result.n,
        "guard": result.guard.fingerprint,
        "undertow": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": numpy.__version__,
        "threads": torch.get_num_threads(),
        "dtype": str(result.guard.model.dtype).removeprefix("torch."),
    }


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A folder beside the target that is gone afterwards, whatever happens."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _install(folder: Path, target: Path) -> None:
    """Move what is in the folder to the target: in one step where nothing is there, else part by part."""
    if not target.exists() or not any(target.iterdir()):
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(folder, 0o777 & ~mask)
        os.replace(folder, target)
        return
    old = target / GUARD
    if old.exists():
        old.rename(folder / "replaced")
    (folder / GUARD).rename(old)
    # The findings come last, so that where they are new everything else is.
    for name in (REPORT, FINDINGS):
        if (folder / name).exists():
            os.replace(folder / name, target / name)
