"""What a model may be asked for while it generates, found once by arithmetic instead of being assumed.

Some models number positions in their own way, some cannot be padded on the left, and the cached generation of a few
does not equal a fresh pass over the same tokens. Each is tried on short random sequences; what fails is not used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from undertow.errors import UndertowError

if TYPE_CHECKING:
    from undertow.model.chat import ChatModel

_SHORT = 13
_STEPS = 3
_TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4}
_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, UndertowError)


@dataclass(frozen=True)
class Decoding:
    """How a model may be decoded.

    Attributes:
        positions: it takes position ids that count a prompt's own tokens from 0.
        cache: generation from its cache equals a fresh pass.
        left_padding: prompts padded on the left equal each alone; where not, only prompts of equal length are
            generated together.
    """

    positions: bool
    cache: bool
    left_padding: bool

    def notes(self) -> list[str]:
        """What does not hold, a sentence each."""
        found = []
        if not self.cache:
            found.append("generation from its cache does not equal a fresh pass, so every token is generated without")
        if not self.left_padding:
            found.append("padding on the left changes its replies, so only prompts of equal length are batched")
        return found


def stated_window(model: Any) -> float:
    """The shortest stretch of tokens that some block sees, as far as the configuration states one; else infinity."""
    found = [math.inf]
    for name, value in model.config.get_text_config(decoder=True).to_dict().items():
        limits = any(word in name for word in ("window", "chunk", "local_attention")) and "layers" not in name
        if limits and isinstance(value, int) and not isinstance(value, bool) and value > 1:
            found.append(value)
    return min(found)


class DecodingTrials:
    """Trials of one model, a short one and, for prompts that outgrow a stated window, one at their own length.

    Args:
        chat: the model.
    """

    def __init__(self, chat: ChatModel) -> None:
        self.chat = chat
        self._window = stated_window(chat.model)
        self._found: dict[int, Decoding] = {}

    def at(self, length: int) -> Decoding:
        """What holds for sequences of up to so many tokens; sets whether position ids are passed."""
        tried = _SHORT if length + _STEPS < self._window else 1 << (length - 1).bit_length()
        if tried not in self._found:
            limit = self.chat.context
            self._found[tried] = find_decoding(self.chat, tried if limit is None else min(tried, limit - _STEPS))
        found = self._found[tried]
        self.chat.forward.takes_positions = found.positions
        return found


def find_decoding(chat: ChatModel, length: int = _SHORT) -> Decoding:
    """Try position ids, cache and left padding on two random sequences.

    Args:
        chat: the model; no edits may be attached.
        length: tokens of the longer sequence before it grows.
    """
    vocabulary = chat.model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    lengths = (max(2, length), max(1, length // 2))
    # Special tokens tend to have the lowest ids and mean padding to some models.
    least = min(10, vocabulary - 1)
    rows = [torch.randint(least, vocabulary, (size + _STEPS,), generator=generator).tolist() for size in lengths]
    fresh = [_fresh(chat, row, None) for row in rows]
    chat.forward.takes_positions = chat.forward.accepts_positions
    positions = chat.forward.accepts_positions and _equal(
        chat, fresh, lambda: [_fresh(chat, row, torch.arange(len(row)).unsqueeze(0)) for row in rows]
    )
    wanted = [row[-_STEPS - 1 :] for row in fresh]
    cache = _equal(chat, wanted, lambda: [_grown(chat, [row], positions, True)[0] for row in rows])
    left = _equal(chat, wanted, lambda: list(_grown(chat, rows, positions, cache)))
    return Decoding(positions, cache, left)


def _fresh(chat: ChatModel, row: Sequence[int], positions: Tensor | None) -> Tensor:
    """(last tokens, vocabulary) log-probabilities of one sequence without cache or padding."""
    ids, _ = chat.forward.pad_right([row])
    given = None if positions is None else positions.to(ids.device)
    columns = torch.arange(max(0, len(row) - _SHORT), len(row)).unsqueeze(0)
    logits, _ = chat.forward(ids, position_ids=given, columns=columns)
    return torch.log_softmax(logits[0].float(), -1).cpu()


def _grown(chat: ChatModel, rows: Sequence[Sequence[int]], positions: bool, use_cache: bool) -> Tensor:
    """(rows, steps + 1, vocabulary) log-probabilities of sequences that grow by one token at a time."""
    forward = chat.forward
    ids, mask = forward.pad_left([row[:-_STEPS] for row in rows])
    starts = torch.tensor([len(row) - _STEPS - ids.shape[1] for row in rows]).unsqueeze(1)
    seen: Tensor = ids
    cache: Any = None
    found = []
    for step in range(_STEPS + 1):
        given = None
        if positions:
            width = ids.shape[1] + step
            given = (starts + torch.arange(width - seen.shape[1], width)).clamp_min(0).to(ids.device)
        last = torch.full((len(rows), 1), seen.shape[1] - 1)
        logits, cache = forward(seen, mask, position_ids=given, cache=cache, use_cache=use_cache, columns=last)
        found.append(torch.log_softmax(logits[:, -1].float(), -1).cpu())
        if step == _STEPS:
            break
        fresh = torch.tensor([[row[len(row) - _STEPS + step]] for row in rows], device=ids.device)
        seen = fresh if cache is not None else torch.cat([seen, fresh], dim=1)
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return torch.stack(found, dim=1)


def _equal(chat: ChatModel, wanted: Sequence[Tensor], attempt: Any) -> bool:
    try:
        found = attempt()
    except _ERRORS:
        return False
    tolerance = _TOLERANCES.get(chat.anatomy.dtype, 5e-2)
    return all(
        bool((one - other).abs().max() <= tolerance * other.abs().max())
        for one, other in zip(found, wanted, strict=True)
    )
