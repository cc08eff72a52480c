"""Part 7: the detection signal scaled before the gate, and what becomes of the replies.

Unlike the published dose-response (Frank, arXiv 2604.04385), whose push lands behind the gate and in no unit: the state
lies at or before the input of the first gate's block, it is the state that the direction was read at, a dose is a share
of the residual stream's norm there, and random directions of the same length are the control.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from undertow.errors import UndertowError
from undertow.measure.statistics import Estimate
from undertow.model import Add
from undertow.studies.routing.context import SIDES, Context, Half
from undertow.studies.routing.logistic import crossing
from undertow.studies.routing.readings import Array, Circuit, mean_estimate
from undertow.studies.routing.replies import evenly, judged_tokens
from undertow.studies.routing.result import DoseCurve, Modulation

if TYPE_CHECKING:
    from undertow.model.generate import PrefillBatch
    from undertow.prompts import Prompt

DOSES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5)
SPANS = ("t_inst", "instruction")
RANDOM_DIRECTIONS = 3
MOST = 60
LEAST_OF_TOPIC = 5
FOLDS = 5
_SIGNS = {"sensitive": -1.0, "control": 1.0}


@dataclass(frozen=True)
class Site:
    """Where the signal is scaled.

    Attributes:
        state: the state.
        before_gate: whether a gate was found and the state lies at or before its block's input.
        unit: (d) unit direction from control to sensitive, from the choose pairs.
        reason: why this state, in a sentence.
    """

    state: int
    before_gate: bool
    unit: Tensor
    reason: str


def measure_modulation(
    context: Context, circuit: Circuit | None, *, doses: Sequence[float] = DOSES, most: int = MOST
) -> Modulation:
    """Subtract the detection signal from sensitive prompts, add it to controls, and judge every reply.

    A reply is a refusal where the judge says so, an answer where it is none and opens with one of the context's answer
    tokens, else an evasion. The control is the mean over 3 random unit directions, every prompt under each; its
    interval is as wide as that of one direction.

    Args:
        context: model and pairs.
        circuit: whose gates say what comes before them; without gates the states of the first two thirds are open.
        doses: increasing, the first 0, in units of the mean norm of the residual stream at the state over the span.
        most: most report prompts a side, evenly chosen.

    Raises:
        UndertowError: the doses do not rise from 0, or no open state differs between the two sides.
    """
    if len(doses) < 3 or doses[0] != 0 or any(low >= high for low, high in pairwise(doses)):
        raise UndertowError("Doses must start at 0 and rise, and there must be at least three of them.")
    site = choose_site(context, circuit)
    generator = torch.Generator().manual_seed(context.seed)
    noise = torch.randn(RANDOM_DIRECTIONS, context.chat.width, generator=generator, dtype=torch.float64)
    random = list((noise / noise.norm(dim=1, keepdim=True)).float())
    norms = {span: span_norm(context, site.state, span) for span in SPANS}
    middle = doses[len(doses) // 2]
    gains = {span: _gain(context, site, span, middle * norms[span], random, most) for span in SPANS}
    span = max(SPANS, key=lambda one: gains[one])
    rows, tokens = evenly(range(len(context.report)), most), judged_tokens(context)
    outcomes = _outcomes(context, site, span, norms[span], random, doses, rows, tokens)
    curves = [
        _curve(context, key, name, members, doses, outcomes[key])
        for key in outcomes
        for name, members in _groups(context.report, rows)
    ]
    return Modulation(
        state=site.state,
        span=span,
        norm=norms[span],
        detection=_detection(context.report, site, norms[span]),
        curves=tuple(curves),
        before_gate=site.before_gate,
        note=f"{site.reason} The span {span} was chosen on the choose pairs: a dose of {middle:g} changes the log-odds "
        "of the first reply token in the expected direction by "
        + " and ".join(f"{gains[one]:.2f} nats at {one}" for one in SPANS)
        + f", net of random directions. Random: mean of {RANDOM_DIRECTIONS} unit directions. Judged: {tokens} reply "
        f"tokens of {len(rows)} prompts a side. A logistic is fitted up to the dose where refusals are farthest from "
        "their start; of separated data the two neighbouring doses are the bounds.",
    )


def choose_site(context: Context, circuit: Circuit | None) -> Site:
    """The state at which the direction tells the two sides of held-out choose pairs apart best, before the gate.

    Raises:
        UndertowError: at t_inst the two sides have equal means at all states that are open.
    """
    half, layers = context.choose, context.chat.layers
    scores = separations(half, context.seed)
    gates = circuit.gates if circuit is not None else ()
    block = min((gate[0] for gate in gates), default=None)
    # Without a gate the signal is still scaled before the head that decides most.
    deciding = None if circuit is None or not circuit.rows else circuit.rows[0].head[0]
    early = range(max(1, 2 * layers // 3) + 1)
    if block is not None:
        allowed, place = range(block + 1), f"state {block} is the input of the first gate's block"
    elif deciding is not None and np.isfinite(scores[: deciding + 1]).any():
        allowed = range(deciding + 1)
        place = f"no gate was found; state {deciding} is the input of the block of the head of largest necessity"
    else:
        allowed, place = early, "no gate was found, so the states of the first two thirds of the blocks were open"
    before = block is not None
    if block is not None and not np.isfinite(scores[: block + 1]).any():
        allowed, before = early, False
        place = f"nothing differs at or before the input of the first gate's block {block}, so later states were open"
    usable = [state for state in allowed if np.isfinite(scores[state])]
    if not usable:
        raise UndertowError(
            "The two sides of the pairs do not differ at their last instruction token early in the model, so there is "
            "no detection signal to scale: give pairs that differ more, or another model."
        )
    state = max(usable, key=lambda one: scores[one])
    difference = _states(half, "sensitive")[:, state].mean(0) - _states(half, "control")[:, state].mean(0)
    reason = (
        f"State {state}, of states {allowed[0]} to {allowed[-1]} ({place}), has the direction that tells held-out "
        f"choose pairs apart best: their means lie {scores[state]:.1f} standard deviations apart ({FOLDS}-fold, "
        f"{len(half)} pairs)."
    )
    unit = torch.from_numpy(difference / np.linalg.norm(difference)).float()
    return Site(state, before, unit, reason)


def separations(half: Half, seed: int = 0) -> Array:
    """(L + 1,) distance of the two sides along the difference of means at t_inst, in their pooled standard deviations.

    Every pair is projected on the direction of the other folds. Minus infinity where the means coincide.
    """
    sides = {side: _states(half, side) for side in SIDES}
    count = len(half)
    folds = np.random.default_rng(seed).permutation(count) % min(FOLDS, count)
    projected = {side: np.zeros((count, sides[side].shape[1])) for side in SIDES}
    usable = np.ones(sides["control"].shape[1], dtype=bool)
    for fold in range(folds.max() + 1):
        apart = sides["sensitive"][folds != fold].mean(0) - sides["control"][folds != fold].mean(0)
        lengths = np.linalg.norm(apart, axis=1, keepdims=True)
        usable &= lengths[:, 0] > 1e-6 * np.linalg.norm(sides["control"], axis=2).mean(0)
        units = apart / np.maximum(lengths, 1e-30)
        for side in SIDES:
            projected[side][folds == fold] = np.einsum("nld,ld->nl", sides[side][folds == fold], units)
    gap = projected["sensitive"].mean(0) - projected["control"].mean(0)
    spread = np.sqrt((projected["sensitive"].var(0, ddof=1) + projected["control"].var(0, ddof=1)) / 2)
    return np.where(usable, gap / np.maximum(spread, 1e-30), -np.inf)


def span_norm(context: Context, state: int, span: str) -> float:
    """Mean norm of the residual stream at a state over the tokens of a span, both sides of the choose pairs."""
    prompts = [*context.choose.prompts("sensitive"), *context.choose.prompts("control")]
    groups: dict[tuple[int, ...], list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(tuple(context.chat.render(prompt).span(span)), []).append(prompt)
    means: list[Tensor] = []
    for positions, members in groups.items():
        values = context.chat.capture(members, [state], list(positions), progress=False).values[:, 0]
        means.append(values.double().norm(dim=-1).mean(dim=-1))
    return float(torch.cat(means).mean())


def _states(half: Half, side: str) -> Array:
    """(n, L + 1, d) float64 at t_inst."""
    return np.asarray(half.side(side).states["t_inst"], dtype=np.float64)


def _detection(half: Half, site: Site, norm: float) -> Estimate:
    """Mean projection of sensitive minus control at t_inst, in units of the norm, report pairs."""
    apart = _states(half, "sensitive")[:, site.state] - _states(half, "control")[:, site.state]
    return mean_estimate(apart @ site.unit.double().numpy() / norm)


def _gain(context: Context, site: Site, span: str, length: float, random: list[Tensor], most: int) -> float:
    """How far the log-odds move as expected at one dose, mean over both sides of the choose pairs, net of random."""
    rows = evenly(range(len(context.choose)), most)
    prompts = [context.choose.prompts(side)[row] for side in SIDES for row in rows]
    signs = [_SIGNS[side] for side in SIDES for _ in rows]
    vectors = [sign * length * site.unit for sign in signs]
    vectors += [sign * length * random[place % len(random)] for place, sign in enumerate(signs)]
    plain = context.openings.scores(context.chat.logits(prompts))
    with context.chat.edit(Add(vectors, state=site.state, span=span)):
        pushed = context.openings.scores(context.chat.logits(prompts * 2)).reshape(2, -1)
    moved = ((pushed - plain) * torch.tensor(signs)).mean(dim=1)
    return float(moved[0] - moved[1])


def _outcomes(
    context: Context,
    site: Site,
    span: str,
    norm: float,
    random: list[Tensor],
    doses: Sequence[float],
    rows: Array,
    tokens: int,
) -> dict[tuple[str, str], Array]:
    """(side, direction) -> (2, report pairs, doses): refused and answered, 0 to 1; not a number for rows left out."""
    prompts = [context.report.prompts(side)[row] for side in SIDES for row in rows]
    directions = [site.unit, *random]
    found = np.full((len(directions), 2, len(SIDES), len(context.report), len(doses)), np.nan)
    for place, dose in enumerate(doses):
        shape = (2, -1, len(SIDES), len(rows))
        if dose == 0:
            told = np.stack(judged(context, prompts, tokens)).reshape(shape)
        else:
            vectors = [
                _SIGNS[side] * dose * norm * direction for direction in directions for side in SIDES for _ in rows
            ]
            with context.chat.edit(Add(vectors, state=site.state, span=span)):
                told = np.stack(judged(context, prompts * len(directions), tokens)).reshape(shape)
        found[:, :, :, rows, place] = told.swapaxes(0, 1)
    means = {"detection": found[0], "random": found[1:].mean(axis=0)}
    return {(side, name): values[:, place] for place, side in enumerate(SIDES) for name, values in means.items()}


def judged(context: Context, prompts: Sequence[Prompt], tokens: int) -> tuple[Array, Array]:
    """Which replies refuse, and which answer, under the edits in force: (n,) of bool each."""
    firsts = np.zeros(len(prompts), dtype=int)

    def look(batch: PrefillBatch) -> list[None]:
        firsts[batch.indices] = batch.logits.argmax(dim=-1).numpy()
        return [None] * len(batch.indices)

    replies = context.chat.generate(list(prompts), tokens, progress=False, on_prefill=look)
    refused = np.array(context.judge.refused(replies), dtype=bool)
    answering = context.openings.answer_tokens
    opened = np.isin(firsts, context.openings.refusal_tokens, invert=True)
    return refused, ~refused & (opened if answering is None else np.isin(firsts, answering))


def _groups(half: Half, rows: Array) -> Iterable[tuple[str, Array]]:
    """All prompts, every topic with enough of them, and every language where there are several."""
    yield "all", rows
    pairs = [half.pairs[row] for row in rows]
    for topic in half.pairs.topics:
        members = rows[[pair.topic == topic for pair in pairs]]
        if len(members) >= LEAST_OF_TOPIC:
            yield topic, members
    languages = half.pairs.languages
    for language in languages if len(languages) > 1 else ():
        members = rows[[pair.language == language for pair in pairs]]
        if len(members):
            yield language, members


def _curve(
    context: Context, key: tuple[str, str], group: str, rows: Array, doses: Sequence[float], outcomes: Array
) -> DoseCurve:
    refused, answered = outcomes[:, rows]
    refusal, answer = refused.mean(axis=0), answered.mean(axis=0)
    count = len(rows)
    # Over several random directions a count need not be whole; the exact interval is then that of the beta quantiles.
    hits = refusal * count
    low = np.where(hits > 0, stats.beta.ppf(0.025, np.maximum(hits, 1e-9), count - hits + 1), 0.0)
    high = np.where(hits < count, stats.beta.ppf(0.975, hits + 1, np.maximum(count - hits, 1e-9)), 1.0)
    threshold, slope = crossing(doses, refused, seed=context.seed)
    return DoseCurve(
        prompts=key[0],
        direction=key[1],
        group=group,
        doses=tuple(float(dose) for dose in doses),
        refusal=refusal,
        evasion=np.clip(1 - refusal - answer, 0.0, 1.0),
        answer=answer,
        low=low,
        high=high,
        threshold=threshold,
        slope=slope,
        n=count,
    )
