"""Part 6: ablation against interchange, head by head, and what either does to behaviour.

Four interventions on a head's output z, all at t_post and read on the sensitive prompts of the report pairs:

- interchange: z becomes the control's, as in the screening;
- mean ablation: z becomes its mean over both sides of the choose pairs. This takes away half of the mean difference
  between the sides, where interchange takes all of it;
- zero ablation: z becomes 0, which also takes away what both sides share;
- projection: the component along the head's own difference of means u (sensitive minus control, choose pairs) is
  removed, z - (z . u) u / |u|^2. The means of the two sides differ along u alone, so after projecting out the head
  carries no mean difference between them; what both sides share along u is gone too. (The published ablation overshoots
  five times, arXiv 2604.04385.)

Behaviour is judged on generated replies, at t_post and at all tokens: every prompt token, and every generated one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from undertow.errors import UndertowError
from undertow.measure.statistics import Estimate, proportion
from undertow.model import ProjectOut, Replace, Scale
from undertow.studies.routing.bands import judged, random_heads
from undertow.studies.routing.context import SIDES, Context, Half
from undertow.studies.routing.readings import Array, Bands, Circuit, Head, Screening, mean_interval
from undertow.studies.routing.result import Ablation
from undertow.studies.routing.screening import swaps

if TYPE_CHECKING:
    from undertow.model.edit import Edit
    from undertow.prompts import Prompt

INTERCHANGE, MEAN, ZERO, PROJECTION = "interchange", "mean ablation", "zero ablation", "projection"
ABLATIONS = (MEAN, ZERO, PROJECTION)
EVERYWHERE = {"t_post": "t_post", "all": "all tokens"}
ON_CIRCUIT = ((INTERCHANGE, "t_post"), (MEAN, "t_post"), (ZERO, "t_post"), (MEAN, "all"), (ZERO, "all"))
ON_FEW = ((INTERCHANGE, "t_post"), (ZERO, "all"))
ON_TOP = {
    INTERCHANGE: ("t_post",),
    MEAN: ("t_post", "all"),
    ZERO: ("t_post", "all"),
    PROJECTION: ("t_post", "all"),
}
DRAWS = 5
LEAST_HEADS = 3
_CHUNK = 16

Row = tuple[str, tuple[Head, ...], Estimate, Estimate]


def measure_ablation(
    context: Context, screening: Screening, circuit: Circuit | None, bands: Bands | None, *, top: int = 5
) -> Ablation:
    """Set the three ablations of every head beside its interchange, and judge replies under the strongest of them.

    Under an interchange the sensitive prompts get the controls' outputs and the controls the sensitive ones', so the
    last column shows whether a set of heads suffices to bring a refusal about. Of the random heads of the same blocks
    every prompt gets one of a few draws, so that their rows are means over draws with as many prompts as the others.
    The top heads whose replies are judged are those of the choose pairs; the overlap is that of the report pairs.

    Args:
        context: the pairs and the model.
        screening: interchange at t_post on the same report pairs.
        circuit: whose gates are intervened on; none where it is None or names none.
        bands: whose band likewise.
        top: how many heads with the largest falls are compared, and intervened on together.

    Raises:
        UndertowError: fewer than 3 heads, `top` below 1, or the screening is not that of these pairs at t_post.
    """
    heads = context.heads
    if top < 1 or len(heads) < LEAST_HEADS:
        raise UndertowError(
            f"Ablation is compared with interchange over at least {LEAST_HEADS} heads and the top 1, not over "
            f"{len(heads)} and the top {top}."
        )
    _check(context, screening)
    interventions = Interventions(context)
    top = min(top, len(heads))
    each = {INTERCHANGE: screening.necessity.each, **_falls(interventions, context.report)}
    found = {name: mean_interval(values, context.seed) for name, values in each.items()}
    largest = {name: _largest(heads, value, top) for name, (value, _, _) in found.items()}
    alone = swaps(context, context.choose, "t_post", heads, context.readout).necessity
    chosen = {INTERCHANGE: alone, **_falls(interventions, context.choose)}
    tops = {name: _largest(heads, values.mean(0), top) for name, values in chosen.items()}
    return Ablation(
        heads,
        {name: value for name, (value, _, _) in found.items()},
        {name: low for name, (_, low, _) in found.items()},
        {name: high for name, (_, _, high) in found.items()},
        {name: rank_correlation(each[INTERCHANGE], each[name], context.seed) for name in ABLATIONS},
        top,
        {name: len({*largest[INTERCHANGE]} & {*largest[name]}) / top for name in ABLATIONS},
        tuple(_behaviour(interventions, circuit, bands, tops)),
        len(context.report),
    )


def rank_correlation(first: Array, second: Array, seed: int = 0, resamples: int = 2000) -> Estimate:
    """Spearman correlation over heads of two effects' means over pairs, with its percentile bootstrap interval.

    The pairs are resampled, both effects of a pair together. 0 where all heads are alike in either.

    Args:
        first, second: (n, H) effects of the same pairs on the same heads.
        seed: of the resampling.
        resamples: how many.
    """
    count = len(first)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples) / count
    drawn = _spearman(weights @ first, weights @ second)
    value = float(_spearman(first.mean(0, keepdims=True), second.mean(0, keepdims=True))[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    # Resampling adds noise, which lowers a correlation near 1; the interval is widened to hold the estimate.
    return Estimate(value, min(float(low), value), max(float(high), value), count)


@dataclass(frozen=True)
class Interventions:
    """Edits of sets of heads, with the means they need.

    Attributes:
        context: the pairs and the model.
    """

    context: Context
    _everywhere: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def means(self) -> dict[str, dict[int, Tensor]]:
        """Side -> block -> (heads, head size): mean output at t_post over the choose pairs."""
        return {
            side: {block: values.mean(0) for block, values in blocks.items()}
            for side, blocks in self.context.choose.heads.items()
        }

    def mean(self, head: Head, span: str = "t_post") -> Tensor:
        """(head size): what mean ablation puts in, over both sides of the choose pairs.

        Args:
            head: (block, head).
            span: "t_post" for the mean there, "all" for the mean over every prompt token.
        """
        block, place = head
        if span == "t_post":
            return (self.means["sensitive"][block][place] + self.means["control"][block][place]) / 2
        if block not in self._everywhere:
            prompts = [prompt for side in SIDES for prompt in self.context.choose.prompts(side)]
            self._everywhere[block] = token_mean(self.context, prompts, block)
        return self._everywhere[block][place]

    def difference(self, head: Head) -> Tensor:
        """(head size): mean output at t_post on sensitive prompts minus that on controls, choose pairs."""
        block, place = head
        return self.means["sensitive"][block][place] - self.means["control"][block][place]

    def edits(
        self,
        method: str,
        heads: Sequence[Head],
        side: str = "sensitive",
        span: str = "t_post",
        rows: Sequence[int] | None = None,
    ) -> list[Edit]:
        """The edits of one method on a set of heads, for one side's report prompts.

        Args:
            method: "interchange" (at t_post only), "mean ablation", "zero ablation" or "projection".
            heads: the set.
            side: which prompts receive.
            span: "t_post" or "all".
            rows: some of the pairs; all when left out.
        """
        if method == INTERCHANGE:
            return list(self.context.report.swap("control" if side == "sensitive" else "sensitive", heads, rows))
        if method == MEAN:
            return [Replace(self.mean(head, span), head=head, span=span) for head in heads]
        if method == ZERO:
            return [Scale(0.0, head=head, span=span) for head in heads]
        return [ProjectOut(self.difference(head), head=head, span=span) for head in heads]


def token_mean(context: Context, prompts: Sequence[Prompt], block: int) -> Tensor:
    """(heads, head size) float32: mean output of one block's heads over every token of some prompts.

    Args:
        context: whose model.
        prompts: the prompts; longer ones weigh more.
        block: the block.
    """
    lengths: dict[int, list[Prompt]] = {}
    for prompt in prompts:
        lengths.setdefault(len(context.chat.render(prompt)), []).append(prompt)
    total, tokens = torch.zeros(()), 0
    for length, group in lengths.items():
        for begin in range(0, len(group), _CHUNK):
            part = group[begin : begin + _CHUNK]
            values = context.chat.capture(
                part, states=[], positions=list(range(length)), heads=[block], progress=False
            ).heads
            assert values is not None
            total = total + values[:, 0].float().sum((0, 2))
            tokens += length * len(part)
    return total / tokens


def _check(context: Context, screening: Screening) -> None:
    if (
        screening.position != "t_post"
        or screening.necessity.heads != context.heads
        or screening.necessity.n != len(context.report)
        or context.readout.name not in screening.readout
    ):
        raise UndertowError(
            "Ablation is compared with the interchange of all heads at t_post on the same pairs: give that screening."
        )


def _falls(interventions: Interventions, half: Half) -> dict[str, Array]:
    """Ablation -> (n, H) fall of the readout on the sensitive prompts of a half, each head ablated on its own."""
    context = interventions.context
    branches: list[list[Edit]] = [[]]
    for method in ABLATIONS:
        branches += [interventions.edits(method, [head]) for head in context.heads]
    found = context.readout.branches(
        context.chat, half.prompts("sensitive"), half.prompts("control"), branches, budget=context.branches
    )
    falls = np.split(found[:, :1] - found[:, 1:], len(ABLATIONS), axis=1)
    return dict(zip(ABLATIONS, falls, strict=True))


def _largest(heads: Sequence[Head], falls: Array, top: int) -> tuple[Head, ...]:
    return tuple(heads[int(place)] for place in np.argsort(-falls)[:top])


def _spearman(first: Array, second: Array) -> Array:
    """Row by row."""
    ranks = [rankdata(values, axis=1) for values in (first, second)]
    centred = [one - one.mean(1, keepdims=True) for one in ranks]
    below = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    return np.asarray((centred[0] * centred[1]).sum(1) / np.where(below > 0, below, 1.0))


def _behaviour(
    interventions: Interventions, circuit: Circuit | None, bands: Bands | None, tops: dict[str, tuple[Head, ...]]
) -> list[Row]:
    context = interventions.context
    replies = Replies(interventions)
    rows = [replies.row("nothing", ZERO, (), "t_post")]
    named = {"gates": circuit.gates if circuit else (), "band": bands.band if bands else ()}
    known = {head for heads in named.values() for head in heads}
    single = tops[INTERCHANGE][:1]
    rows += [
        replies.row(f"first head by interchange, {how} at {EVERYWHERE[span]}", how, single, span)
        for how, span in ON_FEW
    ]
    generator = np.random.default_rng(context.seed)
    strongest = f"top {len(tops[INTERCHANGE])} by interchange"
    for name, heads in named.items():
        if heads:
            rows += [replies.row(f"{name}, {how} at {EVERYWHERE[span]}", how, heads, span) for how, span in ON_CIRCUIT]
    compared = {name: heads for name, heads in named.items() if heads} or {strongest: tops[INTERCHANGE]}
    for name, heads in compared.items():
        draws = [random_heads(context.heads, heads, {*heads, *known}, generator) for _ in range(DRAWS)]
        rows += [
            replies.drawn(f"random heads like the {name}, {how} at {EVERYWHERE[span]}", how, draws, span)
            for how, span in ON_FEW
        ]
    for method, spans in ON_TOP.items():
        name = f"top {len(tops[method])} by {method}"
        rows += [replies.row(f"{name}, {method} at {EVERYWHERE[span]}", method, tops[method], span) for span in spans]
    return rows


@dataclass(frozen=True)
class Replies:
    """Judged replies under interventions; sets that come under two names are generated once.

    Attributes:
        interventions: the edits.
    """

    interventions: Interventions
    _known: dict[tuple[str, str, frozenset[Head]], tuple[Estimate, Estimate]] = field(default_factory=dict, repr=False)

    def row(self, name: str, method: str, heads: Sequence[Head], span: str) -> Row:
        """One row of `Ablation.behaviour`: a set of heads under one method."""
        key = (method if heads else "", span, frozenset(heads))
        if key not in self._known:
            self._known[key] = self._shares(method, [tuple(heads)], span)
        sensitive, control = self._known[key]
        return name, tuple(heads), sensitive, control

    def drawn(self, name: str, method: str, draws: Sequence[tuple[Head, ...]], span: str) -> Row:
        """The same for several sets, each on its share of the prompts; the heads are those of all draws."""
        sensitive, control = self._shares(method, draws, span)
        return name, tuple(sorted({head for heads in draws for head in heads})), sensitive, control

    def _shares(self, method: str, draws: Sequence[tuple[Head, ...]], span: str) -> tuple[Estimate, Estimate]:
        context = self.interventions.context
        count = len(context.report)
        shares = []
        for side in SIDES:
            refused = [bool(one) for one in context.report.side(side).refused] if not any(draws) else []
            for number, heads in enumerate(draws):
                rows = range(number, count, len(draws))
                if heads and rows:
                    refused += judged(context, side, self.interventions.edits(method, heads, side, span, rows), rows)
            shares.append(proportion(sum(refused), count))
        return shares[0], shares[1]
