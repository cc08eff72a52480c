"""Part 5: gates and amplifiers, named by a stated rule from the screening, the attribution and a knockout cascade.

A gate is necessary and sufficient by interchange, family-wise and beyond a floor, and acts through later parts: at
least half of what its interchange moves is not explained by its own direct attribution. An amplifier is a later head
whose attribution falls when the gates are knocked out (their outputs on the sensitive prompt are exchanged for the
control's), more than under the knockout of any other head of the gates' blocks. (arXiv 2604.04385 names both by hand.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from undertow.measure.permutation import sign_flip
from undertow.measure.statistics import Estimate
from undertow.studies.routing.attribution import Attributor, interchange
from undertow.studies.routing.context import SIDES, Context
from undertow.studies.routing.readings import (
    Array,
    Cascade,
    Circuit,
    Effects,
    Head,
    HeadRow,
    mean_estimate,
    mean_interval,
)
from undertow.studies.routing.readouts import LogOdds
from undertow.studies.routing.screening import Swaps, effects, swaps

LEVEL = 0.05
FLOOR = 0.05
LEAST_BASELINE = 1.0
"""Nats. Below, the odds of a refusal differ by less than a factor e between the sides: there is nothing to route."""
INDIRECT = 0.5
HALVES = ("choose", "report")

RULE = (
    f"Gate: necessity and sufficiency at t_post, net of a same-class donor, each with family-wise p <= {LEVEL} (choose "
    f"pairs), necessity at least {FLOOR:.0%} of the baseline, which is at least {LEAST_BASELINE:g} nat, and at least "
    f"{INDIRECT:.0%} of it not explained by the head's own attribution (this too with family-wise p <= {LEVEL}). "
    "Heads of the last block are no gates. Amplifier: a head of a later block than the first gate whose attribution "
    "falls when the gates are knocked out, net of the mean over the knockouts of all other heads of the gates' blocks, "
    f"with family-wise p <= {LEVEL}, by "
    f"more than under any of them, and by at least {FLOOR:.0%} of the falls of all later heads together. Direct: "
    "necessary and sufficient as a gate is, without clear action through later parts."
)


@dataclass(frozen=True)
class Measured:
    """What the rule for gates is applied to.

    Attributes:
        heads: the H heads.
        swaps: half -> exchanges at t_post, read as log-odds.
        attribution: half -> (n, H) attribution, sensitive minus control.
        sensitive: half -> (n, H) attribution on the sensitive side.
        mlps: half -> (n,) attribution of all MLPs, sensitive minus control.
        residue: largest relative difference between the parts' sum and the logits.
    """

    heads: tuple[Head, ...]
    swaps: Mapping[str, Swaps]
    attribution: Mapping[str, Array]
    sensitive: Mapping[str, Array]
    mlps: Mapping[str, Array]
    residue: float


@dataclass(frozen=True)
class Falls:
    """How later heads' attribution falls under knockouts, pair by pair.

    Attributes:
        gates: what was knocked out.
        heads: the later heads.
        gate: half -> (n, later) under the gates' knockout.
        null: half -> (null heads, n, later) under each other head's.
        null_heads: the other heads of the gates' blocks.
    """

    gates: tuple[Head, ...]
    heads: tuple[Head, ...]
    gate: Mapping[str, Array]
    null: Mapping[str, Array]
    null_heads: tuple[Head, ...]


def measure_circuit(context: Context) -> Circuit:
    """Name gates and amplifiers; the readout is always the refusal log-odds, in whose unit attribution is.

    Args:
        context: the pairs and the model.

    Raises:
        CoverageError: the model's logits are no sum of parts.
    """
    attributor = Attributor(context)
    measured = measure_heads(context, attributor, HALVES)
    both = {
        kind: effects(context, context.heads, [measured.swaps[half] for half in HALVES], kind)
        for kind in ("necessity", "sufficiency")
    }
    gates, direct = name_gates(context, measured)
    falls = knock_out(context, attributor, measured, gates) if gates else None
    cascade = None if falls is None else cascade_of(context, falls)
    amplifiers = () if falls is None else name_amplifiers(context, falls)
    heads_total = measured.attribution["report"].sum(1)
    roles = dict.fromkeys(direct, "direct") | dict.fromkeys(amplifiers, "amplifier") | dict.fromkeys(gates, "gate")
    return Circuit(
        gates,
        amplifiers,
        tuple(head for head in direct if roles[head] == "direct"),
        _rows(context, measured, both, roles, cascade),
        RULE,
        cascade,
        len(context.heads),
        ratio_of_means(heads_total, heads_total + measured.mlps["report"], context.seed),
        measured.residue,
    )


def circuit_of_choose(context: Context) -> tuple[Measured, tuple[Head, ...], tuple[Head, ...]]:
    """What was measured on the choose pairs alone, and the gates and amplifiers that the rule names there."""
    attributor = Attributor(context)
    measured = measure_heads(context, attributor, ("choose",))
    gates, _ = name_gates(context, measured)
    if not gates:
        return measured, (), ()
    return measured, gates, name_amplifiers(context, knock_out(context, attributor, measured, gates))


def measure_heads(context: Context, attributor: Attributor, halves: Sequence[str]) -> Measured:
    """Exchange every head and attribute both sides, in some halves of the pairs."""
    readout = LogOdds(context.openings)
    sides = {(half, side): attributor(context.half(half), side) for half in halves for side in SIDES}
    return Measured(
        context.heads,
        {half: swaps(context, context.half(half), "t_post", context.heads, readout) for half in halves},
        {half: sides[half, "sensitive"].heads - sides[half, "control"].heads for half in halves},
        {half: sides[half, "sensitive"].heads for half in halves},
        {half: sides[half, "sensitive"].mlps - sides[half, "control"].mlps for half in halves},
        max(one.residue for one in sides.values()),
    )


def name_gates(context: Context, measured: Measured) -> tuple[tuple[Head, ...], tuple[Head, ...]]:
    """Gates, and heads that fulfil everything but acting through later parts; chosen on the choose pairs alone."""
    swapped, attribution = measured.swaps["choose"], measured.attribution["choose"]
    indirect = swapped.necessity - attribution
    necessity = swapped.necessity.mean(0)
    causal = _significant(context, swapped.necessity - swapped.necessity_control)
    causal &= _significant(context, swapped.sufficiency - swapped.sufficiency_control)
    causal &= necessity >= FLOOR * swapped.baseline.mean()
    causal &= bool(swapped.baseline.mean() >= LEAST_BASELINE)
    through_others = _significant(context, indirect) & (indirect.mean(0) >= INDIRECT * necessity)
    # A head of the last block has no later head to act through.
    through_others &= np.array([block for block, _ in measured.heads]) < context.chat.layers - 1
    order = np.argsort(-necessity)
    return (
        tuple(measured.heads[place] for place in order if causal[place] and through_others[place]),
        tuple(measured.heads[place] for place in order if causal[place] and not through_others[place]),
    )


def _significant(context: Context, values: Array) -> Array:
    return sign_flip(values, permutations=context.permutations, level=LEVEL, seed=context.seed).significant


def knock_out(context: Context, attributor: Attributor, measured: Measured, gates: Sequence[Head]) -> Falls:
    """Attribute the sensitive prompts again with the gates exchanged for the control's, and with every other head of
    their blocks, one at a time."""
    first = min(block for block, _ in gates)
    blocks = {block for block, _ in gates}
    later = [place for place, (block, _) in enumerate(context.heads) if block > first]
    later = [place for place in later if context.heads[place] not in gates]
    null_heads = tuple(head for head in context.heads if head[0] in blocks and head not in gates)
    if not null_heads:
        # Where every head of the gates' blocks is one, the blocks before and after them give the null.
        near = {block + step for block in blocks for step in (-1, 1)}
        null_heads = tuple(head for head in context.heads if head[0] in near and head not in gates)

    def fall(half: str, heads: Sequence[Head]) -> Array:
        pairs = context.half(half)
        knocked = attributor(pairs, "sensitive", interchange(pairs, "control", heads)).heads
        return (measured.sensitive[half] - knocked)[:, later]

    def own(half: str, head: Head) -> Array:
        # A head cannot fall through the knockout of one in its own block or a later one.
        values = fall(half, [head])
        return np.where([context.heads[place][0] > head[0] for place in later], values, 0.0)

    halves = tuple(measured.swaps)
    nothing = {half: np.zeros((0, len(context.half(half)), len(later))) for half in halves}
    return Falls(
        tuple(gates),
        tuple(context.heads[place] for place in later),
        {half: fall(half, gates) for half in halves},
        {half: np.stack([own(half, head) for head in null_heads]) for half in halves} if null_heads else nothing,
        null_heads,
    )


def cascade_of(context: Context, falls: Falls) -> Cascade:
    """The cascade's figures: sizes on the report pairs, family-wise p on the choose pairs."""
    value, low, high = mean_interval(falls.gate["report"], context.seed)
    return Cascade(
        falls.gates,
        falls.heads,
        value,
        low,
        high,
        _fall_p(context, falls),
        falls.null["report"].mean(1),
        falls.null_heads,
        len(context.report),
    )


