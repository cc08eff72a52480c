"""Which head of a built organism does what: drawn at random from the seed, before any weight is set."""

from __future__ import annotations

import random
from dataclasses import dataclass

from undertow.organism.built.circuit import Head
from undertow.organism.built.spec import KINDS, Spec
from undertow.organism.built.words import TOPICS

LEAK = 0.6
"""Standard deviation over topics of what all topic heads together leak into the log-odds, about, in nats."""


@dataclass(frozen=True)
class Plan:
    """Heads and their strengths.

    Attributes:
        gates: heads that route, and how much of the routing signal each writes; the shares sum to 1.
        amplifiers: heads that read the routing signal and their shares of the refusal; likewise.
        direct: heads that read detection and write the refusal, and their shares; likewise.
        topic: topic heads, each with its leak into the log-odds a topic, nats; every leak has mean 0.
        cancelled: heads with what they add to the log-odds a unit of detection, nats, and the block whose MLP cancels.
        constant: heads with what they add to the log-odds of every prompt, nats.
    """

    gates: dict[Head, float]
    amplifiers: dict[Head, float]
    direct: dict[Head, float]
    topic: dict[Head, tuple[float, ...]]
    cancelled: dict[Head, tuple[float, int]]
    constant: dict[Head, float]

    @property
    def heads(self) -> tuple[Head, ...]:
        """Every head with a role."""
        parts = (self.gates, self.amplifiers, self.direct, self.topic, self.cancelled, self.constant)
        return tuple(head for part in parts for head in part)


def draw(spec: Spec) -> Plan:
    """The plan that a spec's seed gives."""
    generator = random.Random(f"plan {spec.seed}")
    gates, amplifiers, direct = _policy(spec, generator)
    taken = {*gates, *amplifiers, *direct}
    free = [head for head in _heads(spec, 0, spec.blocks) if head not in taken]
    generator.shuffle(free)
    kinds = list(KINDS)
    generator.shuffle(kinds)
    topic: dict[Head, tuple[float, ...]] = {}
    cancelled: dict[Head, tuple[float, int]] = {}
    constant: dict[Head, float] = {}
    for number in range(spec.distractors):
        head, kind = free[number], kinds[number % len(kinds)]
        sign = generator.choice((-1.0, 1.0))
        if kind == "topic":
            topic[head] = _zero_mean(generator)
        elif kind == "cancelled":
            later = min(spec.blocks - 1, head[0] + generator.randrange(3))
            cancelled[head] = (sign * generator.uniform(1.5, 4.0), later)
        else:
            constant[head] = sign * generator.uniform(1.0, 3.0)
    # However many topic heads there are, together they leak so much.
    size = LEAK / max(1, len(topic)) ** 0.5
    topic = {head: tuple(size * leak for leak in leaks) for head, leaks in topic.items()}
    return Plan(gates, amplifiers, direct, topic, cancelled, constant)


def _policy(spec: Spec, generator: random.Random) -> tuple[dict[Head, float], dict[Head, float], dict[Head, float]]:
    first = max(1, spec.blocks // 4)
    if spec.policy == "none":
        return {}, {}, {}
    if spec.policy == "direct":
        heads = generator.sample(_heads(spec, first, spec.blocks), spec.amplifiers)
        return {}, {}, _shares(heads, generator)
    last = max(first, min(-(-2 * spec.blocks // 3) - 1, spec.blocks - 2))
    begin = generator.randint(first, last)
    end = min(last, begin + (generator.randrange(2) if spec.gates > 1 else 0))
    gates = generator.sample(_heads(spec, begin, end + 1), spec.gates)
    after = max(block for block, _ in gates) + 1
    amplifiers = generator.sample(_heads(spec, after, spec.blocks), spec.amplifiers)
    return _shares(gates, generator), _shares(amplifiers, generator), {}


def _heads(spec: Spec, first: int, end: int) -> list[Head]:
    return [(block, head) for block in range(first, end) for head in range(spec.heads)]


def _shares(heads: list[Head], generator: random.Random) -> dict[Head, float]:
    """Shares of 1 in the order of the heads, the largest at most twice the smallest."""
    strengths = [generator.uniform(1.0, 2.0) for _ in heads]
    return {head: strength / sum(strengths) for head, strength in zip(sorted(heads), strengths, strict=True)}


def _zero_mean(generator: random.Random) -> tuple[float, ...]:
    """A number a topic, with mean 0 and standard deviation 1."""
    values = [generator.gauss(0.0, 1.0) for _ in TOPICS]
    mean = sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return tuple((value - mean) / spread for value in values)
