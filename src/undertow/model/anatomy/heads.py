"""Each block's attention output projection and its heads, found by what runs and in which order.

The projection is the first linear map that runs after the softmax over tokens, takes in heads x head size numbers a
token, and whose input nothing before the softmax has seen. Whether its output is the attention's contribution to the
stream is settled by arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undertow.model.anatomy.parts import Additive
from undertow.model.anatomy.trace import BlockTrace, Call


@dataclass(frozen=True)
class Heads:
    """What was found of a block's attention.

    Attributes:
        projection: the output projection; None where heads cannot be read.
        attention: the module whose output is the attention's contribution, before any post-norm; None if none is.
        count: number of heads, 0 where they cannot be read.
        size: width of one head's output, 0 where they cannot be read.
        reason: why heads cannot be read; empty where they can or where there are none.
    """

    projection: nn.Module | None = None
    attention: nn.Module | None = None
    count: int = 0
    size: int = 0
    reason: str = ""


def find_heads(
    record: BlockTrace, additive: Additive | None, runs: dict[int, int], declared: nn.Module | None = None
) -> Heads:
    """Find the projection of one block.

    Args:
        record: what one pass through the block left.
        additive: how the block adds to the stream, if it does.
        runs: how often each module ran in the whole pass.
        declared: the only module that may be the projection, if one was declared.
    """
    if not record.operations:
        return Heads(reason="no softmax attention runs in it")
    ends: dict[int, tuple[Call, int]] = {}
    found = False
    for operation in record.operations:
        for call in _linear_after(record, operation.at):
            if declared is not None and call.module is not declared:
                continue
            if not _fits(call, operation.heads, operation.size):
                continue
            found = True
            if _contributes(record, additive, call):
                ends[operation.at] = (call, operation.heads)
                break
    if not ends and found:
        return Heads(reason="its attention's output does not go straight into the stream")
    if not ends:
        return Heads(reason="no plain output projection ends its attention (fused or gated projection)")
    if len({id(call.module) for call, _ in ends.values()}) > 1:
        return Heads(reason="it holds more than one attention")
    call, heads = next(iter(ends.values()))
    if runs.get(id(call.module), 0) > 1:
        return Heads(reason="its attention is shared with another block or runs twice")
    assert call.entered is not None
    return Heads(call.module, _attention(record, call), heads, call.entered.shape[-1] // heads)


def _linear_after(record: BlockTrace, moment: int) -> list[Call]:
    """Single-input calls that begin after a moment, in order, but for those whose input was there before it."""
    earlier = [call.entered for call in record.calls if call.begun < moment and call.entered is not None]
    earlier.append(record.entered)
    found = []
    for call in sorted(record.calls, key=lambda one: (one.begun, -one.ended)):
        if call.begun < moment or call.entered is None or call.left is None or call.entered.dim() != 3:
            continue
        if call.left.shape != record.entered.shape or not _holds_weights(call.module):
            continue
        if any(other.shape == call.entered.shape and torch.equal(other, call.entered) for other in earlier):
            continue
        found.append(call)
    return found


def _fits(call: Call, heads: int, size: int | None) -> bool:
    assert call.entered is not None
    width = call.entered.shape[-1]
    if width % heads or (size is not None and width != heads * size):
        return False
    return slices_sum(call, heads)


def slices_sum(call: Call, heads: int) -> bool:
    """Whether the heads' slices, each sent through the projection alone, sum to its output."""
    entered, left = call.entered, call.left
    assert entered is not None and left is not None
    size = entered.shape[-1] // heads
    alone = torch.zeros(heads + 1, *entered.shape[1:], dtype=entered.dtype, device=entered.device)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        alone[head, :, part] = entered[0, :, part]
    try:
        with torch.no_grad():
            sent = call.module(alone)
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError):
        return False
    if not isinstance(sent, Tensor) or sent.shape[1:] != left.shape[1:]:
        return False
    sent = sent.float()
    total = (sent[:heads] - sent[heads]).sum(0) + sent[heads]
    tolerance = 1e-4 if entered.dtype in (torch.float32, torch.float64) else 5e-2
    scale = left.float().abs().max().clamp_min(1e-6)
    return bool(((total - left[0].float()).abs().max() / scale) < tolerance)


def _contributes(record: BlockTrace, additive: Additive | None, call: Call) -> bool:
    """Whether a projection's output goes on unchanged: added to the stream, normed and added, or normed with it."""
    left = call.left
    assert left is not None
    if additive is not None:
        ends = {id(part) for writer in additive.writers for part in (writer.module, writer.source) if part is not None}
        outputs = [one.left for one in record.calls if id(one.module) in ends and one.left is not None]
        return any(_close(left, output) for output in outputs)
    for other in record.calls:
        if other.begun < call.ended or other.entered is None or other.entered.shape != left.shape:
            continue
        # A block that norms the stream itself gives the norm the sum of both.
        if _close(other.entered - record.entered, left) or _close(other.entered, left):
            return True
    return _attention(record, call) is not call.module


def _attention(record: BlockTrace, call: Call) -> nn.Module:
    """The outermost module around a projection that returns the projection's own output."""
    assert call.left is not None
    around = [
        other
        for other in record.calls
        if other.begun <= call.begun and other.ended >= call.ended and other.left is not None
    ]
    for other in sorted(around, key=lambda one: one.begun):
        assert other.left is not None
        if other.left.shape == call.left.shape and torch.equal(other.left, call.left):
            return other.module
    return call.module


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    tolerance = 1e-4 if one.dtype in (torch.float32, torch.float64) else 3e-2
    scale = other.float().abs().max().clamp_min(1e-6)
    return bool((one.float() - other.float()).abs().max() / scale < tolerance)


def _holds_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())
