"""Part 5: the set of heads that carry the decision together, found greedily by joint interchange at t_post.

One head's interchange cannot show what several heads do in parallel (arXiv 2604.04385, bands). The search starts from
the head of largest necessity and adds, step by step, the head with which the joint necessity becomes largest, all of
them exchanged at once. Heads are chosen and the search is stopped on the choose pairs, where the largest of many gains
is flattered; every figure comes from the report pairs, where it is not.

A band is a set of heads through which the difference between the two sides passes. Where it passes in stages, from
gates to amplifiers, either stage is such a set, and the search takes the one of fewer and larger parts: a band says
which heads together suffice to cut the way, not which of them decide. The circuit's rule tells that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from undertow.errors import UndertowError
from undertow.measure.statistics import Estimate, proportion
from undertow.model.edit import Edit
from undertow.studies.routing.circuit import ratio_of_means
from undertow.studies.routing.context import Context, Half
from undertow.studies.routing.readings import Array, Bands, BandStep, Head, Screening, mean_estimate
from undertow.studies.routing.screening import swaps

LEAST_GAIN = 0.05
BEYOND = 2
_OTHER = {"sensitive": "control", "control": "sensitive"}


@dataclass(frozen=True)
class Search:
    """What the greedy search did on the choose pairs.

    Attributes:
        order: heads in the order in which they were added.
        chosen: how many of the first of them are the band.
        gains: what each added to the joint necessity, with its interval.
        baseline: readout of the sensitive side minus that of the control.
    """

    order: tuple[Head, ...]
    chosen: int
    gains: tuple[Estimate, ...]
    baseline: Estimate


def measure_bands(
    context: Context, screening: Screening | None = None, *, most: int = 8, random_sets: int = 20
) -> Bands:
    """Find the band, and what it and the steps beyond it do on the report pairs.

    Args:
        context: the pairs and the model.
        screening: of these pairs with the context's readout; its baseline is then stated, else it is read anew.
        most: most heads of the band; two more steps are shown.
        random_sets: random sets of heads a step; few different ones exist where blocks have few heads, and then some
            come more than once.

    Returns:
        The steps. `band` is empty where no head clears the rule, which is an answer too.

    Raises:
        UndertowError: `most` or `random_sets` is below 1.
    """
    if most < 1 or random_sets < 1:
        raise UndertowError(f"A band needs at least one head and one random set, not {most} and {random_sets}.")
    search = find_band(context, most)
    band = search.order[: search.chosen]
    sets = [search.order[: size + 1] for size in range(len(search.order))]
    generator = np.random.default_rng(context.seed)
    drawn = [[random_heads(context.heads, one, {*one, *band}, generator) for _ in range(random_sets)] for one in sets]
    # Equal sets are read once, however often they were drawn.
    distinct = list(dict.fromkeys(one for draws in drawn for one in draws))
    base, joint = joint_effects(context, context.report, "sensitive", [*sets, *distinct])
    control, sufficient = joint_effects(context, context.report, "control", sets)
    random = dict(zip(distinct, joint[:, len(sets) :].mean(0), strict=True))
    steps = []
    for place, heads in enumerate(sets):
        values = [float(random[one]) for one in drawn[place]]
        low, high = np.quantile(values, [0.025, 0.975])
        steps.append(
            BandStep(
                heads[-1],
                mean_estimate(joint[:, place], context.seed),
                mean_estimate(sufficient[:, place], context.seed),
                float(np.mean(values)),
                float(low),
                float(high),
                share_refused(context, "sensitive", context.report.swap("control", heads)),
                place < search.chosen,
                ratio_of_means(joint[:, place], joint[:, 0], context.seed),
            )
        )
    baseline = screening.baseline if screening is not None else mean_estimate(base - control, context.seed)
    return Bands(tuple(steps), band, baseline, random_sets, _rule(context, search, most))


def find_band(context: Context, most: int) -> Search:
    """The greedy search on the choose pairs: the band, and two steps beyond it.

    Args:
        context: the pairs and the model.
        most: most heads of the band.
    """
    half = context.choose
    alone = swaps(context, half, "t_post", context.heads, context.readout)
    baseline = mean_estimate(alone.baseline, context.seed)
    order: list[Head] = []
    gains: list[Estimate] = []
    reached = np.zeros(len(half))
    chosen = beyond = 0
    while beyond < BEYOND and len(order) < len(context.heads):
        rest = [head for head in context.heads if head not in order]
        if order:
            _, joint = joint_effects(context, half, "sensitive", [(*order, head) for head in rest])
        else:
            joint = alone.necessity
        best = int(joint.mean(0).argmax())
        gain = mean_estimate(joint[:, best] - reached, context.seed)
        order.append(rest[best])
        gains.append(gain)
        reached = joint[:, best]
        # Where the two sides do not differ there is nothing that a band could carry.
        clear = baseline.low > 0 and gain.low > 0 and gain.value >= LEAST_GAIN * baseline.value
        if clear and not beyond and chosen < most:
            chosen += 1
        else:
            beyond += 1
    return Search(tuple(order), chosen, tuple(gains), baseline)


def joint_effects(context: Context, half: Half, side: str, sets: Sequence[Sequence[Head]]) -> tuple[Array, Array]:
    """Exchange each set of heads at t_post for the other side's, all heads of a set at once.

    Args:
        context: the pairs and the model.
        half: whose pairs.
        side: the side that receives.
        sets: R sets of heads.

    Returns:
        (n,) readout without exchange, and (n, R) effects: necessity for the sensitive side, sufficiency for controls.
    """
    found = context.read(half, side, [[], *(half.swap(_OTHER[side], heads) for heads in sets)])
    effect = found[:, 1:] - found[:, :1]
    return found[:, 0], -effect if side == "sensitive" else effect


def share_refused(context: Context, side: str, edits: Sequence[Edit]) -> Estimate:
    """Share of one side's report prompts refused under edits, by generation and the study's judge.

    Args:
        context: the pairs and the model.
        side: "sensitive" or "control".
        edits: values that they hold one a prompt are in the order of the pairs.
    """
    refused = judged(context, side, edits, range(len(context.report)))
    return proportion(sum(refused), len(refused))


def judged(context: Context, side: str, edits: Sequence[Edit], rows: Sequence[int]) -> list[bool]:
    """Whether the judge finds some of one side's report prompts refused under edits.

    Args:
        context: the pairs and the model.
        side: "sensitive" or "control".
        edits: values that they hold one a prompt are in the order of `rows`.
        rows: which pairs.
    """
    prompts = context.report.prompts(side)
    with context.chat.edit(*edits):
        replies = context.chat.generate(
            [prompts[row] for row in rows], max_new_tokens=context.reply_tokens, progress=False
        )
    return [bool(one) for one in context.judge.refused(replies)]


def random_heads(
    heads: Sequence[Head], like: Sequence[Head], avoid: Collection[Head], generator: np.random.Generator
) -> tuple[Head, ...]:
    """As many different heads as `like` has, of the same blocks, or of the nearest ones where a block has too few.

    Args:
        heads: all heads.
        like: whose blocks to take.
        avoid: heads to leave out; they are taken only where no other head is left in any block.
        generator: draws them.

    Returns:
        Heads in order.
    """
    shuffled = [heads[int(place)] for place in generator.permutation(len(heads))]
    free = [head for head in shuffled if head not in avoid]
    spare = [head for head in shuffled if head in avoid]
    furthest = max(block for block, _ in heads) - min(block for block, _ in heads)
    missing = [block for block, _ in like]
    taken: list[Head] = []
    for pool in (free, spare):
        for distance in range(furthest + 1):
            for block in list(missing):
                found = next((head for head in pool if abs(head[0] - block) == distance), None)
                if found is not None:
                    pool.remove(found)
                    missing.remove(block)
                    taken.append(found)
    return tuple(sorted(taken))


def _rule(context: Context, search: Search, most: int) -> str:
    ending = ""
    if search.baseline.low <= 0:
        ending = " The baseline of the choose pairs is not clear of zero, so there is no band."
    return (
        "Heads are added one at a time, each time the one with the largest joint necessity at t_post on the "
        f"{len(context.choose)} choose pairs ({context.readout.name}). A head belongs to the band while its gain there "
        f"has a 95 % bootstrap interval above 0 and is at least {LEAST_GAIN:.0%} of the baseline, up to {most} heads; "
        f"{BEYOND} more steps are shown. Random sets are as many other heads of the same blocks, outside the band, or "
        f"of the nearest blocks where a block has too few.{ending}"
    )
