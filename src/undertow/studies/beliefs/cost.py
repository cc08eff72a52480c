"""What a verdict costs: forward floating-point operations and measured seconds a prompt.

An operation is a multiplication or an addition. One prompt of T tokens through b blocks costs

    2 W T + 4 E T^2 + 2 d V k

with W the weights of the b blocks that multiply a token's vector (all their matrices: biases and norms are left out),
E the sum over these blocks of query heads times head size (scores and their use, 2 E T^2 each; masked pairs of tokens
are counted, as kernels that do not skip them compute them), d the width, V the vocabulary and k the tokens whose logits
are computed. A decoded token adds 2 W + 4 E t + 2 d V, t being the tokens it attends to. Padding is not counted.
Embeddings are looked up and cost nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.model.variants import is_quantised
from undertow.studies.beliefs.result import Array

if TYPE_CHECKING:
    from undertow.model import ChatModel
    from undertow.prompts import Prompt

BATCH = 64
BATCHES = 3
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Size:
    """What the formula needs of a model.

    Attributes:
        weights: (L,) matrix weights of every block.
        attention: (L,) query heads times head size of every block.
        unembedding: d V.
    """

    weights: tuple[int, ...]
    attention: tuple[int, ...]
    unembedding: int

    @classmethod
    def of(cls, chat: ChatModel) -> Size | None:
        """None where the formula does not hold: experts of which a token meets a few, blocks without readable softmax
        attention or with weights that are no matrices, packed (quantised) weights, shared blocks.
        """
        anatomy, config = chat.anatomy, chat.model.config.get_text_config(decoder=True)
        experts = any((getattr(config, name, None) or 0) > 1 for name in _EXPERTS)
        blocks = list(anatomy.blocks)
        if (
            experts
            or is_quantised(chat.model)
            or not all(anatomy.heads)
            or len({id(block) for block in blocks}) < len(blocks)
        ):
            return None
        if any(parameter.ndim > 2 for block in blocks for parameter in block.parameters()):
            return None
        weights = [
            sum(parameter.numel() for parameter in block.parameters() if parameter.ndim == 2) for block in blocks
        ]
        spans = [count * size for count, size in zip(anatomy.heads, anatomy.head_sizes, strict=True)]
        unembedding = getattr(anatomy.unembedding, "weight", None)
        if unembedding is None:
            return None
        return cls(tuple(weights), tuple(spans), int(unembedding.numel()))

    def forward(self, tokens: Array, blocks: int | None = None, logits: int = 0) -> Array:
        """Operations (n,) of one pass each over prompts of so many tokens (n,), through the first so many blocks."""
        tokens = np.asarray(tokens, dtype=np.float64)
        weights, attention = sum(self.weights[:blocks]), sum(self.attention[:blocks])
        return np.asarray(2 * weights * tokens + 4 * attention * tokens**2 + 2 * self.unembedding * logits)

    def generation(self, tokens: Array, replies: Array) -> Array:
        """Operations (n,) of a prompt's pass and the decoding of replies of so many tokens (n,), with a cache."""
        tokens, replies = np.asarray(tokens, dtype=np.float64), np.asarray(replies, dtype=np.float64)
        steps = np.maximum(replies - 1, 0)
        # The first reply token comes out of the prompt's own pass; step j attends to T + j tokens.
        attended = steps * tokens + steps * (steps + 1) / 2
        decoding = steps * (2 * sum(self.weights) + 2 * self.unembedding) + 4 * sum(self.attention) * attended
        return np.asarray(self.forward(tokens, logits=1) + decoding)


def prompt_tokens(chat: ChatModel, prompts: Sequence[Prompt]) -> Array:
    """(n,) tokens of every rendered prompt."""
    return np.array([len(item) for item in chat.renderer.render_many(list(prompts))], dtype=np.int64)


def reply_tokens(chat: ChatModel, replies: Sequence[str], most: int) -> Array:
    """(n,) tokens of every reply, its end included, at most so many."""
    counted = [len(chat.tokenizer.encode(reply, add_special_tokens=False)) + 1 for reply in replies]
    return np.minimum(np.array(counted, dtype=np.int64), most)


def counted_flops(work: Callable[[], Any], prompts: int) -> float | None:
    """Operations a prompt that PyTorch counts while the work is done, padding included; None where it sees none."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter knows no formula for the CPU's fused attention; the plain one is made of products that it counts.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    total = counter.get_total_flops()
    return total / prompts if total else None


def timed_batches(prompts: Sequence[Prompt], seed: int) -> list[list[Prompt]]:
    """A few batches of 64 prompts drawn at random; fewer and smaller ones where there are not so many."""
    order = np.random.default_rng(seed).permutation(len(prompts))
    found = [[prompts[row] for row in order[at : at + BATCH]] for at in range(0, BATCH * BATCHES, BATCH)]
    return [batch for batch in found if len(batch) == min(BATCH, len(prompts))]


def seconds_a_prompt(work: Callable[[list[Prompt]], Any], batches: Sequence[list[Prompt]]) -> float:
    """Median over the batches of the wall-clock seconds that the work takes, by the prompts of a batch."""
    import torch

    found = []
    for batch in batches:
        start = time.perf_counter()
        work(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append((time.perf_counter() - start) / len(batch))
    return statistics.median(found)
