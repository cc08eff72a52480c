"""How a block changes the residual stream: which modules' outputs it adds, found by arithmetic.

The output of most blocks is a sum: what came in, plus the outputs of a few modules inside (attention or its post-norm,
MLP or its post-norm), each times a constant. Which modules and which constants is solved for by least squares over
what one pass recorded; a solution counts only if it is exact to rounding.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from undertow.model.anatomy.parts import Additive, Writer
from undertow.model.anatomy.trace import BlockTrace, Call

_MOST_WRITERS = 3
_SAMPLED = 768
_LEAST_SCALE = 1e-4
_EXACT = {torch.float64: 1e-6, torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def distinct_outputs(record: BlockTrace) -> list[Call]:
    """The outermost call behind each distinct output of the stream's size, in the order in which they ended.

    Some modules return (rows x tokens, d_model), which counts.
    """
    found: list[Call] = []
    for call in sorted(record.calls, key=lambda one: (one.begun, -one.ended)):
        if call.left is None or call.left.numel() != record.entered.numel() or not call.left.is_floating_point():
            continue
        if call.left.shape[-1] != record.entered.shape[-1]:
            continue
        if _same(call.left, record.entered) or any(_same(call.left, other.left) for other in found):
            continue
        found.append(call)
    return sorted(found, key=lambda one: one.ended)


def find_additive(record: BlockTrace) -> Additive | None:
    """The sum that a block's output is, or None where it is no such sum.

    Args:
        record: what one pass through the block left.
    """
    assert record.left is not None
    candidates = distinct_outputs(record)
    target = _flat(record.left)
    entered = _flat(record.entered)
    columns = [_flat(call.left) for call in candidates if call.left is not None]
    tolerance = _EXACT.get(record.entered.dtype, 3e-2)
    step = max(1, target.numel() // _SAMPLED)
    for count in range(1, min(_MOST_WRITERS, len(candidates)) + 1):
        # Late outputs first: a sum ends with what ran last.
        for chosen in combinations(reversed(range(len(candidates))), count):
            terms = [entered, *(columns[index] for index in chosen)]
            scales = _solve([term[::step] for term in terms], target[::step], tolerance)
            if scales is None:
                continue
            scales = _solve(terms, target, tolerance)
            if scales is None:
                continue
            writers = [
                Writer(candidates[index].name, candidates[index].module, scale, _normed(record, candidates[index]))
                for index, scale in zip(chosen, scales[1:], strict=True)
            ]
            order = {candidates[index].module: candidates[index].ended for index in chosen}
            return Additive(scales[0], tuple(sorted(writers, key=lambda one: order[one.module])))
    return None


def _solve(terms: list[Tensor], target: Tensor, tolerance: float) -> list[float] | None:
    """Factors of a sum that is exact to rounding, each well away from 0; None where there is none."""
    matrix = torch.stack(terms, dim=1)
    sizes = matrix.norm(dim=0)
    if bool((sizes == 0).any()):
        return None
    solution = torch.linalg.lstsq(matrix / sizes, target.unsqueeze(1)).solution[:, 0] / sizes
    scales = [_rounded(float(scale)) for scale in solution]
    if min(abs(scale) for scale in scales) < _LEAST_SCALE:
        return None
    error = (matrix @ torch.tensor(scales, dtype=matrix.dtype) - target).abs().max()
    return scales if bool(error <= tolerance * target.abs().max()) else None


def _rounded(scale: float) -> float:
    """1 where rounding alone keeps it off 1."""
    return 1.0 if abs(scale - 1) < 1e-4 else scale


def _normed(record: BlockTrace, call: Call) -> torch.nn.Module | None:
    """The module whose output a writer was given, where the writer is a norm over it."""
    if call.entered is None or call.left is None or call.entered.shape != record.entered.shape:
        return None
    givers = [other for other in record.calls if other.ended < call.begun and _same(other.left, call.entered)]
    if not givers or not ignores_scale(call):
        return None
    return min(givers, key=lambda one: (one.begun, -one.ended)).module


def ignores_scale(call: Call) -> bool:
    """Whether a module is a norm: what it returns stays the same when a large input doubles."""
    assert call.entered is not None
    large = call.entered * (30 / call.entered.float().pow(2).mean().sqrt().clamp_min(1e-20)).to(call.entered.dtype)
    try:
        with torch.no_grad():
            once, twice = call.module(large), call.module(2 * large)
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError):
        return False
    if not isinstance(once, Tensor) or once.shape != call.entered.shape:
        return False
    return bool((twice.float() - once.float()).abs().max() <= 1e-2 * once.float().abs().max())


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape and torch.equal(one, other)


def _flat(values: Tensor) -> Tensor:
    return values.detach().double().flatten().cpu()
