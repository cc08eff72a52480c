"""500 clients against a real server for a minute: every answer right, nothing lost or crossed, memory flat.

The server is a process of its own; the clients chat, stream, ask for moderations, read slowly, leave in the middle,
send bodies that are too large or make no sense, and use wrong keys. Every complete answer is compared with the one that
the guard and its model gave before, without any server. Ends with 1 where anything is amiss.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import secrets
import statistics
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import finish, write_table
from hosting import ServerProcess
from soak_cases import MARK, TOKENS, chat_cases, moderation_cases
from soak_clients import WEIGHTS, Tally, Target, run_clients
from traffic import Connection

from undertow.guard import LatentGuard

BODY_BYTES = 32_768
PROMPT_TOKENS = 256
SAMPLE_SECONDS = 0.5
GROWTH_BYTES = 24 * 2**20
"""Most that the server's memory may grow over the second half of the run, by a straight line through the samples."""


@dataclass
class Soaked:
    """What a run found.

    Attributes:
        tally: of the clients.
        samples: (seconds, bytes of memory) of the server.
        growth: bytes over the second half of the run, by a fitted line.
        files: open files of the server before and after.
        processor: seconds of processor time that the server took while the clients ran.
        engine: what its engine counted, over its whole life.
        ended: the server's exit code after SIGTERM.
        failures: everything that is amiss, in sentences; empty where all is well.
    """

    tally: Tally = field(default_factory=Tally)
    samples: list[tuple[float, int]] = field(default_factory=list)
    growth: float = 0.0
    files: tuple[int, int] = (0, 0)
    processor: float = 0.0
    engine: dict[str, int] = field(default_factory=dict)
    ended: int | None = None
    failures: list[str] = field(default_factory=list)


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Of the straight line through the points, by least squares."""
    if len(samples) < 2:
        return 0.0
    return statistics.linear_regression([x for x, _ in samples], [y for _, y in samples]).slope


def growth(samples: Sequence[tuple[float, int]]) -> float:
    """Bytes by which memory grew from half of the time to the end, by a fitted line."""
    middle = (samples[0][0] + samples[-1][0]) / 2
    late = [(when, float(size)) for when, size in samples if when >= middle]
    return slope(late) * (late[-1][0] - late[0][0])


def soak(
    folder: Path, guard: LatentGuard, texts: Sequence[str], *, clients: int, seconds: float, seed: int = 0
) -> Soaked:
    """Start a server, let the clients loose, and look at what is left.

    Args:
        folder: of the saved guard.
        guard: the same, opened here, which gives the answers.
        texts: prompts, all different.
        clients: at once.
        seconds: for which they ask.
        seed: of what they do.
    """
    too_long = "word " * (4 * PROMPT_TOKENS)
    chats, moderations = chat_cases(guard, texts), moderation_cases(guard, texts, too_long)
    key, found = secrets.token_urlsafe(24), Soaked()
    with tempfile.TemporaryDirectory() as place:
        audit = Path(place) / "audit.jsonl"
        server = ServerProcess(folder, _settings(key, audit))
        try:
            asyncio.run(_attack(server, found, key, chats, moderations, clients, seconds, seed))
            found.ended = server.terminate()
        finally:
            server.kill()
        _check_writing(found, server.log(), audit, texts)
    _check(found, full=clients > 96)
    return found


def _settings(key: str, audit: Path) -> dict[str, str]:
    """Little room, so that the server is often full."""
    limits = {
        "body_bytes": BODY_BYTES,
        "prompt_tokens": PROMPT_TOKENS,
        "rows": 16,
        "waiting": 64,
        "judging": 512,
        "write_seconds": 15,
    }
    return {
        "UNDERTOW_API_KEY": key,
        "UNDERTOW_SERVE_POLICY_ALLOWED": "flag,steer,release",
        "UNDERTOW_SERVE_LOG_AUDIT": str(audit),
        **{f"UNDERTOW_SERVE_LIMITS_{name.upper()}": str(value) for name, value in limits.items()},
    }


async def _attack(
    server: ServerProcess,
    found: Soaked,
    key: str,
    chats: Sequence[Any],
    moderations: Sequence[Any],
    clients: int,
    seconds: float,
    seed: int,
) -> None:
    model = (await _get(server, key, "/v1/models")).json["data"][0]["id"]
    target = Target(server.url, key, model, BODY_BYTES, chats, moderations)
    # A first few requests, so that what is opened once is open.
    warm = Tally()
    await run_clients(target, warm, 4, 1.0, seed + 1)
    before = await _settled_files(server)
    sampler = asyncio.create_task(_sample(server, found.samples))
    spent = server.processor_seconds()
    await run_clients(target, found.tally, clients, seconds, seed)
    found.processor = server.processor_seconds() - spent
    sampler.cancel()
    await _check_idle(server, key, found)
    found.files = (before, await _settled_files(server, before))
    if not server.alive():
        found.failures.append("The server has died.")


async def _get(server: ServerProcess, key: str, path: str) -> Any:
    connection = await Connection.open(server.url)
    try:
        return await connection.ask("GET", path, headers={"authorization": f"Bearer {key}"})
    finally:
        await connection.close()


async def _sample(server: ServerProcess, samples: list[tuple[float, int]]) -> None:
    start = time.monotonic()
    while True:
        samples.append((time.monotonic() - start, server.resident()))
        await asyncio.sleep(SAMPLE_SECONDS)


async def _settled_files(server: ServerProcess, wanted: int = 0, seconds: float = 20.0) -> int:
    """Open files once connections that have ended are closed at the other side, too."""
    until = time.monotonic() + seconds
    count, same = server.open_files(), 0
    while time.monotonic() < until and same < 5 and not count <= wanted:
        await asyncio.sleep(0.2)
        last, count = count, server.open_files()
        same = same + 1 if count == last and not wanted else 0
    return count


async def _check_idle(server: ServerProcess, key: str, found: Soaked) -> None:
    """Every slot must be free within a few seconds of the last request."""
    gauges: dict[str, float] = {}
    until = time.monotonic() + 15
    while time.monotonic() < until:
        text = (await _get(server, key, "/metrics")).body.decode()
        gauges = {
            name: float(value)
            for name, value in re.findall(r"^undertow_(waiting|running|judging) ([\d.e+]+)$", text, re.MULTILINE)
        }
        engine = re.findall(r"^undertow_engine_(\w+)_total ([\d.e+]+)$", text, re.MULTILINE)
        found.engine = {name: int(float(value)) for name, value in engine}
        if len(gauges) == 3 and not any(gauges.values()):
            return
        await asyncio.sleep(0.2)
    found.failures.append(f"Slots are still taken after the last request: {gauges}.")


def _check_writing(found: Soaked, log: str, audit: Path, texts: Sequence[str]) -> None:
    """Nothing of a prompt in the log or the audit file, whole lines in it, and at least one for each answer."""
    written = audit.read_text(encoding="ascii")
    for name, text in (("log", log), ("audit file", written)):
        if MARK in text or any(part in text for part in texts):
            found.failures.append(f"The {name} has the text of a prompt.")
    if "Traceback" in log or "failed with" in log:
        found.failures.append(f"The log tells of a failure: {log[-2_000:]}")
    counted = Counter(json.loads(line)["route"] for line in written.splitlines())
    answers = sum(found.tally.right[kind] for kind in ("chat", "stream", "slow writer"))
    if counted["/v1/chat/completions"] < answers:
        found.failures.append(f"The audit file has {dict(counted)} lines for {answers} chat answers.")


def _check(found: Soaked, *, full: bool) -> None:
    for kind, problems in found.tally.problems.items():
        if problems:
            found.failures.append(f"{kind}: {len(problems)} of {found.tally.sent[kind]}, such as: {problems[0]}")
    for kind in WEIGHTS:
        if kind != "gone" and found.tally.sent[kind] and not found.tally.statuses[kind]:
            found.failures.append(f"{kind}: no response at all.")
    refused = sum(counts[429] for counts in found.tally.statuses.values())
    if full and not refused:
        found.failures.append("The queue was never full, so nothing is known about 429.")
    found.growth = growth(found.samples)
    if found.growth > GROWTH_BYTES:
        found.failures.append(f"Memory grew by {found.growth / 2**20:.1f} MiB over the second half of the run.")
    if found.files[1] > found.files[0]:
        found.failures.append(f"{found.files[1]} files are open, and {found.files[0]} were before.")
    if found.ended != 0:
        found.failures.append(f"After SIGTERM the server ended with {found.ended}, not with 0.")


def table(found: Soaked, seconds: float) -> str:
    """What was sent and what came back, by kind, and the server's health."""
    lines = [f"{'kind':<13}{'sent':>8}{'right':>8}{'429':>8}{'p50 s':>8}{'p99 s':>8}  other statuses"]
    for kind in WEIGHTS:
        statuses, times = found.tally.statuses[kind], sorted(found.tally.seconds[kind])
        middle, late = (f"{times[int(len(times) * share)]:.2f}" if times else "" for share in (0.5, 0.99))
        others = ", ".join(
            f"{status}: {count}" for status, count in sorted(statuses.items()) if status not in (200, 429)
        )
        right = found.tally.right[kind]
        lines.append(f"{kind:<13}{found.tally.sent[kind]:>8}{right:>8}{statuses[429]:>8}{middle:>8}{late:>8}  {others}")
    sizes = [size / 2**20 for _, size in found.samples]
    total = sum(found.tally.sent.values())
    lines += [
        f"{total} requests, {total / seconds:.0f} a second; {sum(found.tally.right.values())} compared and right",
        f"{found.processor:.0f} s of processor time; engine: "
        + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.engine.items()),
        f"memory {sizes[0]:.0f} MiB first, {sizes[len(sizes) // 2]:.0f} in the middle, {sizes[-1]:.0f} last; "
        f"{found.growth / 2**20:+.1f} MiB over the second half (bound {GROWTH_BYTES / 2**20:.0f})",
        f"open files {found.files[0]} before, {found.files[1]} after; exit code after SIGTERM {found.ended}",
    ]
    return "\n".join(lines)