def _fall_p(context: Context, falls: Falls) -> Array:
    if not falls.heads:
        return np.zeros(0)
    null = falls.null["choose"]
    net = falls.gate["choose"] - (null.mean(0) if len(null) else 0.0)
    return sign_flip(net, permutations=context.permutations, seed=context.seed).p


def name_amplifiers(context: Context, falls: Falls) -> tuple[Head, ...]:
    """Later heads that the rule calls amplifiers, by falling fall; chosen on the choose pairs alone."""
    if not falls.heads:
        return ()
    mean = falls.gate["choose"].mean(0)
    largest = falls.null["choose"].mean(1).max(0) if falls.null_heads else np.zeros(len(mean))
    enough = FLOOR * mean.clip(min=0).sum()
    chosen = (_fall_p(context, falls) <= LEVEL) & (mean > largest) & (mean >= enough)
    return tuple(falls.heads[place] for place in np.argsort(-mean) if chosen[place])


def ratio_of_means(top: Array, bottom: Array, seed: int, resamples: int = 2000) -> Estimate:
    """mean(top) / mean(bottom) over the same pairs, with its percentile bootstrap interval."""
    count = len(top)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples) / count
    below = weights @ bottom
    drawn = (weights @ top) / np.where(np.abs(below) < 1e-12, np.nan, below)
    value = float(top.mean() / bottom.mean()) if abs(bottom.mean()) > 1e-12 else float("nan")
    if not np.isfinite(drawn).any():
        return Estimate(value, float("nan"), float("nan"), count)
    return Estimate(value, float(np.nanquantile(drawn, 0.025)), float(np.nanquantile(drawn, 0.975)), count)


