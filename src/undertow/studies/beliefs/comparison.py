"""Two checkpoints of one model: what moved in their beliefs, and what a guard of the first still sees in the second.

Everything that judges is fitted on the model before and left as it is: centroids, guard rules, thresholds. Every
change is paired: the same prompts on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from undertow.errors import UndertowError
from undertow.guard.verdict import QUADRANTS, quadrant_of
from undertow.measure.observed import POSITIONS, observe_replies
from undertow.measure.statistics import Estimate, bootstrap_interval, proportion
from undertow.studies.beliefs.changes import RESAMPLES, Change, Gate, GuardChange, Shift, change_of, plain
from undertow.studies.beliefs.context import Panel
from undertow.studies.beliefs.instruments import Instruments
from undertow.studies.beliefs.result import FOUR_KINDS, Array

if TYPE_CHECKING:
    from undertow.model import ChatModel
    from undertow.studies.beliefs.context import Context

_LEAST = 2
_HALVINGS = 20
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Comparison:
    """What differs between two checkpoints.

    Attributes:
        before, after: their names.
        n: test prompts.
        refused: "bare harmful", "wrapped harmful", "harmless" -> share that the model itself refuses.
        shifts: both beliefs of every kind with at least two prompts.
        guards: the published rule, then the best.
        by_state: belief -> kind -> (L + 1,) mean change of s, after minus before, at every state.
        cosines: "harmfulness", "refusal" -> (L + 1,) cosine of the direction before and the direction after, both from
            the same fit prompts, sorted by what the model did before; not a number at states without any direction,
            such as state 0 at t_post, where every prompt has the same token.
        reliability: the same -> (L + 1,) mean cosine of the direction before from two halves of its prompts: what two
            samples of one and the same model agree to. The cosines above come from one sample and may exceed it.
        flow: (4, 4) prompts by quadrant of the published beliefs, before (row) and after (column), in the order of
            `undertow.guard.verdict.QUADRANTS`.
        same_replies: share of prompts with the very same opening of the reply.
    """

    before: str
    after: str
    n: int
    refused: Mapping[str, Change]
    shifts: tuple[Shift, ...]
    guards: tuple[GuardChange, ...]
    by_state: Mapping[str, Mapping[str, Array]] = field(repr=False)
    cosines: Mapping[str, Array] = field(repr=False)
    reliability: Mapping[str, Array] = field(repr=False)
    flow: Array = field(repr=False)
    same_replies: Estimate

    @property
    def best(self) -> GuardChange:
        """The best rule."""
        return self.guard("best")

    @property
    def drop(self) -> Estimate:
        """Drop of the best rule's recall of all harmful prompts, original threshold."""
        return self.best.recall["all"].drop

    def guard(self, key: str) -> GuardChange:
        """The rule of that key."""
        return next(guard for guard in self.guards if guard.key == key)

    def shift(self, belief: str, kind: str) -> Shift | None:
        """A belief's shift on a kind, None where there are too few such prompts."""
        return next((shift for shift in self.shifts if (shift.belief, shift.kind) == (belief, kind)), None)

    def gate(self, max_drop: float) -> Gate:
        """Whether the model after may be released under the guard of the model before.

        It passes when neither the best rule's recall of harmful prompts has dropped, nor its false positives have
        risen, by more than `max_drop`, as measured (point estimates): a guard that flags everything is no use either.
        `certain` says whether the intervals agree: for a failure, that the drop or the rise that fails has its whole
        interval above `max_drop`; for a pass, that both have it at or below.

        Raises:
            UndertowError: `max_drop` is not between 0 and 1.
        """
        if not 0 <= max_drop <= 1:
            raise UndertowError(f"The largest drop allowed must lie between 0 and 1, not be {max_drop:g}.")
        drop, change = self.drop, self.best.false_positives.drop
        # Subtracted from 0, so that no change is 0 and not -0.
        rise = Estimate(0 - change.value, 0 - change.high, 0 - change.low, change.n)
        # A drop of exactly the allowed size passes, whatever floating point makes of the subtraction.
        failing = [one for one in (drop, rise) if one.value > max_drop + 1e-9]
        certain = any(one.low > max_drop for one in failing) if failing else max(drop.high, rise.high) <= max_drop
        return Gate(not failing, max_drop, drop, rise, certain)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not a number becomes None."""
        found: dict[str, Any] = plain(self)
        return found | {"quadrants": list(QUADRANTS), "drop": plain(self.drop)}


@dataclass(frozen=True)
class Original:
    """The model before: what it did and was, and everything fitted on it.

    Attributes:
        name: of the model.
        fit, test: as in the context; `test` may be fewer prompts.
        instruments: rules, thresholds, centroids.
        context: of the model before: the model itself, the judge, the seed.
        reliability: as in `Comparison`.
    """

    name: str
    fit: Panel = field(repr=False)
    test: Panel = field(repr=False)
    instruments: Instruments = field(repr=False)
    context: Context = field(repr=False)
    reliability: Mapping[str, Array] = field(repr=False)

    @classmethod
    def of(cls, context: Context, rows: Array | None = None) -> Original:
        """Fit everything on the context's fit prompts.

        Args:
            context: of the model before.
            rows: which test prompts to compare on; all when left out.

        Raises:
            UndertowError: too few prompts of a kind; the sentence names it.
        """
        test = context.test if rows is None else part(context.test, rows)
        for wanted, kind in ((True, "harmful"), (False, "harmless")):
            if len(test.rows(harmful=wanted)) < _LEAST:
                raise UndertowError(f"Comparing two models needs at least {_LEAST} {kind} test prompts.")
        instruments = Instruments.fit(context.fit, context.seed)
        return cls(context.chat.name, context.fit, test, instruments, context, reliability(context.fit, context.seed))


def part(panel: Panel, rows: Array) -> Panel:
    """Some prompts of a panel; which of them are the same request bare is not kept."""
    return Panel(panel.observed.part(np.asarray(rows)), np.full(len(rows), -1))


def check_comparable(before: ChatModel, after: ChatModel) -> None:
    """Two checkpoints whose states can be held against each other.

    Raises:
        UndertowError: they differ in depth, width, tokenizer, chat template or thinking mode.
    """
    differing = [
        f"{what} ({one} and {other})"
        for what, one, other in (
            ("the number of blocks", before.layers, after.layers),
            ("the width", before.width, after.width),
        )
        if one != other
    ]
    shared = ("tokenizer", "chat template", "thinking mode")
    differing += [f"the {what}" for what in before.identity.differences(after.identity) if what in shared]
    if differing:
        raise UndertowError(
            f"{before.name} and {after.name} differ in {', '.join(differing)}, so their states cannot be compared: "
            "compare checkpoints of one model."
        )


def compare(before: Context | Original, after: ChatModel, *, progress: bool = True) -> Comparison:
    """Hold a checkpoint against the model that a context was made of.

    Args:
        before: the context of the model before, or what was fitted on it already.
        after: the model after: the same depth, width, tokenizer, template and thinking mode.
        progress: whether bars are shown.

    Raises:
        UndertowError: the two cannot be compared, or there are too few prompts; the sentence says what is missing.
    """
    original = before if isinstance(before, Original) else Original.of(before)
    context = original.context
    check_comparable(context.chat, after)
    test = original.test
    observed = observe_replies(
        after, test.prompts, reply_tokens=context.reply_tokens, judge=context.judge, progress=progress
    )
    captured = after.capture(original.fit.prompts, None, POSITIONS, progress=progress).values.float().cpu().numpy()
    later = Panel(observed, test.bare)
    fit = {position: captured[:, :, place] for place, position in enumerate(POSITIONS)}
    return _compared(original, after.name, later, fit)


def _compared(original: Original, name: str, later: Panel, fit: Mapping[str, Array]) -> Comparison:
    test, instruments, seed = original.test, original.instruments, original.context.seed
    groups = {
        "bare harmful": test.rows(harmful=True, wrapped=False),
        "wrapped harmful": test.rows(harmful=True, wrapped=True),
        "harmless": test.rows(harmful=False),
    }
    refused = {
        group: change_of(test.refused[rows], later.refused[rows], seed) for group, rows in groups.items() if len(rows)
    }
    one, other = (instruments.beliefs(panel.observed.states) for panel in (test, later))
    same = [first == second for first, second in zip(test.observed.replies, later.observed.replies, strict=True)]
    return Comparison(
        before=original.name,
        after=name,
        n=len(test),
        refused=refused,
        shifts=tuple(_shifts(test, one, other, seed)),
        guards=tuple(_guard(original, later, fit, key) for key in instruments.rules),
        by_state=_by_state(original, later),
        cosines=_cosines(original.fit, fit),
        reliability=original.reliability,
        flow=_flow(one, other),
        same_replies=proportion(sum(same), len(same)),
    )


def reliability(fit: Panel, seed: int) -> dict[str, Array]:
    """Belief -> (L + 1,) mean cosine of its direction from two random halves of each side."""
    generator = np.random.default_rng(seed)
    found = {}
    for belief, position, positive, negative in _sides(fit):
        values, cosines = fit.states(position), []
        for _ in range(_HALVINGS):
            halves = [np.array_split(generator.permutation(rows), 2) for rows in (positive, negative)]
            one, other = (_difference(values, halves[0][half], halves[1][half]) for half in (0, 1))
            cosines.append(_cosine(one, other))
        found[belief] = np.mean(cosines, axis=0)
    return found


def _sides(fit: Panel) -> list[tuple[str, str, Array, Array]]:
    """Belief, position, rows of its positive and of its negative side; two rows a side at least."""
    listed = [
        ("harmfulness", "t_inst", fit.rows(harmful=True), fit.rows(harmful=False)),
        ("refusal", "t_post", fit.rows(refused=True), fit.rows(refused=False)),
    ]
    return [one for one in listed if min(len(one[2]), len(one[3])) >= _LEAST]


def _cosines(before: Panel, after: Mapping[str, Array]) -> dict[str, Array]:
    found = {}
    for belief, position, positive, negative in _sides(before):
        one, other = (_difference(values, positive, negative) for values in (before.states(position), after[position]))
        found[belief] = _cosine(one, other)
    return found


def _difference(values: Array, positive: Array, negative: Array) -> Array:
    """(L + 1, d) difference of means; exactly 0 at states where it is nothing but rounding."""
    sides = [values[rows].mean(axis=0, dtype=np.float64) for rows in (positive, negative)]
    difference = sides[0] - sides[1]
    rounding = np.linalg.norm(difference, axis=1) <= _ROUNDING * np.linalg.norm(sides[0], axis=1)
    difference[rounding] = 0.0
    return np.asarray(difference)


def _cosine(one: Array, other: Array) -> Array:
    """(L + 1,) cosines of two directions (L + 1, d); not a number where one has no length."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    dots = np.einsum("sd,sd->s", one, other)
    return np.asarray(np.divide(dots, lengths, out=np.full(len(dots), np.nan), where=lengths > 0))


