"""A model of cost at 8B and 72B: floating-point operations and bytes, no timing.

``python benchmarks/cost.py --write docs/cost.md`` prints the tables and writes the page. Every number on it comes from
the functions below; the tests hold them against operations counted in real forward passes.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from undertow.model.replay import DEFAULT_BRANCH_BUDGET

BYTES = 2
PROMPTS = 10_000
BATCH = 32
POSITIONS = 2
LENGTHS = (128, 512)


@dataclass(frozen=True)
class Shape:
    """A dense decoder with grouped-query attention and a gated MLP.

    Attributes:
        name: what the tables call it.
        layers: blocks L.
        width: residual stream d.
        heads, key_heads, head: query heads H, key and value heads K, head size e.
        mlp: inner width m.
        vocabulary: V.
    """

    name: str
    layers: int
    width: int
    heads: int
    key_heads: int
    head: int
    mlp: int
    vocabulary: int

    @property
    def block(self) -> int:
        """Weights of one block: 2 d H e + 2 d K e + 3 d m."""
        return self.width * (2 * self.heads * self.head + 2 * self.key_heads * self.head + 3 * self.mlp)

    @property
    def decoder(self) -> int:
        """Weights that a forward pass multiplies by, the unembedding left out: L times a block."""
        return self.layers * self.block

    @property
    def unembedding(self) -> int:
        """d V."""
        return self.width * self.vocabulary

    def attention(self, queries: int, keys: int) -> int:
        """Operations of all blocks' attention: 4 H e for every pair of query and key, masked pairs included."""
        return self.layers * 4 * self.heads * self.head * queries * keys

    def forward(self, tokens: int, columns: int, layers: int | None = None) -> int:
        """Operations of one prompt's pass: 2 per weight and token, the attention, 2 d V for every column of logits.

        Args:
            tokens: T.
            columns: how many tokens' logits are computed.
            layers: how many blocks are run; all if left out.
        """
        depth = self.layers if layers is None else layers
        blocks = 2 * self.decoder * tokens + self.attention(tokens, tokens)
        return blocks * depth // self.layers + 2 * self.unembedding * columns

    def cache(self, tokens: int) -> int:
        """Bytes of keys and values: 2 L K e a token."""
        return 2 * self.layers * self.key_heads * self.head * tokens * BYTES


EIGHT = Shape("8B", 36, 4096, 32, 8, 128, 12_288, 151_936)
SEVENTY_TWO = Shape("72B", 80, 8192, 64, 8, 128, 29_568, 152_064)


@dataclass(frozen=True)
class Cost:
    """What one way of doing a task costs.

    Attributes:
        way: its name.
        operations: floating-point operations, a multiplication and an addition being two.
        weights: bytes of weights read from memory: one reading a forward pass.
        held: bytes held at once beside the weights and one block's own working memory.
    """

    way: str
    operations: int
    weights: int
    held: int


def capture(
    shape: Shape, prompts: int, tokens: int, batch: int, positions: int, layers: int | None = None
) -> list[Cost]:
    """Capture of some positions at all states of prompts of equal length.

    Args:
        shape: the model.
        prompts: N.
        tokens: T.
        batch: prompts a pass, where a way takes batches.
        positions: P.
        layers: the deepest state that Undertow reads; all if left out.
    """
    states = shape.layers + 1
    passes = math.ceil(prompts / batch)
    depth = shape.layers if layers is None else layers
    whole = (shape.decoder + shape.unembedding) * BYTES
    kept = (depth + 1) * positions * shape.width * BYTES
    return [
        Cost(
            "naive loop: batch 1, output_hidden_states, all logits",
            prompts * shape.forward(tokens, tokens),
            prompts * whole,
            states * tokens * shape.width * BYTES + tokens * shape.vocabulary * BYTES + shape.cache(tokens),
        ),
        Cost(
            f"output_hidden_states, batch {batch}, no unembedding",
            prompts * shape.forward(tokens, 0),
            passes * shape.decoder * BYTES,
            states * batch * tokens * shape.width * BYTES,
        ),
        Cost(
            f"Undertow capture, batch {batch}" + (f", states 0 to {depth}" if layers is not None else ""),
            prompts * shape.forward(tokens, 0, depth),
            passes * shape.decoder * depth // shape.layers * BYTES,
            batch * kept,
        ),
    ]


def result(shape: Shape, prompts: int, positions: int) -> int:
    """Bytes of what a capture gives back: N (L + 1) P d."""
    return prompts * (shape.layers + 1) * positions * shape.width * BYTES


def screening(shape: Shape, tokens: int, budget: int = DEFAULT_BRANCH_BUDGET) -> list[Cost]:
    """Interchange of every head at the last token of one prompt, one branch a head.

    Args:
        shape: the model.
        tokens: T.
        budget: most branches that Undertow puts into one pass.
    """
    branches = shape.layers * shape.heads
    whole = (shape.decoder + shape.unembedding) * BYTES
    prefix = shape.forward(tokens - 1, 1)
    chunks = [min(budget, branches - begin) for begin in range(0, branches, budget)]
    replayed = sum(replay_chunk(shape, tokens, chunk) for chunk in chunks)
    logits = shape.vocabulary * 4
    return [
        Cost("naive loop: one pass a head", branches * shape.forward(tokens, 1), branches * whole, logits),
        Cost(
            "one batch with a row a head",
            branches * shape.forward(tokens, 1),
            whole,
            branches * (tokens * shape.width * BYTES + logits),
        ),
        Cost(
            "cache expanded to a row a head",
            prefix + branches * (2 * (shape.decoder + shape.unembedding) + shape.attention(1, tokens)),
            2 * whole,
            shape.cache(branches * tokens) + branches * logits,
        ),
        Cost(
            f"Undertow replay: a tree of branches, {budget} a pass",
            prefix + replayed,
            (1 + len(chunks)) * whole,
            shape.cache(tokens - 1 + chunks[0]) + chunks[0] * ((tokens - 1 + chunks[0]) * BYTES + logits),
        ),
    ]


