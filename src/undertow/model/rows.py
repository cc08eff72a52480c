"""Prompts that are decoded together, left-padded: their cache, and how rows are kept, merged and moved on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from undertow.model.program import Frame, Program

if TYPE_CHECKING:
    from undertow.model.forward import Forward


@dataclass
class Rows:
    """A batch in the midst of generation.

    Attributes:
        prompts: each row's prompt, by its number in the program.
        ids: (batch, tokens) of the prompts; of all tokens so far where the model is run without a cache.
        mask: (batch, width), 1 at real tokens; None where nothing is padded.
        starts: absolute token index of each row's first column; negative under left padding.
        width: columns read so far.
        cache: what the model gave back; None where it is run without.
        logits: (batch, vocabulary) of the next token.
        program: the edits in force.
        tokens: token ids (batch) of each step so far.
    """

    prompts: list[int]
    ids: Tensor
    mask: Tensor | None
    starts: list[int]
    width: int
    cache: Any
    logits: Tensor
    program: Program
    tokens: list[Tensor] = field(default_factory=list)


def advance(forward: Forward, rows: Rows, token: Tensor, *, refuse_nan: bool = True) -> None:
    """Read one more token a row; the program's visits must be attached.

    Args:
        forward: the model.
        rows: changed in place.
        token: (batch) ids.
        refuse_nan: False leaves logits that are not numbers to the caller.
    """
    fresh = token.unsqueeze(1).to(rows.ids.device)
    if rows.mask is not None:
        rows.mask = torch.cat([rows.mask, torch.ones_like(rows.mask[:, :1])], dim=1)
    ends = [start + rows.width + 1 for start in rows.starts]
    if rows.cache is None:
        rows.ids = torch.cat([rows.ids, fresh], dim=1)
        ids, starts, width = rows.ids, rows.starts, rows.width + 1
    else:
        ids, starts, width = fresh, [start + rows.width for start in rows.starts], 1
    rows.program.look_at(Frame(rows.prompts, starts, ends, width))
    logits, cache = forward(
        ids,
        rows.mask,
        position_ids=columns_of(starts, width, ids.device),
        cache=rows.cache,
        use_cache=rows.cache is not None,
        columns=torch.full((len(rows.prompts), 1), width - 1),
        refuse_nan=refuse_nan,
    )
    rows.cache = cache if rows.cache is not None else None
    rows.logits = logits[:, -1]
    rows.width += 1


def keep(rows: Rows, chosen: Sequence[int]) -> Rows | None:
    """The chosen rows on their own, without columns that are padding in all of them; None where the cache does not
    let rows be taken out."""
    plain = plain_layers(rows.cache)
    if plain is None:
        return None
    index = torch.tensor(list(chosen))
    cut = max(0, min(-rows.starts[row] for row in chosen))

    def take(tensor: Tensor) -> Tensor:
        return tensor[index.to(tensor.device)]

    mask = None if rows.mask is None else take(rows.mask)[:, cut:]
    return replace(
        rows,
        prompts=[rows.prompts[row] for row in chosen],
        # A merged batch has one column of ids only.
        ids=take(rows.ids)[:, cut:] if rows.ids.shape[1] == rows.width else take(rows.ids),
        mask=None if mask is None or bool(mask.all()) else mask,
        starts=[rows.starts[row] + cut for row in chosen],
        width=rows.width - cut,
        cache=copy_cache([(take(keys)[..., cut:, :], take(values)[..., cut:, :]) for keys, values in plain]),
        logits=take(rows.logits),
        tokens=[take(token) for token in rows.tokens],
    )


def merge(first: Rows, second: Rows) -> Rows | None:
    """Both batches as one, under the first one's program; None where their caches cannot be joined.

    The tokens so far are left out: callers keep them.
    """
    parts = [first, second]
    layers = [plain_layers(part.cache) for part in parts]
    if any(plain is None for plain in layers):
        return None
    width = max(part.width for part in parts)
    added = [width - part.width for part in parts]
    masks = None
    if any(added) or any(part.mask is not None for part in parts):
        masks = torch.cat(
            [
                pad(
                    torch.ones_like(part.ids[:, :1]).expand(-1, part.width) if part.mask is None else part.mask,
                    (more, 0),
                )
                for part, more in zip(parts, added, strict=True)
            ]
        )
    joined = []
    for pairs in zip(*(plain for plain in layers if plain is not None), strict=True):
        keys, values = (
            torch.cat([pad(pair[side], (0, 0, more, 0)) for pair, more in zip(pairs, added, strict=True)])
            for side in (0, 1)
        )
        joined.append((keys, values))
    return replace(
        first,
        prompts=first.prompts + second.prompts,
        # Only the first column is read from here on, for its device: the prompts' own tokens lie in the cache.
        ids=torch.cat([part.ids[:, :1] for part in parts]),
        mask=masks,
        starts=[start - more for part, more in zip(parts, added, strict=True) for start in part.starts],
        width=width,
        cache=copy_cache(joined),
        logits=torch.cat([part.logits for part in parts]),
        tokens=[],
    )


def columns_of(starts: Sequence[int], width: int, device: torch.device) -> Tensor:
    """Position ids (batch, width) of columns whose first lies at each row's start."""
    columns = torch.arange(width).unsqueeze(0) + torch.tensor(list(starts)).unsqueeze(1)
    return columns.clamp_min(0).to(device)


def plain_layers(cache: Any) -> list[tuple[Tensor, Tensor]] | None:
    """Keys and values of a cache that holds every token in order, or None for any other kind."""
    from transformers.cache_utils import DynamicLayer

    if cache is None or not hasattr(cache[1], "layers"):
        return None
    layers = cache[1].layers
    if any(type(layer) is not DynamicLayer or layer.get_seq_length() == 0 for layer in layers):
        return None
    return [(layer.keys, layer.values) for layer in layers]


def copy_cache(layers: list[tuple[Tensor, Tensor]]) -> tuple[str, Any]:
    """A cache of these keys and values."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return ("past_key_values", cache)
