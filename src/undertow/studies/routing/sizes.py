"""What the cost of a study depends on in a model: its sizes, and how fast a machine runs it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from undertow.model import ChatModel

ASSUMED_FLOPS = 2e14
ASSUMED_BANDWIDTH = 2e12
_TIMED = 3
_ROWS = 8


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder with softmax attention.

    Attributes:
        name: what tables call it.
        layers: blocks L.
        width: residual stream d.
        heads: query heads of a block H.
        key_heads: key and value heads of a block K.
        head: head size e.
        inner: hidden width of the MLP m.
        vocabulary: V.
        item: bytes of a value.
        block: matrix weights of a block; those of a gated MLP and grouped queries where it is None.
        tied: whether the embedding is the unembedding.
        eager: whether attention scores are held whole.
    """

    name: str
    layers: int
    width: int
    heads: int
    key_heads: int
    head: int
    inner: int
    vocabulary: int
    item: int = 2
    block: int | None = None
    tied: bool = False
    eager: bool = False

    @classmethod
    def of(cls, chat: ChatModel) -> ModelShape:
        """The sizes of an opened model.

        Mixtures of experts count with all their experts, so that time comes out too long; blocks without readable
        attention count as if they had that of the others.
        """
        anatomy = chat.anatomy
        config = chat.model.config.get_text_config(decoder=True)
        heads = max(anatomy.heads, default=0)
        embedding = chat.model.get_input_embeddings().weight
        unembedding = getattr(anatomy.unembedding, "weight", None)
        weights = sum(
            parameter.numel() for block in anatomy.blocks for parameter in block.parameters() if parameter.ndim > 1
        )
        inner = next(
            (
                size
                for name in ("intermediate_size", "n_inner", "ffn_dim")
                if isinstance(size := _size(config, name), int)
            ),
            4 * chat.width,
        )
        key_heads = _size(config, "num_key_value_heads")
        return cls(
            chat.name,
            chat.layers,
            chat.width,
            heads,
            key_heads if isinstance(key_heads, int) and 0 < key_heads <= heads else heads,
            max(anatomy.head_sizes, default=0),
            inner,
            int(embedding.shape[0]),
            torch.empty(0, dtype=chat.dtype).element_size(),
            weights // max(1, chat.layers),
            unembedding is None or unembedding is embedding,
            getattr(config, "_attn_implementation", None) == "eager",
        )

    @property
    def matrices(self) -> int:
        """Weights that a token of a pass is multiplied by, the unembedding left out."""
        if self.block is not None:
            return self.layers * self.block
        attention = 2 * self.heads * self.head + 2 * self.key_heads * self.head
        return self.layers * self.width * (attention + 3 * self.inner)

    @property
    def unembedding(self) -> int:
        """d V."""
        return self.width * self.vocabulary

    @property
    def parameters(self) -> int:
        """All weights; norms and biases are left out."""
        return self.matrices + self.unembedding * (1 if self.tied else 2)

    @property
    def all_heads(self) -> int:
        """L H."""
        return self.layers * self.heads

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return self.parameters * self.item

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values of one token: 2 L K e values."""
        return 2 * self.layers * self.key_heads * self.head * self.item

    def flop(self, tokens: float, context: float, logits: float = 0) -> float:
        """Operations of a pass over so many tokens, a multiplication and an addition being two.

        Args:
            tokens: tokens run.
            context: tokens that each of them is held against in attention, masked ones included.
            logits: tokens whose logits are computed.
        """
        attention = 4 * self.layers * self.heads * self.head * tokens * context
        return 2 * self.matrices * tokens + attention + 2 * self.unembedding * logits


SHAPES = (
    ModelShape("8B", 36, 4096, 32, 8, 128, 12_288, 151_936),
    ModelShape("72B", 80, 8192, 64, 8, 128, 29_568, 152_064),
)
"""Two sizes of today's open-weight chat models, in bfloat16."""


@dataclass(frozen=True)
class Speed:
    """How fast a machine runs a model: a pass takes its operations over `flops`, and `latency` besides.

    Attributes:
        flops: floating-point operations a second.
        latency: seconds that even a pass over one token takes.
        source: where the two come from, in words.
    """

    flops: float
    latency: float
    source: str

    @classmethod
    def assumed(cls, shape: ModelShape, flops: float | None = None) -> Speed:
        """A stated rate; a pass reads every weight once from memory."""
        rate = ASSUMED_FLOPS if flops is None else flops
        return cls(
            rate,
            shape.weight_bytes / ASSUMED_BANDWIDTH,
            f"{'assumed' if flops is None else 'as stated'}: {rate / 1e12:g} TFLOP/s, weights read at "
            f"{ASSUMED_BANDWIDTH / 1e12:g} TB/s",
        )

    @classmethod
    def measured(cls, chat: ChatModel, tokens: int = 64) -> Speed:
        """From a few passes of an opened model: one token alone, and a batch of prompts of so many tokens."""
        shape = ModelShape.of(chat)
        vocabulary = chat.model.get_input_embeddings().weight.shape[0]
        tokens = max(2, tokens if chat.context is None else min(tokens, chat.context))
        generator = torch.Generator().manual_seed(0)

        def seconds(rows: int, width: int) -> float:
            ids = torch.randint(0, vocabulary, (rows, width), generator=generator).to(chat.forward.device)
            columns = torch.full((rows, 1), width - 1)
            chat.forward(ids, columns=columns)
            found = []
            for _ in range(_TIMED):
                begun = time.perf_counter()
                chat.forward(ids, columns=columns)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                found.append(time.perf_counter() - begun)
            return statistics.median(found)

        least, full = seconds(1, 1), seconds(_ROWS, tokens)
        rate = shape.flop(_ROWS * tokens, tokens, _ROWS) / max(full - least, 0.05 * full)
        return cls(rate, least, f"measured here: {rate / 1e9:.3g} GFLOP/s, {1e3 * least:.3g} ms a pass besides")


def _size(config: object, name: str) -> object:
    try:
        return getattr(config, name, None)
    except RuntimeError:
        # Some configurations name no size where blocks differ in it.
        return None
