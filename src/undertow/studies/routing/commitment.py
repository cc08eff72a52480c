"""Part 8: at which state the decision becomes fixed, by exchanging whole states between the sides of a pair.

Exchanging t_post tells from where on the decision lies there; exchanging the tokens before it tells until where they
can still change it. The control is a donor of the recipient's own class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from undertow.errors import UndertowError
from undertow.measure.statistics import clopper_pearson
from undertow.model import Replace
from undertow.studies.routing.context import SIDES, Context
from undertow.studies.routing.readings import Array
from undertow.studies.routing.replies import evenly, judged_tokens
from undertow.studies.routing.result import Commitment, CommitmentCurve

if TYPE_CHECKING:
    from undertow.prompts import Prompt

POSITIONS = ("t_post", "t_inst", "earlier")
TOWARD = {"answer": ("sensitive", "control"), "refusal": ("control", "sensitive")}
"""Where a reply is pushed -> the recipient's side, and the donor's within its pair."""

DONORS = ("pair", "same class")
MOST = 48
MOST_EARLIER = 40
LEAST = 4
CHUNK = 8


@dataclass(frozen=True)
class Swap:
    """One recipient and its donor.

    Attributes:
        toward: "answer" or "refusal".
        donor: "pair" or "same class".
        row: the recipient's pair; its control is what a loss reads.
        recipient, giver: (side, row) of both prompts.
    """

    toward: str
    donor: str
    row: int
    recipient: tuple[str, int]
    giver: tuple[str, int]


@dataclass(frozen=True)
class Exchange:
    """All swaps at one position, with the model and the pairs they are made on.

    Attributes:
        context: model and pairs.
        position: "t_post", "t_inst" or "earlier".
        swaps: m swaps.
        spans: (m,) absolute token indices that are exchanged in each recipient.
    """

    context: Context
    position: str
    swaps: list[Swap]
    spans: list[range] = field(repr=False)

    def prompts(self, rows: Sequence[int]) -> list[Prompt]:
        """The recipients."""
        half = self.context.report
        return [half.prompts(self.swaps[row].recipient[0])[self.swaps[row].recipient[1]] for row in rows]

    def given(self, rows: Sequence[int], states: Sequence[int]) -> list[Tensor]:
        """The donors' states, a tensor (states, tokens, d) a swap, float32."""
        half = self.context.report
        givers = [self.swaps[row].giver for row in rows]
        if self.position != "earlier":
            return [self._held(giver, states) for giver in givers]
        found: dict[int, Tensor] = {}
        for length in {len(self.spans[row]) for row in rows}:
            members = [place for place, row in enumerate(rows) if len(self.spans[row]) == length]
            prompts = [half.prompts(givers[place][0])[givers[place][1]] for place in members]
            values = self.context.chat.capture(prompts, list(states), list(range(length)), progress=False).values
            found |= dict(zip(members, values.float(), strict=True))
        return [found[place] for place in range(len(rows))]

    def active(self, state: int) -> list[int]:
        """The swaps that change anything: two prompts may have the very same state, such as one token's embedding."""
        if self.position == "earlier":
            return list(range(len(self.swaps)))
        return [
            row
            for row, swap in enumerate(self.swaps)
            if not torch.equal(self._held(swap.giver, [state]), self._held(swap.recipient, [state]))
        ]

    def _held(self, prompt: tuple[str, int], states: Sequence[int]) -> Tensor:
        """(states, 1, d) of one prompt, as the half holds them."""
        side, row = prompt
        values = self.context.report.side(side).states[self.position]
        return torch.from_numpy(values[row, list(states)]).unsqueeze(1)


def measure_commitment(context: Context, *, most: int = MOST, most_earlier: int = MOST_EARLIER) -> Commitment:
    """Exchange the states of both sides at t_post, at t_inst and before t_post, at every state, and judge the replies.

    Only pairs count whose sensitive side is refused and whose control is answered without intervention; of a donor of
    the same class the same is asked. At "earlier" every prompt token before t_post is exchanged, so recipient and donor
    have equal token counts there; where fewer than 4 pairs have, `last` speaks of t_inst.

    Args:
        context: model and pairs; report pairs only.
        most: most pairs at t_post and t_inst, evenly chosen.
        most_earlier: most pairs of equal length.

    Raises:
        UndertowError: fewer than 4 report pairs are refused on the sensitive side and answered on the other.
    """
    half = context.report
    wanted = np.flatnonzero(half.sensitive.refused & ~half.control.refused)
    if len(wanted) < LEAST:
        raise UndertowError(
            f"The model refuses the sensitive side and answers the control of {len(wanted)} report pairs; commitment "
            f"needs {LEAST}: give pairs that it tells apart."
        )
    tokens = judged_tokens(context)
    curves: list[CommitmentCurve] = []
    for position in POSITIONS:
        exchange = exchange_at(context, position, wanted, most_earlier if position == "earlier" else most)
        if exchange.swaps:
            curves += _curves(exchange, verdicts(exchange, tokens), *changes(exchange))
    return Commitment(
        curves=tuple(curves),
        first={toward: _first(curves, toward) for toward in TOWARD},
        last={toward: _last(curves, toward) for toward in TOWARD},
        n=min(len(wanted), most),
    )