def replay_chunk(shape: Shape, tokens: int, branches: int) -> int:
    """Operations of one pass over branches of one token each behind T - 1 cached ones."""
    return 2 * (shape.decoder + shape.unembedding) * branches + shape.attention(branches, tokens - 1 + branches)


def quantity(number: float, unit: str) -> str:
    """A number with a decimal prefix and three digits."""
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"


def table(costs: list[Cost]) -> list[str]:
    """A Markdown table; the last column compares operations with the last row's."""
    lines = [
        "| way | operations | weights read | held at once | operations, times Undertow's |",
        "|---|---|---|---|---|",
    ]
    for cost in costs:
        lines.append(
            f"| {cost.way} | {quantity(cost.operations, 'FLOP')} | {quantity(cost.weights, 'B')} | "
            f"{quantity(cost.held, 'B')} | {cost.operations / costs[-1].operations:.2f} |"
        )
    return lines


def arithmetic(shape: Shape, tokens: int) -> list[str]:
    """The sums of one prompt written out."""
    branches = shape.layers * shape.heads
    forward, last = shape.forward(tokens, 0), shape.forward(tokens, 1)
    return [
        f"- A block has d (2 H e + 2 K e + 3 m) = {shape.width:,} x (2 x {shape.heads * shape.head:,} + "
        f"2 x {shape.key_heads * shape.head:,} + 3 x {shape.mlp:,}) = {shape.block:,} weights; L = {shape.layers} "
        f"blocks have {shape.decoder:,}; the unembedding has d V = {shape.unembedding:,}.",
        f"- One pass over T = {tokens} tokens: 2 x {shape.decoder:,} x {tokens} + {shape.layers} x 4 x "
        f"{shape.heads * shape.head:,} x {tokens}² = {quantity(forward, 'FLOP')}; with the logits of one token "
        f"{quantity(last, 'FLOP')}.",
        f"- All R = L H = {branches:,} heads, one pass each: {branches:,} x {quantity(last, 'FLOP')} = "
        f"{quantity(branches * last, 'FLOP')}.",
    ]


HEAD = f"""# What capture and screening cost at 8B and 72B

Written by `python benchmarks/cost.py --write docs/cost.md`. Counted, not timed: floating-point operations (a
multiplication and an addition are two) and bytes at {BYTES} a value. The tests hold the formulas against operations
counted in real passes of small models.

## Formulas

L blocks, width d, H query heads, K key and value heads of size e, MLP width m, vocabulary V, prompts of T tokens.

| what | how much |
|---|---|
| weights of a block | W = d (2 H e + 2 K e + 3 m) |
| pass over T tokens, c of which get logits | 2 L W T + 4 L H e T² + 2 d V c |
| the same, stopped after l blocks | (2 W T + 4 H e T²) l |
| keys and values of a token | 2 L K e values |
| states kept by output_hidden_states | (L + 1) B T d values for a batch of B |
| states kept by Undertow | (L + 1) B P d values for P positions |
| R heads interchanged, one pass each | R (2 L W T + 4 L H e T² + 2 d V) |
| the same by replay: once | 2 L W (T - 1) + 4 L H e (T - 1)² + 2 d V |
| and for every pass of b branches | 2 (L W + d V) b + 4 L H e b (T - 1 + b) |

The attention is counted with its masked half, as kernels with a mask compute it. Norms, activations, rotary embeddings
and softmax are left out: below 1 % at these widths. Weights are read once a pass. "Held at once" leaves out the weights
and the working memory of the block at work, which all ways have in common. The bound R T / (T - 1 + R) that
[the benchmarks](benchmarks.md) speak of is what this ratio tends to when the attention and the unembedding are small.
"""


def page() -> str:
    """The whole of docs/cost.md."""
    lines = [HEAD]
    for shape in (EIGHT, SEVENTY_TWO):
        lines += [
            f"## {shape.name}",
            "",
            f"L = {shape.layers}, d = {shape.width:,}, H = {shape.heads}, K = {shape.key_heads}, e = {shape.head}, "
            f"m = {shape.mlp:,}, V = {shape.vocabulary:,}.",
            "",
            *arithmetic(shape, LENGTHS[0]),
            "",
        ]
        for tokens in LENGTHS:
            gathered = result(shape, PROMPTS, POSITIONS)
            lines += [
                f"### {shape.name}: capture, {PROMPTS:,} prompts of {tokens} tokens, {POSITIONS} positions, all states",
                "",
                f"The result itself is {quantity(gathered, 'B')}, whichever way is taken.",
                "",
                *table(capture(shape, PROMPTS, tokens, BATCH, POSITIONS)),
                "",
                f"For a guard that reads state {shape.layers // 2} only, Undertow stops half-way: "
                f"{quantity(capture(shape, PROMPTS, tokens, BATCH, 1, shape.layers // 2)[-1].operations, 'FLOP')}.",
                "",
                f"### {shape.name}: screening of {shape.layers * shape.heads:,} heads, one prompt of {tokens} tokens",
                "",
                *table(screening(shape, tokens)),
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--write", type=Path, default=None, help="also write the page here")
    arguments = flags.parse_args()
    text = page()
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
