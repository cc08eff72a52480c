"""`undertow scan`: score a corpus of prompts with a guard."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from undertow.cli.guards import ForceOption, open_guard
from undertow.cli.options import (
    CategoryColumnOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LabelColumnOption,
    OverwriteOption,
    PromptColumnOption,
    RevisionOption,
    ThinkingOption,
    TrustOption,
    reading_options,
)
from undertow.cli.output import literal, print_json, share, show
from undertow.errors import UndertowError

if TYPE_CHECKING:
    from undertow.engines.ray import Described
    from undertow.guard import ScanResult

app = typer.Typer(add_completion=False)

_OF_THE_SERVER = "-"
_LOADING = {"force": False, "dtype": "auto", "trust_remote_code": False}
"""Values that flags of loading have where they are not given, if not None."""


class Engine(StrEnum):
    """What scores the prompts."""

    LOCAL = "local"
    RAY = "ray"
    VLLM = "vllm"
    OPENAI = "openai"


class Scored(NamedTuple):
    """A scan that is done, and what the engine says of the guard.

    Attributes:
        result: what was written.
        guard: the guard's fingerprint.
        has_refusal: whether the guard has a belief of refusal.
        warnings: what limits its verdicts.
    """

    result: ScanResult
    guard: str
    has_refusal: bool
    warnings: list[str]


@app.command()
def scan(
    guard: Annotated[
        str,
        typer.Argument(
            metavar="GUARD",
            help="Folder of a guard, or its Hub id; an export for vllm, - for openai.",
            show_default=False,
        ),
    ],
    prompts: Annotated[
        str, typer.Argument(metavar="PROMPTS", help="A file of prompts, or a Hub dataset.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="A .jsonl or .parquet file.", show_default=False)
    ],
    engine: Annotated[Engine, typer.Option("--engine", help="What scores the prompts.")] = Engine.LOCAL,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Guards that Ray loads; by default one a GPU, or a core.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="A Ray cluster; by default one on this machine is started.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="Address of a server that `undertow serve` runs.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help="Key of that server; by default OPENAI_API_KEY.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model to read; by default the guard's own.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Rows written at a time, by default 64; not for ray.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most prompts to score.")] = None,
    include_prompts: Annotated[bool, typer.Option("--include-prompts", help="Write the prompts' text too.")] = False,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    prompt_column: PromptColumnOption = None,
    label_column: LabelColumnOption = None,
    category_column: CategoryColumnOption = None,
    thinking: ThinkingOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Score every prompt of a corpus and write a row for each.

    Interrupted, run it again as it was and it goes on where it stopped. The output does not depend on --batch-size,
    nor on --workers.
    """
    loading: dict[str, Any] = {
        "model": model,
        "thinking": thinking,
        "force": force,
        "revision": revision,
        "device": device,
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
    }
    _check_flags(engine, guard, workers, ray_address, base_url, api_key, batch_size, loading)
    _check_output(output)
    reading = reading_options(prompt_column, label_column, category_column)
    read_through(prompts, limit, reading)
    writing: dict[str, Any] = {
        "limit": limit,
        "overwrite": overwrite,
        "include_prompts": include_prompts,
        **reading,
    }
    if batch_size is not None:
        writing["batch_size"] = batch_size
    if engine == Engine.RAY:
        scored = _with_ray(guard, prompts, output, workers, ray_address, loading, writing)
    else:
        scored = _in_this_process(engine, guard, prompts, output, base_url or "", api_key, loading, writing)
    if json:
        print_json(_summary(scored))
    else:
        _show(scored)


def _check_flags(
    engine: Engine,
    guard: str,
    workers: int | None,
    ray_address: str | None,
    base_url: str | None,
    api_key: str | None,
    batch_size: int | None,
    loading: dict[str, Any],
) -> None:
    """Refuse flags that the engine has no use for, instead of leaving them unheard."""
    given = {
        "--workers": (Engine.RAY, workers),
        "--ray-address": (Engine.RAY, ray_address),
        "--base-url": (Engine.OPENAI, base_url),
        "--api-key": (Engine.OPENAI, api_key),
    }
    for flag, (wanted, value) in given.items():
        if value is not None and engine != wanted:
            raise UndertowError(f"{flag} is for --engine {wanted}; name that engine or leave the flag out.")
    if engine == Engine.RAY and batch_size is not None:
        raise UndertowError("--batch-size is not for --engine ray, whose workers hand over whole chunks; leave it out.")
    if engine in (Engine.VLLM, Engine.OPENAI):
        for name, value in loading.items():
            if value != _LOADING.get(name):
                flag = "no-thinking" if name == "thinking" and value is False else name.replace("_", "-")
                raise UndertowError(f"--{flag} says how a model is loaded, which --engine {engine} does not; drop it.")
    if engine == Engine.OPENAI and base_url is None:
        raise UndertowError("--engine openai needs the server's address: add --base-url.")
    if (engine == Engine.OPENAI) != (guard == _OF_THE_SERVER):
        raise UndertowError("With --engine openai the guard is the server's: write - in its place then, and only then.")


