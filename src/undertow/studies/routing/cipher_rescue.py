"""Part 9: does a head's plain activation, put into the ciphered prompt, bring refusals back?

A head's output is replaced at t_post and at every generated token by what it is at t_post of the plain sensitive
prompt (arXiv 2604.04385, rescue). Beside it the controls that the published study lacks: the head's output on the plain
control, other heads of the same blocks, and a random vector of the same norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from undertow.measure.statistics import Estimate, proportion
from undertow.model import Replace
from undertow.studies.routing.context import Context, Half
from undertow.studies.routing.readings import Array, Head, mean_estimate
from undertow.studies.routing.readouts import Readout
from undertow.studies.routing.result import Rescue

RANDOM_SETS = 4


@dataclass(frozen=True)
class Injection:
    """Something put into heads.

    Attributes:
        name: see `Rescue`.
        parts: (rows, values): which of the n prompts get it, and head -> one vector for each of all n prompts.
    """

    name: str
    parts: tuple[tuple[Array, Mapping[Head, list[Tensor]]], ...] = field(repr=False)


def measure_rescue(
    context: Context, plain: Half, ciphered: Half, heads: Sequence[Head], band: Sequence[Head], readout: Readout
) -> tuple[Rescue, ...]:
    """Refusals of ciphered sensitive prompts, and change of the readout, under every injection.

    Replies are generated with the injection at t_post and at all generated tokens; the readout is read with the
    injection at t_post, by replay.

    Args:
        context: the model and its judge.
        plain, ciphered: the same report pairs.
        heads: the gates.
        band: heads of the band; none for no row.
        readout: fit for ciphered prompts.
    """
    prompts, count = ciphered.prompts("sensitive"), len(ciphered)
    wanted = list(injections(context, plain, heads, band))
    branches: list[list[Replace]] = [[]]
    for injection in wanted:
        branches += [
            [Replace(given, head=head, span="t_post") for head, given in values.items()]
            for _, values in injection.parts
        ]
    read = context.read(ciphered, "sensitive", branches, readout=readout)
    found = [
        Rescue("nothing", proportion(int(ciphered.sensitive.refused.sum()), count), Estimate(0.0, 0.0, 0.0, count))
    ]
    column = 1
    for injection in wanted:
        refused, change = np.zeros(count, dtype=bool), np.zeros(count)
        for rows, values in injection.parts:
            edits = [
                Replace([given[row] for row in rows], head=head, span=span)
                for head, given in values.items()
                for span in ("t_post", "generated")
            ]
            with context.chat.edit(*edits):
                replies = context.chat.generate(
                    [prompts[row] for row in rows], max_new_tokens=context.reply_tokens, progress=False
                )
            refused[rows] = context.judge.refused(replies)
            change[rows] = read[rows, column] - read[rows, 0]
            column += 1
        found.append(Rescue(injection.name, proportion(int(refused.sum()), count), mean_estimate(change, context.seed)))
    return tuple(found)


def injections(context: Context, plain: Half, heads: Sequence[Head], band: Sequence[Head]) -> Iterator[Injection]:
    """Everything that is injected; random heads are left out where the model has no others."""
    everyone = np.arange(len(plain))

    def activations(side: str, chosen: Sequence[Head]) -> dict[Head, list[Tensor]]:
        return {head: plain.donors(side, head) for head in chosen}

    yield Injection("gate, plain sensitive", ((everyone, activations("sensitive", heads)),))
    yield Injection("gate, plain control", ((everyone, activations("control", heads)),))
    drawn = random_heads(context, heads, band, min(RANDOM_SETS, len(plain)))
    if drawn:
        # Every prompt has one of the sets, so that prompts stay independent and the share's interval exact.
        parts = [(everyone[place :: len(drawn)], activations("sensitive", one)) for place, one in enumerate(drawn)]
        yield Injection("random heads, plain sensitive", tuple(parts))
    generator = torch.Generator().manual_seed(context.seed)
    vectors = {head: [_like(value, generator) for value in plain.donors("sensitive", head)] for head in heads}
    yield Injection("random vector", ((everyone, vectors),))
    if band:
        yield Injection("band, plain sensitive", ((everyone, activations("sensitive", band)),))


def _like(value: Tensor, generator: torch.Generator) -> Tensor:
    """A random vector of the same norm."""
    drawn = torch.randn(value.shape, generator=generator)
    return drawn * (value.norm() / drawn.norm())


def random_heads(context: Context, heads: Sequence[Head], others: Sequence[Head], sets: int) -> list[tuple[Head, ...]]:
    """Sets of as many heads, of the same blocks where these have enough others and of the nearest blocks where not.

    Args:
        context: the model.
        heads: whose number and blocks are matched; none of them is drawn.
        others: further heads that are not drawn.
        sets: how many sets.

    Returns:
        No set where there are not enough other heads in the model.
    """
    free = [head for head in context.heads if head not in {*heads, *others}]
    if len(free) < len(heads):
        return []
    generator = np.random.default_rng(context.seed)
    found = []
    for _ in range(sets):
        drawn: list[Head] = []
        for block, _ in heads:
            left = [head for head in free if head not in drawn]
            nearest = min(abs(head[0] - block) for head in left)
            near = [head for head in left if abs(head[0] - block) == nearest]
            drawn.append(near[int(generator.integers(len(near)))])
        found.append(tuple(drawn))
    return found
