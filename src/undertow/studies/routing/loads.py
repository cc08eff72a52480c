"""How many tokens every part of the study runs through the model, counted before it starts.

What only the measuring tells (how many gates, how long the replies) stands in `Assumed`. Tokens are those that a pass
runs, padding of batches included; replay runs its prefix once a prompt and then every branch's own tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from undertow.studies.routing.sizes import ModelShape


class Work(NamedTuple):
    """Passes of one kind.

    Attributes:
        calls: how often the model is called.
        tokens: tokens run in all.
        context: tokens that each of them is held against.
        logits: tokens whose logits are computed.
    """

    calls: float
    tokens: float
    context: float
    logits: float


@dataclass(frozen=True)
class Prompts:
    """One half of the pairs.

    Attributes:
        pairs: how many.
        tokens: mean tokens of a prompt.
        padding: tokens that a batch of them runs, over the tokens in it.
    """

    pairs: int
    tokens: float
    padding: float = 1.0


@dataclass(frozen=True)
class Assumed:
    """What is known for certain only afterwards.

    Attributes:
        reply: tokens of the longest judged reply of a batch; the limit, where nothing is known.
        judged: tokens of a reply that show its verdict, for parts that judge many.
        continuation: tokens of a control's own continuation (readout "control-loss").
        question: tokens that a question about the request adds to it.
        tail: tokens of the template behind the request.
        longest: tokens of the longest prompt, at whose length replay is tried first.
        equal: share of the pairs whose prompts are equally long.
        told: share of the report pairs whose sensitive side is refused and whose control is answered.
        gates: gates found.
        gate_blocks: blocks that hold one.
        steps: heads added in the search for a band, those beyond it included.
        random_sets: different random sets a step.
        sets: sets of heads whose ablation is judged.
        everywhere: blocks of which the mean over all tokens is needed.
        heads: gates, or the heads in their place, under a cipher.
        rescues: sets of edits whose rescue is judged.
        tokens_per_batch: tokens of a batch.
        branches: most tokens of branches in one pass of replay.
        ciphered: tokens of a ciphered prompt over those of a plain one.
        other: whether another table is tried too.
    """

    reply: int = 16
    judged: int = 10
    continuation: int = 5
    question: int = 15
    tail: int = 5
    longest: float = 64
    equal: float = 0.5
    told: float = 0.9
    gates: int = 2
    gate_blocks: int = 2
    steps: int = 8
    random_sets: int = 12
    sets: int = 16
    everywhere: int = 4
    heads: int = 3
    rescues: int = 5
    tokens_per_batch: int = 4096
    branches: int = 512
    ciphered: float = 4.0
    other: bool = True


@dataclass(frozen=True)
class Counter:
    """Counts passes over one half of the pairs.

    Attributes:
        shape: the model.
        half: the prompts.
        assumed: see `Assumed`.
    """

    shape: ModelShape
    half: Prompts
    assumed: Assumed

    def read(self, prompts: float, longer: float = 1.0) -> list[Work]:
        """So many prompts, in batches; the logits of the last token are computed at most."""
        # What makes prompts longer is mostly the same for all of them, such as a cipher's table.
        padding = 1 + (self.half.padding - 1) * min(1.0, 2 / longer) if longer > 1 else self.half.padding
        tokens = prompts * self.half.tokens * longer * padding
        calls = math.ceil(tokens / self.assumed.tokens_per_batch) if prompts else 0
        return [Work(calls, tokens, self.half.tokens * longer, prompts)]

    def generate(self, prompts: float, limit: int | None = None, longer: float = 1.0) -> list[Work]:
        """Replies to so many prompts: their pass, and one token at a time."""
        steps = max(1, self.assumed.reply if limit is None else min(limit, self.assumed.reply)) - 1
        first = self.read(prompts, longer)
        rows = prompts * steps
        return [*first, Work(first[0].calls * steps, rows, self.half.tokens * longer + steps / 2, rows)]

    def replay(
        self, prompts: float, branches: float, last: float = 1, columns: float = 1, longer: float = 1.0
    ) -> list[Work]:
        """So many prompts, each with so many branches of the last tokens.

        Args:
            prompts: how many.
            branches: of each.
            last: tokens of a branch.
            columns: tokens of a branch whose logits are computed.
            longer: how much longer than the half's the prompts are.
        """
        if not branches or not prompts:
            return []
        prefix = max(0.0, self.half.tokens * longer + columns - 1 - last)
        most = max(1, self.assumed.branches // int(last))
        chunks = math.ceil(branches / most)
        tokens = prompts * branches * last
        width = prefix + min(most, branches) * last
        return [
            Work(prompts, prompts * prefix, prefix, prompts),
            Work(prompts * chunks, tokens, width, prompts * branches * columns),
        ]


FULL_SPAN_HEADS = 10

Part = Callable[[Counter, Counter], list[Work]]


def prepare(choose: Counter, report: Counter) -> list[Work]:
    """Replies and states of both sides, then their heads."""
    return [
        work
        for half in (choose, report)
        for work in (*half.generate(2 * half.half.pairs), *half.read(2 * half.half.pairs))
    ]


def screening(last: str = "one", columns: str = "one", first: bool = False) -> Part:
    """Both sides of every pair: a branch a head from the pair and one from the same class, and the unedited prompt.

    Args:
        last: "one" token is exchanged, or the template's "tail".
        columns: "one" token is read, or a "continuation".
        first: whether it is the first replay of a model, which tries how replay may run.
    """

    def work(choose: Counter, report: Counter) -> list[Work]:
        longest = 2 ** math.ceil(math.log2(max(8.0, choose.assumed.longest)))
        found = [Work(5, 4 * longest + 4, longest, 12)] if first else []
        for half in (choose, report):
            assumed, prompts = half.assumed, 2 * half.half.pairs
            again = assumed.tail if last == "tail" else 1
            read = 1
            if columns == "continuation":
                read = assumed.continuation
                again += read - 1
                found += half.generate(half.half.pairs, read)
            if last == "tail":
                found += half.read(prompts, 1 / half.half.padding)
            found += half.replay(prompts, 1 + 2 * half.shape.all_heads, again, read)
        return found

    return work


def full_span(choose: Counter, report: Counter) -> list[Work]:
    """A few heads exchanged over all tokens, on the pairs whose prompts are equally long."""
    found: list[Work] = []
    for half in (choose, report):
        prompts = 2 * half.half.pairs * half.assumed.equal
        branches = 1 + 2 * min(FULL_SPAN_HEADS, half.shape.all_heads)
        found += half.read(prompts) + half.replay(prompts, branches, max(1, round(half.half.tokens)))
    return found


def circuit(choose: Counter, report: Counter) -> list[Work]:
    """Attribution of both sides with the logits it is weighed by, and the cascade: the gates' knockout and one of every
    other head of their blocks."""
    found: list[Work] = []
    for half in (choose, report):
        pairs, assumed = half.half.pairs, half.assumed
        null = assumed.gate_blocks * half.shape.heads - assumed.gates
        found += half.read(2 * pairs) + half.read(pairs)
        found += half.read(pairs * (1 + null) if assumed.gates else 0)
    return found


def bands(choose: Counter, report: Counter) -> list[Work]:
    """The greedy search on choose pairs, its first step known from the screening; on report pairs every step both ways
    with random sets, and replies."""
    assumed, heads = choose.assumed, choose.shape.all_heads
    found: list[Work] = []
    for step in range(1, assumed.steps):
        found += choose.replay(choose.half.pairs, heads - step + 1)
    pairs = report.half.pairs
    found += report.replay(pairs, 1 + assumed.steps * (1 + assumed.random_sets))
    return found + report.replay(pairs, 1 + assumed.steps) + report.generate(pairs * assumed.steps)


def ablation(choose: Counter, report: Counter) -> list[Work]:
    """Three ablations of every head, means over all tokens, and replies of both sides under each set of edits."""
    assumed, pairs = report.assumed, report.half.pairs
    found = report.replay(pairs, 1 + 3 * report.shape.all_heads) + report.generate(2 * pairs * assumed.sets)
    return found + choose.read(2 * choose.half.pairs * assumed.everywhere, 1 / choose.half.padding)


def modulation(choose: Counter, report: Counter) -> list[Work]:
    """Eight doses on both sides of at most 60 pairs along the direction and three random ones, and the choice of the
    span."""
    pairs, chosen = min(60, report.half.pairs), min(60, choose.half.pairs)
    found = choose.read(4 * choose.half.pairs, 1 / choose.half.padding) + choose.read(2 * 6 * chosen)
    return found + report.generate(2 * pairs * (1 + 8 * 4), report.assumed.judged)


def commitment(choose: Counter, report: Counter) -> list[Work]:
    """Every state exchanged in both directions with two kinds of donor, at t_post, at t_inst and at all earlier tokens:
    replies, and the readout by replay."""
    assumed, states = report.assumed, report.shape.layers + 1
    pairs = 4 * min(48.0, report.half.pairs * assumed.told)
    earlier = 4 * min(40.0, report.half.pairs * assumed.told * assumed.equal)
    tail = 1 + assumed.tail
    found = report.generate(pairs * (states - 1), assumed.judged) + report.replay(pairs, 1 + states)
    found += report.generate(pairs * states, assumed.judged) + report.replay(pairs, 1 + states, tail)
    found += report.generate(earlier * states, assumed.judged) + report.read(earlier * states, 1 / report.half.padding)
    last = round(report.half.tokens)
    return found + report.read(earlier, 1 / report.half.padding) + report.replay(earlier, 1 + states, last)


def ciphers(choose: Counter, report: Counter) -> list[Work]:
    """Replies, heads, questions about harm, necessity, rescue and contrast on plain and ciphered pairs."""
    assumed, longer, pairs = report.assumed, report.assumed.ciphered, report.half.pairs
    asked = assumed.question / max(1.0, report.half.tokens)
    found = report.generate(2 * pairs, longer=longer) + report.read(2 * pairs, longer)
    for form in (1.0, longer):
        found += report.generate(2 * pairs, 6, form + asked)
        for half in (choose, report):
            found += half.read(3 * half.half.pairs, form)
    if assumed.other:
        found += report.generate(pairs, longer=longer) + report.generate(2 * pairs, 6, longer + asked)
    for form in (1.0, longer, longer):
        found += report.replay(pairs, 1 + assumed.heads, longer=form)
    found += report.replay(pairs, 4 + assumed.rescues, longer=longer)
    return found + report.generate(pairs * assumed.rescues, longer=longer)


def comparison(choose: Counter, report: Counter) -> list[Work]:
    """The second model on the same pairs: what it does with them, its screening and its circuit."""
    return [*prepare(choose, report), *screening(first=True)(choose, report), *circuit(choose, report)]


LOADS: dict[str, Part] = {
    "prepare": prepare,
    "screening": screening(first=True),
    "screening, tail": screening(last="tail"),
    "screening, control-loss": screening(columns="continuation"),
    "screening, projection": screening(),
    "screening, full span": full_span,
    "circuit": circuit,
    "bands": bands,
    "ablation": ablation,
    "modulation": modulation,
    "commitment": commitment,
    "ciphers": ciphers,
    "comparison": comparison,
}
"""Name of every part -> what it runs."""


def total(works: Sequence[Work]) -> float:
    """Tokens of all passes."""
    return sum(work.tokens for work in works)
