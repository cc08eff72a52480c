"""The guarded server against the same server without a guard, and moderations in batches against one at a time.

All servers run in this process and share one model; the clients are in a second process, so that they share no lock
with the servers. The guard only looks (`on_harmful = "flag"`), so that guarded and unguarded servers generate the same.
Time to the first token is taken request by request in turn; throughput in rounds of a few seconds in turn. Ratios are
medians of pairs. Beside them stands the processor time that the servers' process took, which other work on the machine
disturbs less.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from common import benchmark_llama, finish, parser, prompts_of, write_table
from guard import guard_of_organism, guard_of_random_prompts
from hosting import hosted
from scipy.stats import binom
from traffic import CHAT, MODERATIONS, Job, Measured, chat_body, load, moderations_body

from undertow.guard import LatentGuard
from undertow.model import load as load_model
from undertow.organism.grammar import sample
from undertow.serve.engine import EngineLimits
from undertow.serve.replies import alike
from undertow.serve.settings import LimitSettings, LogSettings, PolicySettings, ServeSettings
from undertow.serve.verdicts import read_states, verdicts_of

FIRST_TOKEN, THROUGHPUT, SATURATION = 1.05, 0.95, 3.0
LISTED = 16
STEADIER = 4
"""So many times as many rounds for what differs by a few hundredths at most."""
FIRST_SECONDS = 90.0
"""For which first tokens are timed at the least: their times scatter, so that a few rounds of fast ones tell little."""
NAME = "benchmark"


def settings_with(**limits: Any) -> ServeSettings:
    """A server that only looks, with room for every client."""
    return ServeSettings(
        guard="unused",
        name=NAME,
        port=0,
        inspector=False,
        policy=PolicySettings(on_harmful="flag"),
        limits=LimitSettings(**limits),
        log=LogSettings(level="error"),
    )


class Clients:
    """The second process, which sends the requests."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def send(self, jobs: Sequence[Job], clients: int, duration: float | None = None) -> Measured:
        """Run a load there; every response must be good.

        Raises:
            RuntimeError: a request was refused.
        """
        gc.collect()
        before = time.process_time()
        measured = self._pool.submit(load, jobs, clients, duration).result()
        measured.processor = time.process_time() - before
        if set(measured.statuses) - {200}:
            raise RuntimeError(f"The server refused requests: {measured.statuses}.")
        return measured