def page_table(found: Soaked, clients: int, seconds: float) -> str:
    """The same for a page."""
    lines = ["| kind | sent | compared and right | 429 | median | 99 of 100 within |", "|---|---|---|---|---|---|"]
    for kind in WEIGHTS:
        times = sorted(found.tally.seconds[kind])
        middle, late = (f"{times[int(len(times) * share)]:.2f} s" if times else "" for share in (0.5, 0.99))
        sent, right = found.tally.sent[kind], found.tally.right[kind]
        lines.append(f"| {kind} | {sent:,} | {right:,} | {found.tally.statuses[kind][429]:,} | {middle} | {late} |")
    sizes = [size / 2**20 for _, size in found.samples]
    about = (
        f"{clients} clients for {seconds:g} s, {sum(found.tally.sent.values()):,} requests, replies of up to {TOKENS} "
        f"tokens. Memory {sizes[0]:.0f} MiB at first and {sizes[-1]:.0f} at last, {found.growth / 2**20:+.1f} over the "
        f"second half; {found.files[0]} open files before and {found.files[1]} after. "
        + ("Nothing was amiss." if not found.failures else f"Amiss: {' '.join(found.failures)}")
    )
    return "\n".join([*lines, "", textwrap.fill(about, 120)])


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--guard", type=Path, help="a saved guard of organism:aligned; by default one is fitted")
    flags.add_argument("--clients", type=int, default=500)
    flags.add_argument("--seconds", type=float, default=60.0)
    flags.add_argument("--prompts", type=int, default=160)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--json", type=Path, default=None, help="also write the figures here")
    flags.add_argument("--write", type=Path, nargs="+", default=[], help="write the table into these pages")
    arguments = flags.parse_args()
    arguments.threads, arguments.repeats = 1, 1
    torch.set_num_threads(1)
    from guard import guard_of_organism

    from undertow.model import load
    from undertow.organism.grammar import sample

    organism = load("organism:aligned")
    kinds = ("bare", "suffix", "harmless", "look-alike")
    texts = list(dict.fromkeys(p.text for kind in kinds for p in sample(kind, arguments.prompts // 4, 0, "test")))
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.guard or Path(place) / "guard"
        if arguments.guard is None:
            guard_of_organism(organism)[0].save_pretrained(folder)
        guard = LatentGuard.from_pretrained(folder, model=organism)
        found = soak(folder, guard, texts, clients=arguments.clients, seconds=arguments.seconds, seed=arguments.seed)
    print(f"{arguments.clients} clients, {arguments.seconds:.0f} s, replies of up to {TOKENS} tokens")
    print(table(found, arguments.seconds))
    for failure in found.failures:
        print(f"FAILED: {failure}")
    figures = {
        "benchmark": "soak",
        "clients": arguments.clients,
        "seconds": arguments.seconds,
        "sent": dict(found.tally.sent),
        "right": dict(found.tally.right),
        "statuses": {kind: dict(counts) for kind, counts in found.tally.statuses.items()},
        "growth_bytes": found.growth,
        "memory": found.samples,
        "files": found.files,
        "processor_seconds": found.processor,
        "engine": found.engine,
        "failures": found.failures,
    }
    finish(arguments, figures)
    for page in arguments.write:
        write_table(page, "soak", page_table(found, arguments.clients, arguments.seconds))
    sys.exit(1 if found.failures else 0)


if __name__ == "__main__":
    main()
