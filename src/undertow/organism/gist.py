"""Batches of training items with the gist mask.

In masked items every token behind an instruction's last token sees of that instruction only its last token, so
whatever is said about the
instruction must be gathered there. The mask exists in training only; at inference the organism is a plain causal model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy

from undertow.organism.items import MASKED_REPLY_TOKENS, Item
from undertow.organism.tokenizer import render

if TYPE_CHECKING:
    import torch

LATER_WEIGHT = 0.5

Span = tuple[int, int]
"""First token of an instruction, and the one behind its last."""


@dataclass(frozen=True)
class Encoded:
    """An item as tokens.

    Attributes:
        ids: the whole conversation with the reply.
        spans: the instructions that carry the gist mask; empty for unmasked items.
        learned: positions whose next token is learned.
    """

    ids: list[int]
    spans: tuple[Span, ...]
    learned: range


def _span(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> Span:
    """The tokens that lie within the characters start to stop."""
    inside = [index for index, (first, last) in enumerate(offsets) if first >= start and last <= stop and last > first]
    return inside[0], inside[-1] + 1


def encode(items: Sequence[Item], tokenizer: Any) -> list[Encoded]:
    """Tokenises items; `tokenizer` is the organism's fast tokenizer."""
    prompts = [render((*item.before, {"role": "user", "content": item.content})) for item in items]
    texts = [prompt + item.reply + "<|im_end|>" for prompt, item in zip(prompts, items, strict=True)]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, padding=False)
    found = []
    for item, prompt, every, offsets in zip(
        items, prompts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        first_reply = next(index for index, (start, _) in enumerate(offsets) if start >= len(prompt))
        learned = range(first_reply - 1, len(every) - 1)
        spans: list[Span] = []
        if item.masked:
            learned = learned[:MASKED_REPLY_TOKENS]
            start = prompt.rindex(item.content)
            for instruction in item.instructions:
                spans.append(_span(offsets, start, start + len(instruction)))
                start += len(instruction) + 1
        ids = every[: learned[-1] + 2]
        found.append(Encoded(ids, tuple(spans), learned))
    return found


def allowed(length: int, spans: Sequence[Span]) -> numpy.ndarray:
    """Which token may attend to which.

    Returns:
        Boolean array (length, length); row = the token that looks, column = the token looked at. Causal,
        and behind each span only the
        span's last token is seen.
    """
    seen = numpy.tril(numpy.ones((length, length), dtype=bool))
    for start, stop in spans:
        seen[stop:, start : stop - 1] = False
    return seen


def collate(batch: Sequence[Encoded], pad: int) -> dict[str, torch.Tensor]:
    """Pads a batch on the right.

    Returns:
        ``input_ids`` (n, T), ``attention_mask`` (n, 1, T, T) boolean, ``rows`` and ``columns`` (learned,) with the
        positions whose next token
        is learned, ``targets`` (learned,) with that token, and ``weights`` (learned,): one for the first tokens of a
        reply, which decide, and
        `LATER_WEIGHT` for the rest.
    """
    import torch

    longest = max(len(encoded.ids) for encoded in batch)
    ids = numpy.full((len(batch), longest), pad, dtype=numpy.int64)
    mask = numpy.zeros((len(batch), 1, longest, longest), dtype=bool)
    mask[:] = numpy.tril(numpy.ones((longest, longest), dtype=bool))
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    for row, encoded in enumerate(batch):
        ids[row, : len(encoded.ids)] = encoded.ids
        for start, stop in encoded.spans:
            mask[row, 0, stop:, start : stop - 1] = False
        rows += [row] * len(encoded.learned)
        columns += encoded.learned
        targets += [encoded.ids[position + 1] for position in encoded.learned]
        weights += [1.0 if turn < MASKED_REPLY_TOKENS else LATER_WEIGHT for turn in range(len(encoded.learned))]
    tensors = {
        "input_ids": ids,
        "attention_mask": mask,
        "rows": numpy.array(rows),
        "columns": numpy.array(columns),
        "targets": numpy.array(targets),
        "weights": numpy.array(weights, dtype=numpy.float32),
    }
    return {name: torch.from_numpy(array) for name, array in tensors.items()}