def _check_output(output: Path) -> None:
    from undertow.guard.place import Place

    Place(output)


def _with_ray(
    guard: str,
    prompts: str,
    output: Path,
    workers: int | None,
    address: str | None,
    loading: dict[str, Any],
    writing: dict[str, Any],
) -> Scored:
    from undertow.engines.ray import require_ray, scan_with_ray

    # Before the guard is opened, which may take minutes.
    require_ray()
    described, model, warnings = _described(guard, loading)
    # The weights lie in a cycle, which would keep them until somebody looks.
    gc.collect()
    result = scan_with_ray(
        described,
        prompts,
        output,
        open_guard=partial(open_guard, _absolute(guard), **loading | {"model": model}),
        workers=workers,
        address=address,
        **writing,
    )
    return Scored(result, described.fingerprint, described.has_refusal, warnings)


def _described(guard: str, loading: dict[str, Any]) -> tuple[Described, str | None, list[str]]:
    """What the driver needs of a guard, the name of the model for the workers, and what limits its verdicts."""
    from undertow.engines.ray import Described

    # The workers need the devices; this process only checks that guard and model fit, and lets go of both.
    opened = open_guard(guard, **loading | {"device": "cpu"})
    model, own = loading["model"], opened.identity.name
    if model is None and Path(own).exists():
        model = own
    return Described.of(opened), model and _absolute(model), list(opened.mismatches)


def _absolute(name: str) -> str:
    """A folder by its whole path, since workers may run elsewhere; other names as they are."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _in_this_process(
    engine: Engine,
    guard: str,
    prompts: str,
    output: Path,
    base_url: str,
    api_key: str | None,
    loading: dict[str, Any],
    writing: dict[str, Any],
) -> Scored:
    from undertow.guard.scan import scan as run_scan

    with _scorer(engine, guard, base_url, api_key, loading) as (scorer, warnings):
        result = run_scan(scorer, prompts, output, **writing)
        return Scored(result, scorer.fingerprint, scorer.has_refusal, warnings)


@contextmanager
def _scorer(
    engine: Engine, guard: str, base_url: str, api_key: str | None, loading: dict[str, Any]
) -> Iterator[tuple[Any, list[str]]]:
    """The scorer of an engine, and what limits its verdicts."""
    if engine == Engine.OPENAI:
        from undertow.engines.openai import OpenAIScorer

        with OpenAIScorer(base_url, api_key=api_key) as remote:
            yield remote, remote.warnings
    elif engine == Engine.VLLM:
        from undertow.engines.vllm import VllmScorer

        with VllmScorer(guard) as exported:
            exported.require()
            yield exported, []
    else:
        from undertow.guard.scan import LocalScorer

        opened = open_guard(guard, **loading)
        yield LocalScorer(opened), list(opened.mismatches)


def read_through(source: str, limit: int | None, reading: dict[str, Any]) -> None:
    """Read a file of prompts once before anything is scored, so that a bad line in it costs no hours of work.

    Raises:
        PromptFileError: the file, or one of its lines, cannot be read.
    """
    from undertow.progress import progress_bar
    from undertow.prompts import iterate_prompts

    if Path(source).is_file():
        with progress_bar(limit, "Reading prompts") as advance:
            for _ in iterate_prompts(source, limit=limit, **reading):
                advance(1)


def _summary(scored: Scored) -> dict[str, Any]:
    result = scored.result
    return {
        "output": str(result.path),
        "rows": result.rows,
        "resumed": result.resumed,
        "flagged": result.flagged,
        "errors": result.errors,
        "quadrants": result.quadrants,
        "guard": scored.guard,
        "warnings": scored.warnings,
    }


def _show(scored: Scored) -> None:
    from rich.table import Table

    from undertow.guard import QUADRANTS

    result = scored.result
    table = Table(title=literal(f"{result.rows} prompts in {result.path}"), title_justify="left")
    table.add_column("what the model believes and is about to do")
    table.add_column("prompts", justify="right")
    table.add_column("share", justify="right")
    for name in QUADRANTS if scored.has_refusal else ("harmful", "harmless"):
        count = result.quadrants.get(name, 0)
        table.add_row(name, str(count), share(count / result.rows))
    if result.errors:
        table.add_row("could not be scored", str(result.errors), share(result.errors / result.rows))
    table.add_section()
    table.add_row("flagged as harmful", str(result.flagged), share(result.flagged / result.rows))
    show(table)
    if result.resumed:
        show(f"{result.resumed} of these rows were there already.")
    for warning in scored.warnings:
        show(literal(warning, "yellow"))
