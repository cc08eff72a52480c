"""From a loaded model to its anatomy: search, one recorded pass, arithmetic."""

from __future__ import annotations

from typing import Any

from torch import nn

from undertow.errors import CoverageError
from undertow.model.anatomy.blocks import find_blocks, follow
from undertow.model.anatomy.heads import Heads, find_heads
from undertow.model.anatomy.parts import HINTS, Additive, Anatomy, AnatomyHint
from undertow.model.anatomy.trace import BlockTrace, Trace
from undertow.model.anatomy.verify import check_causal, check_stream, match_published
from undertow.model.anatomy.writers import find_additive, ignores_scale


def find_anatomy(model: Any) -> Anatomy:
    """Search a causal language model for its parts and check them by arithmetic on one short forward pass.

    Args:
        model: a Hugging Face causal language model.

    Returns:
        The parts found, with a note for each that is missing.

    Raises:
        CoverageError: the blocks cannot be found, what flows through them is not the model's residual stream, or the
            model is not causal.
    """
    config = model.config.get_text_config(decoder=True)
    kind = config.model_type
    hint = HINTS.get(model.config.model_type) or HINTS.get(kind) or AnatomyHint()
    listed = find_blocks(model, hint, kind)
    try:
        trace = Trace(model, listed)
    except CoverageError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CoverageError(f"A short text cannot be read with {kind!r}: {reason}") from error
    check_stream(trace, kind)
    check_causal(trace, kind)
    state = trace.states[0]
    final_norm = follow(model, hint.final_norm) if hint.final_norm else _final_norm(trace)
    published, normed = match_published(trace, final_norm, kind)
    additive = [_own(find_additive(record), trace.runs) for record in trace.records]
    heads = [
        _declared(block, record, sums, trace.runs, hint) or find_heads(record, sums, trace.runs)
        for block, record, sums in zip(trace.blocks, trace.records, additive, strict=True)
    ]
    attentions = [_attention(block, found, hint) for block, found in zip(trace.blocks, heads, strict=True)]
    anatomy = Anatomy(
        blocks=trace.blocks,
        attentions=attentions,
        projections=[found.projection for found in heads],
        mlps=[
            _mlp(block, record, sums, found, trace.runs, hint)
            for block, record, sums, found in zip(trace.blocks, trace.records, additive, heads, strict=True)
        ],
        final_norm=final_norm if normed else None,
        unembedding=model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None,
        heads=[found.count for found in heads],
        head_sizes=[found.size for found in heads],
        width=state.shape[-1],
        dtype=state.dtype,
        additive=additive,
        published=published,
    )
    _note(anatomy, trace, heads, normed)
    return anatomy


def _own(additive: Additive | None, runs: dict[int, int]) -> Additive | None:
    """The sum, unless a part of it serves several blocks and so cannot be told apart by its module."""
    if additive is not None and all(runs.get(id(writer.module), 0) == 1 for writer in additive.writers):
        return additive
    return None


def _final_norm(trace: Trace) -> nn.Module | None:
    """The norm that is given the last state."""
    return next((call.module for call in trace.after if ignores_scale(call)), None)


def _declared(
    block: nn.Module, record: BlockTrace, additive: Additive | None, runs: dict[int, int], hint: AnatomyHint
) -> Heads | None:
    """Heads at a projection that a hint names, if its arithmetic holds."""
    if hint.projection is None:
        return None
    module = follow(follow(block, hint.attention) if hint.attention else block, hint.projection)
    found = find_heads(record, additive, runs, module)
    return found if found.count else Heads(reason="the declared projection does not end its attention")


def _attention(block: nn.Module, found: Heads, hint: AnatomyHint) -> nn.Module | None:
    return follow(block, hint.attention) if hint.attention is not None else found.attention


def _mlp(
    block: nn.Module,
    record: BlockTrace,
    additive: Additive | None,
    heads: Heads,
    runs: dict[int, int],
    hint: AnatomyHint,
) -> nn.Module | None:
    """The module whose output is the MLP's: what else the block adds, or else its last linear map."""
    if hint.mlp is not None:
        return follow(block, hint.mlp)
    if additive is not None:
        taken = {id(part) for part in (heads.attention, heads.projection) if part is not None}
        others = [
            writer.source or writer.module
            for writer in additive.writers
            if id(writer.module) not in taken and id(writer.source) not in taken
        ]
        last = record.operations[-1].at if record.operations else 0
        begun = {id(call.module): call.begun for call in record.calls}
        after = [module for module in others if begun[id(module)] > last] or others
        # Two modules beside the attention (routed and shared experts, say) are no single MLP.
        alone = len(after) == 1 and (heads.count or len(additive.writers) > 1)
        chosen = after[0] if alone else None
    else:
        linear = [
            call.module
            for call in record.calls
            if call.left is not None
            and call.left.shape == record.entered.shape
            and call.entered is not None
            and call.ended > (record.operations[-1].at if record.operations else 0)
            and any(weight.dim() == 2 for weight in call.module.parameters(recurse=False))
        ]
        chosen = linear[-1] if linear and linear[-1] is not heads.projection else None
    return chosen if chosen is not None and runs.get(id(chosen), 0) == 1 else None


def _note(anatomy: Anatomy, trace: Trace, heads: list[Heads], normed: bool) -> None:
    notes = anatomy.notes
    if trace.skipped:
        notes.append(f"{trace.skipped} blocks do not run on text alone and are left out of the count of blocks")
    if trace.published is None:
        notes.append("the model publishes no hidden states to hold the captured ones against")
    if not normed:
        notes.append("the final norm was not found: state L is still the last block's output")
    for reason in dict.fromkeys(found.reason for found in heads if found.reason):
        where = [str(index) for index, found in enumerate(heads) if found.reason == reason]
        notes.append(f"heads cannot be read in block {_listing(where)}: {reason}")
    for name, parts in (("attention", anatomy.attentions), ("MLP", anatomy.mlps)):
        missing = [
            str(index)
            for index, (part, found) in enumerate(zip(parts, heads, strict=True))
            if part is None and not (name == "attention" and found.reason)
        ]
        if missing:
            notes.append(f"no single {name} module found in block {_listing(missing)}")
    other = [str(index) for index, sums in enumerate(anatomy.additive) if sums is None]
    if other:
        notes.append(f"block {_listing(other)} does more than add outputs of its own parts to the stream")
    if anatomy.unembedding is None:
        notes.append("no unembedding module: logits are read from the model's own output")


def _listing(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"
