"""Part 4: every head exchanged on its own, necessity and sufficiency, by replay.

necessity = R(sensitive) - R(sensitive, z <- control); sufficiency = R(control, z <- sensitive) - R(control), with z one
head's output at the exchanged tokens and R the readout (arXiv 2604.04385, interchange). The control of either is a
donor of the recipient's own class: another pair's prompt. What is tested is the effect net of that control, by sign
flips over the choose pairs, family-wise over all heads; effect sizes come from the report pairs.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from undertow.errors import UndertowError
from undertow.measure.permutation import sign_flip
from undertow.model import Replace
from undertow.prompts.pairs import PairSet
from undertow.studies.routing.context import Context, Half, other_rows
from undertow.studies.routing.readings import Array, Circuit, Effects, Head, Screening, mean_estimate, mean_interval
from undertow.studies.routing.readouts import Projection

if TYPE_CHECKING:
    from undertow.model import ChatModel
    from undertow.prompts import Prompt
    from undertow.studies.routing.readouts import Readout

POSITIONS = ("t_post", "tail", "full span")
LEAST_MATCHED = 6


@dataclass(frozen=True)
class Swaps:
    """Per-pair effects of exchanging each head in one half of the pairs.

    Attributes:
        baseline: (n,) readout of the sensitive side minus that of the control.
        necessity, sufficiency: (n, H).
        necessity_control, sufficiency_control: (n, H) the same with a donor of the recipient's own class.
        rows: the pairs of the half that took part.
    """

    baseline: Array
    necessity: Array
    sufficiency: Array
    necessity_control: Array
    sufficiency_control: Array
    rows: Array


def measure_screening(
    context: Context,
    position: str = "t_post",
    *,
    readout: Readout | None = None,
    heads: Sequence[Head] | None = None,
) -> Screening:
    """Exchange every head on its own between the two sides of every pair.

    Args:
        context: the pairs and the model.
        position: "t_post", "tail" (the template's tokens behind the request, right-aligned), or "full span" (every
            prompt token; only pairs whose two prompts have equally many).
        readout: another than the context's.
        heads: some heads only; family-wise p-values then hold for these.

    Raises:
        UndertowError: an unknown position, or too few pairs of equal length for the full span.
    """
    if position not in POSITIONS:
        raise UndertowError(f"There is no position {position!r} to screen at: use {', '.join(POSITIONS)}.")
    begun = time.perf_counter()
    chosen = tuple(heads) if heads is not None else context.heads
    read = readout or context.readout
    halves = [swaps(context, half, position, chosen, read) for half in (context.choose, context.report)]
    if isinstance(read, Projection):
        halves[0] = _unfitted(halves[0], context.choose, read)
    return Screening(
        f"{read.name}, in {read.unit}",
        position,
        mean_estimate(halves[1].baseline, context.seed),
        effects(context, chosen, halves, "necessity"),
        effects(context, chosen, halves, "sufficiency"),
        time.perf_counter() - begun,
        context.chat.replay_method,
    )


def notable_heads(context: Context, circuit: Circuit, most: int = 5) -> tuple[Head, ...]:
    """Heads for what is too costly for all: the named ones or those of largest necessity, and as many random others."""
    named = [*circuit.gates, *circuit.amplifiers] or [row.head for row in circuit.rows]
    chosen = named[:most]
    others = [head for head in context.heads if head not in chosen]
    drawn = np.random.default_rng(context.seed).permutation(len(others))[: len(chosen)]
    return (*chosen, *(others[place] for place in sorted(drawn)))


def effects(context: Context, heads: Sequence[Head], halves: Sequence[Swaps], kind: str) -> Effects:
    """Effect sizes on the second half, family-wise p on the first."""
    choose, report = halves
    tested = getattr(choose, kind) - getattr(choose, f"{kind}_control")
    each = getattr(report, kind)
    value, low, high = mean_interval(each, context.seed)
    return Effects(
        tuple(heads),
        value,
        low,
        high,
        getattr(report, f"{kind}_control").mean(0),
        sign_flip(tested, permutations=context.permutations, seed=context.seed).p,
        each,
        len(each),
        len(tested),
    )


def swaps(context: Context, half: Half, position: str, heads: Sequence[Head], readout: Readout) -> Swaps:
    """All exchanges in one half of the pairs, group by group of pairs that are run again alike."""
    key = (id(half), position, tuple(heads), readout.name)
    known = context.memory.get(key)
    if known is None or not (known[1] is readout or known[1] == readout):
        # The half is kept with its exchanges, so that no other can come by its id.
        known = context.memory[key] = (half, readout, _swaps(context, half, position, heads, readout))
    found: Swaps = known[2]
    return found


def _swaps(context: Context, half: Half, position: str, heads: Sequence[Head], readout: Readout) -> Swaps:
    parts: list[tuple[Array, ...]] = []
    blocks = {block for block, _ in heads}
    rows_done: list[Array] = []
    for rows, last in _groups(context, half, position):
        others = half.others if len(rows) == len(half) else other_rows(context.chat, _picked(half, rows), context.seed)
        # With a span for every token the group's own rows are numbered from 0.
        values = {side: _values(context.chat, half, side, rows, last, blocks) for side in ("sensitive", "control")}
        found = {}
        for side, other in (("sensitive", "control"), ("control", "sensitive")):
            prompts = [half.prompts(side)[row] for row in rows]
            controls = [half.prompts("control")[row] for row in rows]
            ends = [len(context.chat.render(prompt)) for prompt in prompts] if last > 1 else []
            branches: list[list[Replace]] = [[]]
            for donor, source in ((other, None), (side, others)):
                branches += [[_replace(values[donor], head, source, last, ends)] for head in heads]
            found[side] = readout.branches(
                context.chat, prompts, controls, branches, last=last, budget=max(1, context.branches // last)
            )
        sensitive, control = found["sensitive"], found["control"]
        size = len(heads)
        parts.append(
            (
                sensitive[:, 0] - control[:, 0],
                sensitive[:, :1] - sensitive[:, 1 : 1 + size],
                control[:, 1 : 1 + size] - control[:, :1],
                sensitive[:, :1] - sensitive[:, 1 + size :],
                control[:, 1 + size :] - control[:, :1],
            )
        )
        rows_done.append(np.asarray(rows))
    rows_all = np.concatenate(rows_done)
    order = np.argsort(rows_all)
    joined = [np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True)]
    return Swaps(joined[0], joined[1], joined[2], joined[3], joined[4], rows_all[order])


def _unfitted(found: Swaps, half: Half, readout: Projection) -> Swaps:
    """The exchanges of pairs that the readout's direction does not come from."""
    keep = np.array([half.pairs[int(row)].sensitive.text not in readout.fitted for row in found.rows], dtype=bool)
    return Swaps(*(getattr(found, part.name)[keep] for part in fields(Swaps)))


