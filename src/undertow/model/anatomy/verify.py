"""What must hold of a recording before a number is read off the model: one stream, its own, causal, no leaks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undertow.errors import CoverageError
from undertow.model.anatomy.trace import KEPT, ROWS, TOKENS, Trace

_AGREE = {torch.float64: 1e-5, torch.float32: 1e-4}


def check_stream(trace: Trace, model_type: str) -> None:
    """Refuse blocks that do not pass on one residual stream of constant width.

    Raises:
        CoverageError: they do not.
    """
    states = trace.states
    shapes = {state.shape for state in states}
    if len(shapes) != 1 or states[0].dim() != 3 or states[0].shape[:2] != (ROWS, TOKENS) or trace.streams > 1:
        raise CoverageError(
            f"The blocks of {model_type!r} do not pass on one residual stream of constant width "
            "(hyper-connections, several streams, or other tokens than the prompt's): it is not covered."
        )
    for number, (record, following) in enumerate(zip(trace.records, states[1:], strict=True)):
        if record.left is not None and not _equal(record.left, following):
            raise CoverageError(
                f"The model changes the stream of {model_type!r} between blocks {number} and {number + 1}, "
                "so that a state is not the block's output: it is not covered."
            )


def check_causal(trace: Trace, model_type: str) -> None:
    """Refuse models in which a token sees what comes after it, or padding leaks into the tokens before it.

    Raises:
        CoverageError: either happens.
    """
    for state in trace.states:
        if not _agree(state[0, :-1], state[1, :-1]):
            raise CoverageError(
                f"In {model_type!r} earlier tokens see later ones: it is not a causal language model as configured "
                "(an encoder wants is_decoder=True in its configuration)."
            )
        if not _agree(state[0, :KEPT], state[2, :KEPT]):
            raise CoverageError(f"In {model_type!r} padding changes the states of the tokens before it: not covered.")


def match_published(trace: Trace, final_norm: nn.Module | None, model_type: str) -> tuple[list[int | None], bool]:
    """Which state each of the model's own hidden states is.

    Models publish the input of every block and, last, the normed output; a few publish the outputs instead.

    Returns:
        For each published tensor its state, None for one that has been through the final norm; and whether
        ``final_norm`` is what the last one has been through (or there was no need to know).

    Raises:
        CoverageError: a published tensor is none of the captured states.
    """
    own = trace.published
    if own is None:
        return [], True
    states = trace.states
    layers = len(states) - 1
    for offset in (0, 1):
        inner = list(range(offset, offset + len(own) - 1))
        if len(inner) < layers - 1 or max(inner, default=0) > layers:
            continue
        if all(_equal(states[state], tensor) for state, tensor in zip(inner, own, strict=False)):
            last, known = _last(states[layers], own[-1], final_norm, layers)
            return [*inner, last], known
    raise CoverageError(f"The states captured at the blocks of {model_type!r} are not the model's own hidden states.")


def _last(state: Tensor, own: Tensor, final_norm: nn.Module | None, layers: int) -> tuple[int | None, bool]:
    if _equal(state, own):
        return layers, True
    if final_norm is None:
        return None, False
    with torch.no_grad():
        normed = final_norm(state)
    return None, normed.shape == own.shape and bool(_agree(normed, own.to(normed.device)))


def _equal(captured: Tensor, own: Tensor) -> bool:
    return captured.shape == own.shape and torch.equal(captured, own.to(captured.device))


def _agree(one: Tensor, other: Tensor) -> bool:
    tolerance = _AGREE.get(one.dtype, 5e-2)
    scale = other.float().abs().max().clamp_min(1e-6)
    return bool((one.float() - other.float()).abs().max() / scale <= tolerance)