def summary(ratios: Sequence[float]) -> dict[str, float]:
    """Median of paired ratios and its 95 % interval by order statistics: of five or fewer, their range, which covers
    less."""
    ordered, below = sorted(ratios), max(0, int(binom.ppf(0.025, len(ratios), 0.5)) - 1)
    return {
        "pairs": len(ratios),
        "median": statistics.median(ratios),
        "lower": ordered[below],
        "upper": ordered[len(ordered) - 1 - below],
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def first_tokens(
    clients: Clients, urls: dict[str, str], prompts: Sequence[str], at_once: int, rounds: int
) -> dict[str, Any]:
    """Time to the first token of streamed replies, guarded over unguarded.

    Args:
        urls: "guarded" and "unguarded".
        at_once: clients; with one, every request to one server is paired with the next to the other, with more the
            medians of rounds are.
        rounds: how often all prompts are sent at the least; more often where that is quick.
    """
    bodies = [chat_body(text, model=NAME, stream=True, max_tokens=4, temperature=0) for text in prompts]
    jobs = {name: [Job(url, CHAT, body) for body in bodies] for name, url in urls.items()}
    for warm in jobs.values():
        clients.send(warm, at_once)
    times: dict[str, list[float]] = {name: [] for name in urls}
    ratios = []
    until, number = time.monotonic() + FIRST_SECONDS, 0
    while number < rounds or time.monotonic() < until:
        order = list(urls) if number % 2 == 0 else list(urls)[::-1]
        number += 1
        if at_once == 1:
            mixed = clients.send([jobs[name][index] for index in range(len(bodies)) for name in order], 1)
            found = {name: mixed.first[place::2] for place, name in enumerate(order)}
            ratios += [a / b for a, b in zip(found["guarded"], found["unguarded"], strict=True)]
        else:
            found = {name: clients.send(jobs[name], at_once).first for name in order}
            ratios.append(statistics.median(found["guarded"]) / statistics.median(found["unguarded"]))
        for name in urls:
            times[name] += found[name]
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    return {
        "what": "time to the first token",
        "clients": at_once,
        "ratio": summary(ratios),
        "of_medians": medians["guarded"] / medians["unguarded"],
        "milliseconds": medians,
        "bound": FIRST_TOKEN,
        "holds": summary(ratios)["median"] <= FIRST_TOKEN,
    }


def throughput(
    clients: Clients, urls: dict[str, str], prompts: Sequence[str], at_once: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """Tokens generated a second, guarded over unguarded."""
    bodies = [chat_body(text, model=NAME, max_tokens=32, temperature=0) for text in prompts]
    jobs = {name: [Job(url, CHAT, body) for body in bodies] for name, url in urls.items()}
    costs: dict[str, list[float]] = {name: [] for name in urls}

    def one(name: str) -> float:
        measured = clients.send(jobs[name], at_once, seconds)
        costs[name].append(measured.processor / measured.tokens * 1e3)
        return measured.tokens / measured.elapsed

    rates = _rounds(list(urls), rounds, one)
    ratios = [a / b for a, b in zip(rates["guarded"], rates["unguarded"], strict=True)]
    return {
        "what": "tokens generated a second",
        "clients": at_once,
        "ratio": summary(ratios),
        "a_second": {name: statistics.median(values) for name, values in rates.items()},
        "processor_milliseconds": {name: statistics.median(values) for name, values in costs.items()},
        "bound": THROUGHPUT,
        "holds": summary(ratios)["median"] >= THROUGHPUT,
    }


def _rounds(names: Sequence[str], rounds: int, one: Callable[[str], float]) -> dict[str, list[float]]:
    """The rate of each in turn, the order turned round every time; one round before that is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names if number % 2 == 0 else names[::-1]:
            rate = one(name)
            if number:
                rates[name].append(rate)
    return rates


def saturation(
    clients: Clients,
    url: str,
    lone: str,
    prompts: Sequence[str],
    at_once: int,
    rounds: int,
    seconds: float,
    texts: int = 1,
) -> dict[str, Any]:
    """Texts judged a second: many clients against one that sends text by text, and against a server whose batches are
    of one.

    Args:
        texts: how many the many clients send in a request.
    """
    ways = {"saturated": (url, at_once, texts), "one at a time": (url, 1, 1), "batches of one": (lone, at_once, texts)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}

    def one(name: str) -> float:
        address, asking, each = ways[name]
        lists = [[prompts[(first + index) % len(prompts)] for index in range(each)] for first in range(len(prompts))]
        jobs = [Job(address, MODERATIONS, moderations_body(listed)) for listed in lists]
        measured = clients.send(jobs, asking, seconds)
        times[name] += measured.seconds
        judged = len(measured.seconds) * each
        costs[name].append(measured.processor / judged * 1e3)
        return judged / measured.elapsed

    rates = _rounds(list(ways), rounds, one)
    against = {
        name: summary([a / b for a, b in zip(rates["saturated"], rates[name], strict=True)]) for name in list(ways)[1:]
    }
    return {
        "what": "texts judged a second",
        "clients": at_once,
        "ratio": against["one at a time"],
        "against_batches_of_one": against["batches of one"],
        "a_second": {name: statistics.median(values) for name, values in rates.items()},
        "processor_milliseconds": {name: statistics.median(values) for name, values in costs.items()},
        "p50_milliseconds": {name: percentile(values, 0.5) * 1e3 for name, values in times.items()},
        "p99_milliseconds": {name: percentile(values, 0.99) * 1e3 for name, values in times.items()},
        "bound": SATURATION,
        "holds": against["one at a time"]["median"] >= SATURATION,
    }


def measure(
    name: str,
    guard: LatentGuard,
    prompts: Sequence[str],
    judged: Mapping[str, Sequence[str]],
    clients: Clients,
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
    """All figures on one guard.

    Args:
        prompts: to be answered.
        judged: prompts of moderations by what they are called; batches gain the more, the shorter they are.
    """
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append({"name": name, **row})
        show(rows[-1])

    room = {"waiting": 4_096, "judging": 65_536, "seconds": 600.0}
    with ExitStack() as open_:
        urls = {
            "guarded": open_.enter_context(hosted(guard, settings_with(**room))),
            "unguarded": open_.enter_context(hosted(guard, settings_with(**room), guarded=False)),
        }
        lone = open_.enter_context(hosted(guard, settings_with(**room, batch_tokens=1)))
        at_once, repeats, seconds = arguments.chat_clients, arguments.repeats, arguments.seconds
        for number in (1, at_once):
            add(first_tokens(clients, urls, prompts, number, repeats))
        add(throughput(clients, urls, prompts, at_once, STEADIER * repeats, seconds))
        for kind, texts in judged.items():
            tokens = statistics.mean(len(guard.model.render(text)) for text in texts)
            gain = gain_of_batches(guard, texts, repeats)
            for asking, each in ((arguments.moderation_clients, 1), (at_once, LISTED)):
                row = saturation(clients, urls["guarded"], lone, texts, asking, repeats, seconds, each)
                what = f"{row['what']}, {kind} prompts ({tokens:.0f} tokens)" + (f", {each} a request" * (each > 1))
                add(row | {"what": what, "passes_alone": gain})
    return rows


def gain_of_batches(guard: LatentGuard, texts: Sequence[str], rounds: int) -> float:
    """How many times faster the forward passes and verdicts alone are in batches, with no server around them."""
    rendered = [guard.model.render(text) for text in texts] * 2
    groups = alike([len(item) for item in rendered], EngineLimits().batch_tokens)

    def seconds(batches: Sequence[Sequence[int]]) -> float:
        begun = time.perf_counter()
        for batch in batches:
            verdicts_of(guard, read_states(guard, [rendered[index] for index in batch]))
        return time.perf_counter() - begun

    lone = [[index] for index in range(len(rendered))]
    return statistics.median([seconds(lone) / seconds(groups) for _ in range(rounds + 1)][1:])


def show(row: dict[str, Any]) -> None:
    """Print one figure."""
    ratio = row["ratio"]
    spread = f"{ratio['lower']:.3f} to {ratio['upper']:.3f}, {ratio['pairs']} pairs"
    sign = "at most" if row["bound"] == FIRST_TOKEN else "at least"
    print(f"{row['name']:<17} {row['what']}, {row['clients']} clients: {ratio['median']:.3f}x ({spread}; {sign} "
          f"{row['bound']}x wanted)", flush=True)  # fmt: skip
    for key in ("milliseconds", "a_second", "processor_milliseconds", "p50_milliseconds", "p99_milliseconds"):
        if key in row:
            print(" " * 18 + f"{key}: " + ", ".join(f"{way} {value:.2f}" for way, value in row[key].items()))
    if "against_batches_of_one" in row:
        print(" " * 18 + f"against batches of one: {row['against_batches_of_one']['median']:.2f}x; "
              f"the passes alone gain {row['passes_alone']:.2f}x", flush=True)  # fmt: skip


def table(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """A row a figure."""
    lines = [
        "| model | what | clients | ratio | 95 % interval (pairs) | wanted | medians |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio, least = row["ratio"], row["bound"] != FIRST_TOKEN
        spread = f"{ratio['lower']:.2f} to {ratio['upper']:.2f} ({ratio['pairs']:,})"
        wanted = f"at {'least' if least else 'most'} {row['bound']:.2f}"
        unit, values = ("a second", row["a_second"]) if least else ("ms", row["milliseconds"])
        medians = ", ".join(f"{way} {value:,.{0 if least else 1}f}" for way, value in values.items()) + f" {unit}"
        if "p99_milliseconds" in row:
            medians += f"; 99 of 100 of the saturated within {row['p99_milliseconds']['saturated']:,.0f} ms"
            medians += f"; the passes alone gain {row['passes_alone']:.2f}"
        lines.append(
            f"| {row['name']} | {row['what']} | {row['clients']} | {ratio['median']:.2f} | {spread} | {wanted} | "
            f"{medians} |"
        )
    threads = f"{arguments.threads} thread{'s' if arguments.threads > 1 else ''}"
    about = (
        f"{threads} for the servers, the clients in a process of their own; {arguments.repeats} rounds of "
        f"{arguments.seconds:g} s, {STEADIER * arguments.repeats} for tokens generated, and for first tokens "
        f"{FIRST_SECONDS:g} s at the least. Ratios are guarded over unguarded, and for moderations many clients over "
        "one client that sends text by text; they are medians of pairs, with the 95 % interval of the median. What the "
        "passes alone gain is measured without a server."
    )
    return "\n".join([*lines, "", textwrap.fill(about, 120)])


def main() -> None:
    flags = parser(__doc__)
    flags.set_defaults(threads=1, repeats=3)
    flags.add_argument("--guard", type=Path, help="a guard of organism:aligned; by default one is fitted")
    flags.add_argument("--seconds", type=float, default=4.0, help="of one round of throughput")
    flags.add_argument("--chat-clients", type=int, default=8)
    flags.add_argument("--moderation-clients", type=int, default=64)
    flags.add_argument("--only", choices=["organism", "llama"])
    flags.add_argument("--write", type=Path, nargs="+", default=[], help="write the table into these pages")
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []
    with Clients() as clients:
        if arguments.only != "llama":
            organism = load_model("organism:aligned")
            if arguments.guard is None:
                guard = guard_of_organism(organism)[0]
            else:
                guard = LatentGuard.from_pretrained(arguments.guard, model=organism)
            short = [p.text for kind in ("bare", "harmless", "look-alike") for p in sample(kind, 12, 0, "test")]
            long = [p.text for p in sample("suffix", 36, 0, "test")]
            prompts = short[::2] + long[::3]
            rows += measure("organism:aligned", guard, prompts, {"short": short, "long": long}, clients, arguments)
        if arguments.only != "organism":
            chat = benchmark_llama()
            short, long = prompts_of(chat, 32, 36, seed=4), prompts_of(chat, 128, 36, seed=5)
            prompts = prompts_of(chat, 64, 32, seed=3)
            guard = guard_of_random_prompts(chat)
            rows += measure("random Llama", guard, prompts, {"short": short, "long": long}, clients, arguments)
    finish(arguments, {"benchmark": "serve", "rows": rows})
    for page in arguments.write:
        write_table(page, "serve", table(rows, arguments))


if __name__ == "__main__":
    main()