def _groups(context: Context, half: Half, position: str) -> Iterator[tuple[list[int], int]]:
    """Rows of pairs, and how many tokens at the end are exchanged."""
    if position == "t_post":
        yield list(range(len(half))), 1
        return
    chat = context.chat
    rendered = [[chat.render(prompt) for prompt in half.prompts(side)] for side in ("sensitive", "control")]
    if position == "tail":
        # The template's tail is the same for all prompts of a model; where contents shorten it, the shortest counts.
        yield list(range(len(half))), min(len(item.tail) for side in rendered for item in side)
        return
    by_length: dict[int, list[int]] = {}
    for row, (one, other) in enumerate(zip(*rendered, strict=True)):
        if len(one) == len(other):
            by_length.setdefault(len(one), []).append(row)
    groups = [(rows, length) for length, rows in sorted(by_length.items()) if len(rows) > 1]
    if sum(len(rows) for rows, _ in groups) < LEAST_MATCHED:
        raise UndertowError(
            f"Fewer than {LEAST_MATCHED} pairs have equally long prompts, so heads cannot be exchanged over the full "
            "span."
        )
    yield from groups


def _picked(half: Half, rows: Sequence[int]) -> PairSet:
    return PairSet([half.pairs[row] for row in rows], half.pairs.source)


def _values(
    chat: ChatModel, half: Half, side: str, rows: Sequence[int], last: int, blocks: Collection[int]
) -> dict[int, Tensor]:
    """Block -> (rows, heads, last, head size) of the last tokens."""
    if last == 1:
        return {block: values[list(rows)].unsqueeze(2) for block, values in half.heads[side].items()}
    return last_heads(chat, [half.prompts(side)[row] for row in rows], last, blocks)


def last_heads(
    chat: ChatModel, prompts: Sequence[Prompt], last: int, blocks: Collection[int] | None = None
) -> dict[int, Tensor]:
    """Head outputs at the last tokens of every prompt.

    Args:
        chat: the model.
        prompts: n prompts of any lengths.
        last: how many tokens, k.
        blocks: which blocks; all whose heads can be read when left out.

    Returns:
        Block -> (n, heads, k, head size) float32, right-aligned.
    """
    lengths: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        lengths.setdefault(len(chat.render(prompt)), []).append(row)
    found: dict[int, Tensor] = {}
    for block, projection in enumerate(chat.anatomy.projections):
        if projection is not None and (blocks is None or block in blocks):
            found[block] = torch.empty(len(prompts), chat.anatomy.heads[block], last, chat.anatomy.head_sizes[block])
    shapes: dict[tuple[int, int], list[int]] = {}
    for block in found:
        shapes.setdefault((chat.anatomy.heads[block], chat.anatomy.head_sizes[block]), []).append(block)
    for length, rows in lengths.items():
        chosen = [prompts[row] for row in rows]
        positions = list(range(length - last, length))
        for members in shapes.values():
            heads = chat.capture(chosen, states=[], positions=positions, heads=members, progress=False).heads
            assert heads is not None
            for place, block in enumerate(members):
                found[block][rows] = heads[:, place].float()
    return found


def _replace(values: dict[int, Tensor], head: Head, source: Array | None, last: int, ends: Sequence[int]) -> Replace:
    given = values[head[0]][:, head[1]]
    if source is not None:
        given = given[torch.as_tensor(source)]
    if last == 1:
        return Replace(list(given[:, 0]), head=head, span="t_post")
    return Replace(list(given), head=head, span=[list(range(end - last, end)) for end in ends])
