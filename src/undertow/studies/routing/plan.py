"""What the study will cost, part by part, before it starts: tokens, operations, memory and time.

Counted, not measured: two operations a weight and token, the attention with its masked half; time is operations over a
stated speed and what a pass takes besides. The tests hold the tokens against those counted in real runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from undertow.errors import UndertowError
from undertow.model.batching import plan as batches
from undertow.model.replay import DEFAULT_BRANCH_BUDGET
from undertow.studies.routing.loads import LOADS, Assumed, Counter, Prompts, Work
from undertow.studies.routing.sizes import ModelShape, Speed

if TYPE_CHECKING:
    from undertow.model import ChatModel
    from undertow.prompts.pairs import PairSet

GIGABYTE = 1e9
LARGE = 1e9
_LEAST_BATCH = 64
_WIDE = 4
_LOGIT_COPIES = 8
_ATTRIBUTED = 3 * 30_000_000 * _WIDE


@dataclass(frozen=True)
class PartPlan:
    """What one part takes.

    Attributes:
        name: the part.
        calls: how often the model is called.
        tokens: tokens run through it.
        flop: operations.
        seconds: time at the plan's speed.
    """

    name: str
    calls: float
    tokens: float
    flop: float
    seconds: float


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes held at the worst moment of each kind.

    Attributes:
        weights: of the model, and of a second one that it is compared with.
        prefix: keys and values of the longest prompt that branches share.
        tree: keys, values and activations of the branches of one pass, and their attention where it is held whole.
        mask: the mask of that pass.
        logits: of the branches of that pass, in the three copies that a log-softmax makes.
        batch: a batch of prompts that is read or generated.
        host: states and heads of all prompts, kept outside the accelerator.
        kept: replay's result where all tokens are kept instead of the readout's; not part of the study's own peak.
    """

    weights: float
    prefix: float
    tree: float
    mask: float
    logits: float
    batch: float
    host: float
    kept: float

    @property
    def replay(self) -> float:
        """One pass of replay besides the weights."""
        return self.prefix + self.tree + self.mask + self.logits

    @property
    def peak(self) -> float:
        """Device memory at the worst moment: weights, and a pass of replay or a batch."""
        return self.weights + max(self.replay, self.batch)


@dataclass(frozen=True)
class Plan:
    """The study's cost on one model.

    Attributes:
        shape: the model.
        pairs: choose and report pairs.
        mean_tokens: of a prompt.
        branches: most tokens of branches in one pass of replay.
        tokens_per_batch: tokens of a batch.
        speed: what time was reckoned with.
        parts: in order.
        memory: see `MemoryPlan`.
    """

    shape: ModelShape
    pairs: tuple[int, int]
    mean_tokens: float
    branches: int
    tokens_per_batch: int
    speed: Speed
    parts: tuple[PartPlan, ...]
    memory: MemoryPlan

    @property
    def tokens(self) -> float:
        """Of all parts."""
        return sum(part.tokens for part in self.parts)

    @property
    def flop(self) -> float:
        """Of all parts."""
        return sum(part.flop for part in self.parts)

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return sum(part.seconds for part in self.parts)


