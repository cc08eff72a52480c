"""The engines of `undertow scan` side by side: one process, two Ray workers, and a server that is asked over HTTP.

All score the same prompts with the same guard, by turns: on `organism:aligned` (under 2 million parameters), where the
work around the forward pass shows, and on a random 12-layer Llama (42 million), where the forward pass does. Every
process computes on one thread, so a rate is one of a core; the Ray workers have two. A rate counts from the first rows
that are written to the last, so that loading is left out, which is given apart. Ends with 1 where Ray's bytes are not
those of the local engine.

    python benchmarks/engines.py --json build/benchmarks/engines.json --write docs/scale.md
"""

from __future__ import annotations

import json
import logging
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import benchmark_llama, finish, parser, prompts_of
from hosting import ServerProcess

from undertow.engines.openai import OpenAIScorer
from undertow.engines.parts import Parts
from undertow.engines.ray import Merge, scan_with_ray
from undertow.engines.session import running_ray
from undertow.guard import LatentGuard
from undertow.guard.journal import Journal
from undertow.guard.rows import CHUNK_ROWS, TOKENS_PER_BATCH
from undertow.guard.scan import scan
from undertow.model import ChatModel, load
from undertow.model.batching import plan
from undertow.organism.grammar import sample
from undertow.prompts import iterate_prompts

