"""What scoring a billion prompts would take: an estimate, every step of it written out.

    python benchmarks/plan.py build/benchmarks/engines.json --write docs/scale.md

Operations are counted by `cost.py`; the work of the host (reading, rendering, merging, bytes of a row) was timed by
`engines.py` on a small machine; everything else is an assumption that a flag changes.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cost import EIGHT, Shape, quantity

BLOCK = re.compile(r"(<!-- plan: .*? -->\n).*?(<!-- end of plan -->)", re.DOTALL)
CHUNK = 64


@dataclass(frozen=True)
class Assumptions:
    """What is not counted or measured.

    Attributes:
        prompts: how many there are.
        tokens: of a rendered prompt.
        state: deepest state that the guard reads, so blocks that are run.
        peak: operations a second that a GPU promises, bfloat16 without sparsity.
        utilisation: share of it that dense forward passes reach.
        price: dollars an hour and GPU.
        gpus: how many there are at once.
        lifetime: GPU-hours between two losses of a worker.
        loading: seconds that a new worker takes to load model and guard.
        prompt_bytes: of a prompt in the source.
        carried: rows a second that one Ray driver carries with its reader; two busy cores carried about as many with
            the scoring replaced by a pause of 2 ms a chunk.
    """

    prompts: int = 1_000_000_000
    tokens: int = 128
    state: int = 18
    peak: float = 989e12
    utilisation: float = 0.4
    price: float = 2.5
    gpus: int = 64
    lifetime: float = 5_000.0
    loading: float = 120.0
    prompt_bytes: float = 500.0
    carried: float = 1_700.0


@dataclass(frozen=True)
class Host:
    """What was measured on one core.

    Attributes:
        rendering, reading, merging: seconds a prompt.
        row_bytes: of a row of output.
    """

    rendering: float
    reading: float
    merging: float
    row_bytes: float

    @classmethod
    def from_benchmark(cls, figures: dict[str, Any]) -> Host:
        """Medians over the cases of `engines.py`."""

        def middle(name: str) -> float:
            return statistics.median(case[name] for case in figures["cases"])

        return cls(*(middle(name) for name in ("host_seconds", "read_seconds", "merge_seconds", "bytes_a_row")))


@dataclass(frozen=True)
class Plan:
    """The estimate for one set of assumptions."""

    given: Assumptions
    host: Host
    shape: Shape = EIGHT

    @property
    def operations(self) -> int:
        """Of one prompt."""
        return self.shape.forward(self.given.tokens, 0, self.given.state)

    @property
    def device_seconds(self) -> float:
        """On the GPU, for one prompt."""
        return self.operations / (self.given.peak * self.given.utilisation)

    @property
    def seconds(self) -> float:
        """For one prompt: a worker renders a chunk and then runs it, one after the other."""
        return self.device_seconds + self.host.rendering

    @property
    def hours(self) -> float:
        """GPU-hours for all prompts, without losses."""
        return self.given.prompts * self.seconds / 3600

    @property
    def losses(self) -> float:
        """Workers that are lost on the way."""
        return self.hours / self.given.lifetime

    @property
    def lost_hours(self) -> float:
        """GPU-hours that the losses cost: a chunk to be scored again and a model to be loaded."""
        return self.losses * (CHUNK * self.seconds + self.given.loading) / 3600

    @property
    def dollars(self) -> float:
        """For all GPU-hours."""
        return (self.hours + self.lost_hours) * self.given.price

    @property
    def days(self) -> float:
        """From start to end, every GPU busy."""
        return (self.hours + self.lost_hours) / self.given.gpus / 24

    @property
    def most_workers(self) -> int:
        """GPUs that one driver keeps busy: its merging, its reader or Ray itself is the narrowest."""
        narrowest = min(1 / self.host.merging, 1 / self.host.reading, self.given.carried)
        return max(1, int(self.seconds * narrowest))


def steps(plan: Plan) -> list[str]:
    """The estimate, step by step."""
    given, host, shape = plan.given, plan.host, plan.shape
    chunks = -(-given.prompts // CHUNK)
    drivers = -(-given.gpus // plan.most_workers)
    return [
        f"1. Model: {shape.name}, L = {shape.layers}, a block of {shape.block:,} weights; the guard reads state "
        f"{given.state} (assumed), so {given.state} blocks run and nothing is decoded. Prompts of T = {given.tokens} "
        "tokens with their template, all equally long, so that nothing is padded (assumed).",
        f"2. A prompt: (2 W T + 4 H e T²) l = (2 x {shape.block:,} x {given.tokens} + 4 x "
        f"{shape.heads * shape.head:,} x {given.tokens}²) x {given.state} = {quantity(plan.operations, 'FLOP')}.",
        f"3. A GPU: {quantity(given.peak, 'FLOP/s')} promised, {given.utilisation:.0%} of it reached (both assumed): "
        f"{quantity(plan.operations, 'FLOP')} / {quantity(given.peak * given.utilisation, 'FLOP/s')} = "
        f"{plan.device_seconds * 1e3:.2f} ms. Rendering and tokenising on its host: {host.rendering * 1e3:.2f} ms "
        f"(measured on shorter prompts), not overlapped. Together {plan.seconds * 1e3:.2f} ms a prompt, "
        f"{1 / plan.seconds:,.0f} prompts a second and GPU.",
        f"4. All: {given.prompts:,} x {plan.seconds * 1e3:.2f} ms = {plan.hours:,.0f} GPU-hours.",
        f"5. Losses: one worker in {given.lifetime:,.0f} GPU-hours (assumed) makes {plan.losses:.2f}; each costs at "
        f"most a chunk of {CHUNK} and {given.loading:.0f} s of loading (assumed): {plan.lost_hours:.2f} GPU-hours.",
        f"6. Price: {plan.hours + plan.lost_hours:,.0f} GPU-hours x ${given.price:.2f} (assumed) = "
        f"**${plan.dollars:,.0f}**; on {given.gpus} GPUs **{plan.days:.1f} days**.",
        f"7. One driver: a row is merged in {host.merging * 1e6:.0f} µs and read in {host.reading * 1e6:.0f} µs "
        f"(measured, local disk), and Ray carries {given.carried:,.0f} rows a second through one driver (assumed: "
        "about what it did here on two busy cores with scoring replaced by a pause; a driver with cores of its own "
        f"should do better). So one keeps {plan.most_workers} GPUs busy, and {given.gpus} GPUs need {drivers} "
        f"scan{'s' * (drivers > 1)} at a time.",
        f"8. Storage: {given.prompts:,} x {given.prompt_bytes:.0f} bytes (assumed) = "
        f"{quantity(given.prompts * given.prompt_bytes, 'B')} of source; x {host.row_bytes:.0f} bytes a row (measured) "
        f"= {quantity(given.prompts * host.row_bytes, 'B')} of JSON lines; {chunks:,} parts come and go, and few are "
        "there at a time.",
    ]


def variants(plan: Plan) -> list[str]:
    """What changes most when an assumption does."""
    base = plan.given
    cases: list[tuple[str, dict[str, Any]]] = [
        ("as above", {}),
        ("deepest state: all blocks run", {"state": plan.shape.layers}),
        ("prompts that differ in length, padded to twice their tokens", {"tokens": 2 * base.tokens}),
        ("prompts of 512 tokens", {"tokens": 512}),
        ("20 % of the promised rate reached", {"utilisation": 0.2}),
        ("$5 an hour", {"price": 5.0}),
    ]
    lines = ["| assumption changed | prompts a second and GPU | GPU-hours | dollars | days |", "|---|---|---|---|---|"]
    for name, changed in cases:
        other = Plan(Assumptions(**vars(base) | changed), plan.host, plan.shape)
        lines.append(
            f"| {name} | {1 / other.seconds:,.0f} | {other.hours:,.0f} | {other.dollars:,.0f} | {other.days:.1f} |"
        )
    return lines


def text_of(plan: Plan) -> str:
    """The whole estimate as Markdown."""
    advice = (
        "Cut the source into files of ten million or so, one scan each: the finished ones need no driver, a lost disk "
        "costs one of them, and a driver that is started again reads its own file only (the reader goes through what "
        "is done already without scoring it). A scan that ends by itself names the rows that ended it."
    )
    return "\n".join([*steps(plan), "", *variants(plan), "", advice])


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("figures", type=Path, help="what benchmarks/engines.py --json wrote")
    flags.add_argument("--write", type=Path, default=None, help="page whose marked block gets the estimate")
    for name, value in vars(Assumptions()).items():
        flags.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = flags.parse_args()
    given = Assumptions(**{name: getattr(arguments, name) for name in vars(Assumptions())})
    text = text_of(Plan(given, Host.from_benchmark(json.loads(arguments.figures.read_text()))))
    print(text)
    if arguments.write is not None:
        page = arguments.write.read_text(encoding="utf-8")
        if not BLOCK.search(page):
            raise SystemExit(f"{arguments.write} has no place for the plan.")
        page = BLOCK.sub(lambda match: match[1] + text + "\n" + match[2], page)
        arguments.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