def plan(
    shape: ModelShape,
    pairs: int | tuple[int, int],
    *,
    mean_tokens: float | tuple[float, float],
    parts: Sequence[str] = tuple(LOADS),
    branches: int = DEFAULT_BRANCH_BUDGET,
    padding: float | tuple[float, float] = 1.0,
    longest: float | None = None,
    assumed: Assumed | None = None,
    speed: Speed | None = None,
    second: ModelShape | None = None,
) -> Plan:
    """Count what the study takes.

    Args:
        shape: the model.
        pairs: all pairs, halved; or choose and report pairs.
        mean_tokens: tokens of a prompt; of choose and report pairs.
        parts: names of `LOADS`; others, such as the built circuits, do not run this model and are left out.
        branches: most tokens of branches in one pass of replay.
        padding: tokens a batch runs over the tokens in it; of choose and report pairs.
        longest: tokens of the longest prompt; the mean where it is not known.
        assumed: what is known for certain only afterwards; its `branches` and `longest` give way to those above.
        speed: of the machine; assumed where it is not known.
        second: a second model to compare with.
    """
    from dataclasses import replace

    counts = pairs if isinstance(pairs, tuple) else (pairs // 2, pairs - pairs // 2)
    means = mean_tokens if isinstance(mean_tokens, tuple) else (mean_tokens, mean_tokens)
    pads = padding if isinstance(padding, tuple) else (padding, padding)
    longest = longest or max(means)
    known = replace(assumed or Assumed(), branches=branches, longest=longest)
    rate = speed or Speed.assumed(shape)
    found = []
    for name in parts:
        if name not in LOADS:
            continue
        own = second if second is not None and name == "comparison" else shape
        halves = [Counter(own, Prompts(*half), known) for half in zip(counts, means, pads, strict=True)]
        found.append(_part(name, LOADS[name](*halves), own, rate))
    mean = (means[0] * counts[0] + means[1] * counts[1]) / max(1, sum(counts))
    return Plan(
        shape,
        counts,
        mean,
        branches,
        known.tokens_per_batch,
        rate,
        tuple(found),
        memory_of(shape, sum(counts), longest, branches, known, second),
    )


def memory_of(
    shape: ModelShape,
    pairs: int,
    longest: float,
    branches: int,
    assumed: Assumed | None = None,
    second: ModelShape | None = None,
) -> MemoryPlan:
    """Bytes at the worst moment.

    Args:
        shape: the model.
        pairs: all pairs.
        longest: tokens of the longest prompt.
        branches: most tokens of branches in one pass of replay.
        assumed: its `tokens_per_batch` and `tail` are used.
        second: a second model that is loaded too.
    """
    known = assumed or Assumed()
    # More branches than there are heads twice over are never asked for at once.
    branches = min(branches, known.tail * (1 + 2 * shape.all_heads))
    whole = longest + branches
    repeated = 2 * (shape.heads - shape.key_heads) * shape.head * shape.item
    scores = shape.heads * (shape.item + _WIDE) if shape.eager else 0
    batch_rows = max(1.0, known.tokens_per_batch / longest)
    return MemoryPlan(
        weights=shape.weight_bytes + (second.weight_bytes if second is not None else 0),
        prefix=shape.cache_bytes * longest,
        # The cache grows by concatenation, so one layer's keys and values exist twice for a moment.
        tree=branches * (shape.cache_bytes + _activations(shape))
        + whole * (repeated + shape.cache_bytes / max(1, shape.layers))
        + branches * whole * scores,
        mask=branches * whole * (shape.item + 2),
        logits=branches * shape.vocabulary * (shape.item + _LOGIT_COPIES),
        batch=known.tokens_per_batch * (shape.cache_bytes + _activations(shape) + repeated)
        + known.tokens_per_batch * longest * (shape.item + scores)
        + batch_rows * shape.vocabulary * (shape.item + _LOGIT_COPIES),
        host=_WIDE * 2 * pairs * (2 * (shape.layers + 1) * shape.width + shape.all_heads * shape.head) + _ATTRIBUTED,
        kept=_WIDE * (1.0 + 2 * shape.all_heads) * shape.vocabulary * pairs / 2,
    )


def budgets_for(
    memory: float, shape: ModelShape, pairs: int, longest: float, second: ModelShape | None = None
) -> tuple[int, int]:
    """The largest branch budget and token budget whose peak stays below so much memory.

    Args:
        memory: bytes.
        shape: the model.
        pairs: all pairs.
        longest: tokens of the longest prompt.
        second: a second model that is loaded too.

    Raises:
        UndertowError: not even one branch fits; says how much would do.
    """

    def peak(branches: int, tokens: int) -> float:
        return memory_of(shape, pairs, longest, branches, Assumed(tokens_per_batch=tokens), second).peak

    least = max(_LEAST_BATCH, int(longest) + 1)
    if peak(1, least) > memory:
        raise UndertowError(
            f"{memory / GIGABYTE:g} GB do not hold {shape.name} and one branch of replay: give --memory at least "
            f"{_rounded_up(peak(1, least))} or a smaller --dtype."
        )
    branches = _largest(DEFAULT_BRANCH_BUDGET, 1, lambda size: peak(size, least) <= memory)
    return branches, _largest(16_384, least, lambda size: peak(1, size) <= memory)


def padding_of(chat: ChatModel, halves: Sequence[PairSet], tokens_per_batch: int) -> list[tuple[float, float]]:
    """For each half of the pairs: mean tokens of a prompt, and tokens that batches of a side run over those in it."""
    found = []
    for half in halves:
        lengths = [[len(item) for item in chat.renderer.render_many(side)] for side in (half.sensitive, half.controls)]
        run = sum(
            len(batch) * max(side[row] for row in batch)
            for side in lengths
            for batch in batches(side, tokens_per_batch)
        )
        tokens = sum(map(sum, lengths))
        found.append((tokens / (2 * len(half)), run / tokens))
    return found


def _part(name: str, works: Sequence[Work], shape: ModelShape, speed: Speed) -> PartPlan:
    calls = sum(work.calls for work in works)
    flop = sum(shape.flop(work.tokens, work.context, work.logits) for work in works)
    return PartPlan(name, calls, sum(work.tokens for work in works), flop, flop / speed.flops + calls * speed.latency)


def _activations(shape: ModelShape) -> float:
    """Bytes of one block at work, a token: the stream and its norm, queries to values and their result, the MLP."""
    attention = (2 * shape.heads + 2 * shape.key_heads) * shape.head
    return shape.item * (4 * shape.width + attention + 3 * shape.inner) + 2 * _WIDE * shape.width


def _largest(most: int, least: int, fits: object) -> int:
    assert callable(fits)
    low, high = least, max(least, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _rounded_up(size: float) -> str:
    import math

    digits = 10 ** (2 - math.ceil(math.log10(size / GIGABYTE)))
    return f"{math.ceil(size / GIGABYTE * digits) / digits:g}"