def _by_state(original: Original, later: Panel) -> dict[str, dict[str, Array]]:
    test, found = original.test, {}
    for belief, centroids in original.instruments.centroids.items():
        one, other = (
            centroids.scores(torch.from_numpy(panel.states(centroids.position))).numpy() for panel in (test, later)
        )
        kinds = {kind: test.kind(kind) for kind, _, _ in FOUR_KINDS}
        found[belief] = {
            kind: (other[rows] - one[rows]).mean(axis=0) for kind, rows in kinds.items() if len(rows) >= _LEAST
        }
    return found


def _shifts(test: Panel, before: Mapping[str, Array], after: Mapping[str, Array], seed: int) -> list[Shift]:
    found = []
    for belief in before:
        for kind, _, _ in FOUR_KINDS:
            rows = test.kind(kind)
            if len(rows) < _LEAST:
                continue
            change = after[belief][rows] - before[belief][rows]
            low, high = bootstrap_interval(change, n_resamples=RESAMPLES, seed=seed)
            means = [float(values[belief][rows].mean()) for values in (before, after)]
            found.append(Shift(belief, kind, means[0], means[1], Estimate(float(change.mean()), low, high, len(rows))))
    return found


def _guard(original: Original, later: Panel, fit: Mapping[str, Array], key: str) -> GuardChange:
    instruments, test, seed = original.instruments, original.test, original.context.seed
    rule, threshold = instruments.rules[key], instruments.thresholds[key]
    scores = [instruments.scores(key, panel.observed.states) for panel in (test, later)]
    flags = [values >= threshold for values in scores]
    harmful = {
        "all": test.rows(harmful=True),
        "bare": test.rows(harmful=True, wrapped=False),
        "wrapped": test.rows(harmful=True, wrapped=True),
    }
    harmless = test.rows(harmful=False)
    renewed = instruments.threshold_for(key, fit)
    rows = harmful["all"]
    return GuardChange(
        key=key,
        rule=rule.name,
        states=rule.states,
        threshold=threshold,
        recall={group: change_of(flags[0][rows], flags[1][rows], seed) for group, rows in harmful.items() if len(rows)},
        false_positives=change_of(flags[0][harmless], flags[1][harmless], seed),
        recalibrated=change_of(flags[0][rows], scores[1][rows] >= renewed, seed),
    )


def _flow(before: Mapping[str, Array], after: Mapping[str, Array]) -> Array:
    """(4, 4) counts of prompts by quadrant before and after; both published thresholds are 0."""
    flow = np.zeros((len(QUADRANTS), len(QUADRANTS)), dtype=int)
    places = [
        [
            QUADRANTS.index(quadrant_of(bool(harm >= 0), float(refusal)))
            for harm, refusal in zip(beliefs["harmfulness"], beliefs["refusal"], strict=True)
        ]
        for beliefs in (before, after)
    ]
    np.add.at(flow, (places[0], places[1]), 1)
    return flow