WORKERS = 2
BLOCK = re.compile(r"(<!-- engines: .*? -->\n).*?(<!-- end of engines -->)", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """A guard and what it is to score.

    Attributes:
        name: what the table calls it.
        guard: the guard, loaded here.
        folder: where it is saved.
        source: file of prompts.
        rows: how many there are.
    """

    name: str
    guard: LatentGuard
    folder: Path
    source: Path
    rows: int


def organism_case(folder: Path, rows: int) -> Case:
    """`organism:aligned` and prompts of its own kinds."""
    chat = load("organism:aligned")
    kinds = {kind: list(sample(kind, 60, 0)) for kind in ("bare", "role_play", "harmless", "look-alike")}
    guard = LatentGuard.fit(
        chat,
        kinds["bare"] + kinds["role_play"],
        kinds["harmless"] + kinds["look-alike"],
        rule="linear",
        refusal_rule=None,
        steering=False,
        progress=False,
    )
    quarter = -(-rows // 4)
    texts = [prompt.text for kind in ("bare", "role_play", "harmless", "suffix") for prompt in sample(kind, quarter, 1)]
    return saved("organism:aligned", guard, folder, texts[:rows])


def llama_case(folder: Path, rows: int) -> Case:
    """A random Llama and prompts of 64 tokens, half of which have a letter that stands for harm."""
    made = benchmark_llama()
    made.model.save_pretrained(folder / "model")
    made.tokenizer.save_pretrained(folder / "model")
    chat: ChatModel = load(str(folder / "model"))
    harmful = [text.replace("e", "x") for text in prompts_of(chat, 48, 24, seed=1)]
    harmless = [text.replace("x", "e") for text in prompts_of(chat, 48, 24, seed=2)]
    guard = LatentGuard.fit(chat, harmful, harmless, rule="linear", refusal_rule=None, steering=False, progress=False)
    return saved("random Llama, 42 million, 64 tokens", guard, folder, prompts_of(chat, 64, rows, seed=3))


def saved(name: str, guard: LatentGuard, folder: Path, texts: list[str]) -> Case:
    """Write guard and prompts to a folder."""
    guard.save_pretrained(folder / "guard")
    source = folder / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return Case(name, guard, folder / "guard", source, len(texts))


def open_guard(folder: str) -> LatentGuard:
    """For Ray's workers."""
    return LatentGuard.from_pretrained(folder)


def measure(case: Case, server: str, repeats: int) -> dict[str, Any]:
    """Seconds of every engine for all prompts, by turns, and what else the plan needs to know."""
    places = {name: case.folder.parent / f"{name}.jsonl" for name in ("local", "ray", "openai")}
    quiet: dict[str, Any] = {"progress": False, "overwrite": True, "batch_size": 64}
    opener = partial(open_guard, str(case.folder))

    def on_ray() -> None:
        scan_with_ray(case.guard, case.source, places["ray"], open_guard=opener, workers=WORKERS, **quiet)

    def ask() -> None:
        with OpenAIScorer(server) as scorer:
            scan(scorer, case.source, places["openai"], **quiet)

    ways: dict[str, Callable[[], Any]] = {
        "local": lambda: scan(case.guard, case.source, places["local"], **quiet),
        "ray": on_ray,
        "openai": ask,
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(watched(way, places[name]))
    return {
        "name": case.name,
        "rows": case.rows,
        "engines": found,
        "equal": places["local"].read_bytes() == places["ray"].read_bytes(),
        "bytes_a_row": len(places["local"].read_bytes()) / case.rows,
        "host_seconds": host_seconds(case),
        "padded": padded(case),
        "read_seconds": read_seconds(case),
        "merge_seconds": merge_seconds(places["local"]),
    }


def watched(way: Callable[[], Any], output: Path) -> dict[str, float]:
    """Rows a second between the first commit and the last; seconds to the first.

    Args:
        way: scans.
        output: where; rows that Ray's workers have finished beside it, and that wait for others, count as well.
    """
    commits: list[tuple[float, int]] = []
    written = 0
    commit = Journal.commit

    def noted(journal: Journal, rows: Iterable[Mapping[str, Any]]) -> None:
        nonlocal written
        kept = list(rows)
        commit(journal, kept)
        written += len(kept)
        parts = output.parent.glob(f"{output.name}.parts/*/*.jsonl")
        waiting = sum(CHUNK_ROWS for part in parts if int(part.stem) * CHUNK_ROWS >= written)
        if kept:
            commits.append((time.perf_counter(), written + waiting))

    begin = time.perf_counter()
    with patch.object(Journal, "commit", noted):
        way()
    first, last = commits[0], commits[-1]
    return {
        "start": first[0] - begin,
        "rate": (last[1] - first[1]) / (last[0] - first[0]),
    }


def host_seconds(case: Case) -> float:
    """Seconds a prompt that rendering and tokenising takes, which no accelerator takes over."""
    texts = [json.loads(line)["prompt"] for line in case.source.read_text().splitlines()]
    begin = time.perf_counter()
    for text in texts:
        case.guard.model.render(text)
    return (time.perf_counter() - begin) / len(texts)


def padded(case: Case) -> float:
    """Tokens that the local engine computes, padding included, over those that the prompts have."""
    texts = [json.loads(line)["prompt"] for line in case.source.read_text().splitlines()]
    lengths = [len(case.guard.model.render(text)) for text in texts]
    computed = 0
    for first in range(0, len(lengths), CHUNK_ROWS):
        chunk = lengths[first : first + CHUNK_ROWS]
        computed += sum(len(batch) * chunk[batch[0]] for batch in plan(chunk, TOKENS_PER_BATCH))
    return computed / sum(lengths)


def read_seconds(case: Case) -> float:
    """Seconds a prompt that reading the source takes."""
    begin = time.perf_counter()
    count = sum(1 for _ in iterate_prompts(case.source))
    return (time.perf_counter() - begin) / count


def merge_seconds(output: Path, chunks: int = 200) -> float:
    """Seconds a row that Ray's driver takes to bring finished parts into the output."""
    rows = [json.loads(line) for line in output.read_text().splitlines()][:64]
    with tempfile.TemporaryDirectory() as name:
        parts = Parts(Path(name))
        for chunk in range(chunks):
            moved = [row | {"row": chunk * 64 + index} for index, row in enumerate(rows)]
            parts.write(chunk, moved)
        with Journal(Path(name) / "out.jsonl") as journal:
            merge = Merge(parts, journal, 64, lambda amount: None)
            begin = time.perf_counter()
            merge.catch_up()
            return (time.perf_counter() - begin) / journal.rows


def table(results: list[dict[str, Any]], repeats: int) -> str:
    """The figures as Markdown."""
    lines = [
        f"Medians of {repeats} repeats by turns in one run; the ratio is paired, with its range.",
        "",
        "| model | engine | prompts a second | against local |",
        "|---|---|---|---|",
    ]
    words = {
        "local": "local, one core",
        "ray": f"ray, {WORKERS} workers of a core each",
        "openai": "openai, a server on one core beside the client",
    }
    for found in results:
        for name, runs in found["engines"].items():
            values = [run["rate"] for run in runs]
            pairs = [mine / run["rate"] for mine, run in zip(values, found["engines"]["local"], strict=True)]
            spread = f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
            against = "1" if name == "local" else spread
            lines.append(f"| {found['name']} | {words[name]} | {statistics.median(values):,.0f} | {against} |")
    starts = [run["start"] for found in results for run in found["engines"]["ray"]]
    reading, merging = (
        statistics.median(found[name] for found in results) for name in ("read_seconds", "merge_seconds")
    )
    rendering = ", ".join(f"{found['host_seconds'] * 1e3:.2f} ms ({found['name']})" for found in results)
    size = statistics.mean(found["bytes_a_row"] for found in results)
    padding = ", ".join(f"{found['padded']:.2f} ({found['name']})" for found in results)
    lines += [
        "",
        "Rates count from the first rows written to the last. Ray's workers took "
        f"{min(starts):.0f} to {max(starts):.0f} seconds to load PyTorch and the guard and score a first chunk. On one "
        f"core, reading a prompt took {reading * 1e6:.0f} microseconds, rendering and tokenising it {rendering}, and "
        f"bringing a row that a worker has finished into the output {merging * 1e6:.0f} microseconds; a row takes "
        f"{size:.0f} bytes as JSON lines. For every token of a prompt local and ray computed, padding included, "
        f"{padding} tokens. Ray's output equalled the local engine's byte for byte.",
    ]
    return "\n".join(lines)


def main() -> None:
    flags = parser(__doc__ or "")
    flags.set_defaults(repeats=3, threads=1)
    flags.add_argument("--rows", type=int, nargs=2, default=[2048, 512], help="prompts for the two models")
    flags.add_argument("--write", type=Path, default=None, help="page whose marked block gets the table")
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("undertow").setLevel(logging.ERROR)
    results = []
    with tempfile.TemporaryDirectory() as name, running_ray(WORKERS, None):
        for kind, rows in zip((organism_case, llama_case), arguments.rows, strict=True):
            folder = Path(name) / kind.__name__ / "case"
            folder.mkdir(parents=True)
            case = kind(folder, rows)
            server = ServerProcess(case.folder, {})
            try:
                results.append(measure(case, server.url, arguments.repeats))
            finally:
                server.kill()
    finish(arguments, {"benchmark": "engines", "workers": WORKERS, "cases": results})
    if not all(found["equal"] for found in results):
        raise SystemExit("Ray's output differs from the local engine's.")
    text = table(results, arguments.repeats)
    print(text)
    if arguments.write is not None:
        page = arguments.write.read_text(encoding="utf-8")
        if not BLOCK.search(page):
            raise SystemExit(f"{arguments.write} has no place for these figures.")
        page = BLOCK.sub(lambda match: match[1] + text + "\n" + match[2], page)
        arguments.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