def exchange_at(context: Context, position: str, wanted: Array, most: int) -> Exchange:
    """The swaps of one position: both directions, both kinds of donor.

    Args:
        context: model and pairs.
        position: "t_post", "t_inst" or "earlier".
        wanted: report pairs that the model treats as it should.
        most: most pairs of each kind.
    """
    half, allowed = context.report, set(np.asarray(wanted).tolist())
    rendered = {side: [context.chat.render(prompt) for prompt in half.prompts(side)] for side in SIDES}
    lengths = {side: [len(item) for item in items] for side, items in rendered.items()}
    swaps: list[Swap] = []
    for toward, (side, other) in TOWARD.items():
        for donor in DONORS:
            pairs = [(row, (other, row) if donor == "pair" else (side, int(half.others[row]))) for row in wanted]
            pairs = [(int(row), giver) for row, giver in pairs if giver[1] in allowed]
            if position == "earlier":
                pairs = [(row, giver) for row, giver in pairs if lengths[side][row] == lengths[giver[0]][giver[1]]]
            for place in evenly(range(len(pairs)), most):
                row, giver = pairs[place]
                swaps.append(Swap(toward, donor, row, (side, row), giver))
    spans = []
    for swap in swaps:
        item = rendered[swap.recipient[0]][swap.recipient[1]]
        spans.append(range(item.t_post) if position == "earlier" else item.span(position))
    return Exchange(context, position, swaps, spans)


def verdicts(exchange: Exchange, tokens: int) -> Array:
    """(m, L + 1) of bool: whether the recipient refuses under each exchange."""
    context = exchange.context
    plain = np.array([context.report.side(swap.recipient[0]).refused[swap.row] for swap in exchange.swaps], dtype=bool)
    found = np.repeat(plain[:, None], context.chat.layers + 1, axis=1)
    for state in range(context.chat.layers + 1):
        rows = exchange.active(state)
        if not rows:
            continue
        values = [value[0] for value in exchange.given(rows, [state])]
        with context.chat.edit(Replace(values, state=state, span=[exchange.spans[row] for row in rows])):
            replies = context.chat.generate(exchange.prompts(rows), tokens, progress=False)
        found[rows, state] = context.judge.refused(replies)
    return found


def changes(exchange: Exchange) -> tuple[Array, Array]:
    """The readout's change (m, L + 1) under each exchange, and its value (m,) without, by replay."""
    context, states = exchange.context, range(exchange.context.chat.layers + 1)
    found, plain = np.zeros((len(exchange.swaps), len(states))), np.zeros(len(exchange.swaps))
    groups: dict[int, list[int]] = {}
    prompts = exchange.prompts(range(len(exchange.swaps)))
    for row, (prompt, span) in enumerate(zip(prompts, exchange.spans, strict=True)):
        groups.setdefault(len(context.chat.render(prompt)) - span[0], []).append(row)
    for last, members in groups.items():
        size = CHUNK if exchange.position == "earlier" else len(members)
        for begin in range(0, len(members), size):
            rows = members[begin : begin + size]
            values, spans = exchange.given(rows, states), [exchange.spans[row] for row in rows]
            branches = [[Replace([value[state] for value in values], state=state, span=spans)] for state in states]
            read = context.readout.branches(
                context.chat,
                [prompts[row] for row in rows],
                [context.report.prompts("control")[exchange.swaps[row].row] for row in rows],
                [[], *branches],
                last=last,
                budget=max(1, context.branches // last),
            )
            plain[rows], found[rows] = read[:, 0], read[:, 1:] - read[:, :1]
    return found, plain


def _curves(exchange: Exchange, refused: Array, changed: Array, plain: Array) -> list[CommitmentCurve]:
    swaps = exchange.swaps
    kinds = {
        (toward, donor): [row for row, swap in enumerate(swaps) if (swap.toward, swap.donor) == (toward, donor)]
        for toward in TOWARD
        for donor in DONORS
    }
    level = {toward: plain[kinds[toward, "pair"] or kinds[toward, "same class"]].mean() for toward in TOWARD}
    baseline = level["answer"] - level["refusal"]
    curves = []
    for (toward, donor), rows in kinds.items():
        if not rows:
            continue
        hits = (refused[rows] == (toward == "refusal")).sum(axis=0)
        bounds = np.array([clopper_pearson(int(hit), len(rows)) for hit in hits])
        share = changed[rows].mean(axis=0) / baseline * (1 if toward == "refusal" else -1)
        curves.append(
            CommitmentCurve(
                position=exchange.position,
                toward=toward,
                donor=donor,
                flipped=hits / len(rows),
                low=bounds[:, 0],
                high=bounds[:, 1],
                readout=share,
                n=len(rows),
            )
        )
    return curves


def _of(curves: Sequence[CommitmentCurve], position: str, toward: str, least: int = 1) -> Array | None:
    wanted = (position, toward, "pair")
    found = [one for one in curves if (one.position, one.toward, one.donor) == wanted and one.n >= least]
    return found[0].flipped if found else None


def _first(curves: Sequence[CommitmentCurve], toward: str) -> int | None:
    """The first state from which on, up to the last one, exchanging t_post flips at least half."""
    flipped = _of(curves, "t_post", toward)
    if flipped is None or flipped[-1] < 0.5:
        return None
    return int(np.max(np.flatnonzero(flipped < 0.5), initial=-1)) + 1


def _last(curves: Sequence[CommitmentCurve], toward: str) -> int | None:
    """The last state at which exchanging earlier tokens (with too few pairs of equal length: t_inst) flips half."""
    flipped = _of(curves, "earlier", toward, LEAST)
    if flipped is None:
        flipped = _of(curves, "t_inst", toward)
    states = np.flatnonzero(flipped >= 0.5) if flipped is not None else np.array([], dtype=int)
    return int(states[-1]) if len(states) else None