def _rows(
    context: Context,
    measured: Measured,
    both: Mapping[str, Effects],
    roles: Mapping[Head, str],
    cascade: Cascade | None,
) -> tuple[HeadRow, ...]:
    swapped, attribution = measured.swaps["report"], measured.attribution["report"]
    baseline = float(swapped.baseline.mean())
    ranks = np.empty(len(measured.heads), dtype=int)
    ranks[np.argsort(-np.abs(attribution.mean(0)))] = np.arange(1, len(measured.heads) + 1)
    order = np.argsort(-measured.swaps["choose"].necessity.mean(0))
    rows = []
    for place in order:
        head = measured.heads[place]
        fall = fall_p = None
        if cascade is not None and head in cascade.heads:
            later = cascade.heads.index(head)
            fall = Estimate(
                float(cascade.fall[later]), float(cascade.low[later]), float(cascade.high[later]), cascade.n
            )
            fall_p = float(cascade.p[later])
        necessity = both["necessity"].of(head)
        each, base = swapped.necessity[:, place], swapped.baseline
        indirect = each - attribution[:, place]
        rows.append(
            HeadRow(
                head,
                roles.get(head, ""),
                necessity,
                both["sufficiency"].of(head),
                float(both["necessity"].p[place]),
                float(both["sufficiency"].p[place]),
                necessity.value / baseline if abs(baseline) > 1e-12 else float("nan"),
                mean_estimate(attribution[:, place], context.seed),
                int(ranks[place]),
                mean_estimate(indirect, context.seed),
                fall,
                fall_p,
                ratio_of_means(each, base, context.seed),
                ratio_of_means(swapped.sufficiency[:, place], base, context.seed),
                ratio_of_means(indirect, each, context.seed),
                ratio_of_means(swapped.necessity_control[:, place], base, context.seed).value,
                ratio_of_means(swapped.sufficiency_control[:, place], base, context.seed).value,
            )
        )
    return tuple(rows)
