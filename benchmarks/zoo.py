"""The conformance suite over a small random model of every causal LM type, and docs/coverage.md from it.

``python benchmarks/zoo.py docs/coverage.md`` writes the table; ``--check`` exits with 1 where a type does worse than
the table says. Every type runs in a process of its own, so that one that crashes takes nothing with it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from common import benchmark_tokenizer
from shrink import shrunk_model, types

STATUSES = ("works", "partly", "refused")
_OURS = ("fused or gated", "more than one attention", "straight into the stream", "shared with another block")
_SECONDS = 240
_AT_ONCE = 32


@dataclass
class Row:
    """One model type.

    Attributes:
        model_type: ``config.model_type``.
        status: ``works``: every check that applies passes. ``partly``: the same, but a part that the architecture has
            cannot be read, and is refused by name. ``refused``: the model is not opened at all.
        applies: what can be read and how it is replayed and generated.
        sentence: what a user is told of the rest.
        figure: largest relative difference over all checks.
        failed: checks that failed, with figure and detail; a type with any is never `works`.
    """

    model_type: str
    status: str
    applies: str = ""
    sentence: str = ""
    figure: float | None = None
    failed: list[str] = field(default_factory=list)


def examine(model_type: str) -> Row:
    """Build a small model of a type and run every check on it."""
    from transformers.utils import logging

    from undertow.errors import UndertowError
    from undertow.measure.conformance import conformance
    from undertow.model import ChatModel

    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    try:
        model = shrunk_model(model_type)
    except Exception as error:
        return Row(model_type, "refused", sentence=f"transformers does not build it here: {_first_line(error)}")
    try:
        chat = ChatModel(model, benchmark_tokenizer(), name=model_type)
    except UndertowError as error:
        return Row(model_type, "refused", sentence=str(error))
    checks = conformance(chat, progress=False)
    figures = [check.figure for check in checks if check.figure is not None]
    failed = [f"{check.name}: {check.figure} {check.detail}" for check in checks if check.status == "failed"]
    notes = [*chat.anatomy.notes, *chat.decoding_for(1024).notes()]
    # The reason why heads cannot be read stands among the notes already.
    notes += [
        f"{check.name} does not apply: {check.detail.rstrip('.')}"
        for check in checks
        if check.status == "not applicable" and check.name != "heads"
    ]
    partly = bool(failed) or any(reason in note for note in notes for reason in _OURS)
    return Row(
        model_type,
        "partly" if partly else "works",
        _applies(chat),
        "; ".join([*failed, *notes]) or "everything is covered",
        max(figures),
        failed,
    )


def _applies(chat: Any) -> str:
    anatomy = chat.anatomy
    heads = sum(count > 0 for count in anatomy.heads)
    mlps = sum(part is not None for part in anatomy.mlps)
    sums = sum(part is not None for part in anatomy.additive)
    return f"{chat.layers} blocks, heads in {heads}, MLP in {mlps}, attribution in {sums}, replay: {chat.replay_method}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if type(error).__name__.startswith("Strict") else lines[0])[:160] if lines else repr(error)


def _guarded(model_type: str) -> Row:
    def ring(*_: Any) -> None:
        raise TimeoutError(f"it took longer than {_SECONDS} s")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(_SECONDS)
    try:
        return examine(model_type)
    except Exception as error:
        sentence = f"{type(error).__name__}: {_first_line(error)}"
        return Row(model_type, "partly", sentence=sentence, failed=[sentence])
    finally:
        signal.alarm(0)


def examine_all(chosen: list[str], workers: int) -> list[Row]:
    """A row a type, in the order given."""
    found: dict[str, Row] = {}
    waiting = list(chosen)
    while waiting:
        # A fresh pool for every few types gives memory back and confines a process that dies.
        some = waiting[:_AT_ONCE]
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            futures = {pool.submit(_guarded, model_type): model_type for model_type in some}
            for future in as_completed(futures):
                try:
                    row = future.result()
                except BrokenProcessPool:
                    continue
                found[row.model_type] = row
                print(f"{len(found):>3} of {len(chosen)}  {row.status:<8} {row.model_type}", flush=True)
        if not any(name in found for name in some):
            found[some[0]] = Row(some[0], "partly", sentence="the process died", failed=["the process died"])
        waiting = [name for name in waiting if name not in found]
    return [found[name] for name in chosen]


HEAD = """# Architectures

Written by `python benchmarks/zoo.py docs/coverage.md`. For each of the {total} model types that transformers
{version} maps to a causal language model, a small random model is built (width 64, 2 to 4 blocks, one block of every
kind that the type's defaults mix) and held against the model called directly: positions, states, identity and additive
edits, heads, direct logit attribution, replay, edited generation, left padding. `undertow check MODEL` runs the same on
your model.

- **works** ({works}): every check that applies passes; what does not apply is named.
- **partly** ({partly}): the same, but a part that the architecture has cannot be read and is refused by name.
- **refused** ({refused}): the model is not opened; the sentence is what a user sees.

Largest relative difference over all checks of all types that are opened: {worst:.1e}, in float32.

| type | status | what applies | what is said of the rest |
|---|---|---|---|
"""


def page(rows: list[Row]) -> str:
    """docs/coverage.md."""
    import transformers

    counts = Counter(row.status for row in rows)
    figures = [row.figure for row in rows if row.figure is not None]
    head = HEAD.format(
        total=len(rows),
        version=transformers.__version__,
        worst=max(figures),
        **{status: counts[status] for status in STATUSES},
    )
    lines = [
        f"| {row.model_type} | {row.status} | {row.applies or 'nothing'} | {row.sentence.replace('|', '/')} |"
        for row in rows
    ]
    return head + "\n".join(lines) + "\n"


def stated(text: str) -> dict[str, str]:
    """The status of every type in a coverage page."""
    cells = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ")]
    return {kind.strip(): status.strip() for kind, status in cells if status.strip() in STATUSES}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("page", type=Path, help="docs/coverage.md")
    flags.add_argument("--types", nargs="+", default=None, help="only these, written nowhere")
    flags.add_argument("--workers", type=int, default=2)
    flags.add_argument("--json", type=Path, default=None)
    flags.add_argument("--check", action="store_true", help="compare with the page instead of writing it")
    arguments = flags.parse_args()
    chosen = arguments.types or types()
    rows = examine_all(chosen, arguments.workers)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(", ".join(f"{count} {status}" for status, count in Counter(row.status for row in rows).items()))
    for row in rows:
        for line in row.failed:
            print(f"FAILED {row.model_type}: {line}")
    if arguments.check:
        before = stated(arguments.page.read_text(encoding="utf-8"))
        worse = [
            row for row in rows if STATUSES.index(row.status) > STATUSES.index(before.get(row.model_type, "refused"))
        ]
        for row in worse:
            print(f"WORSE {row.model_type}: {before[row.model_type]} before, {row.status} now: {row.sentence}")
        sys.exit(1 if worse or any(row.failed for row in rows) else 0)
    if arguments.types is None:
        arguments.page.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
