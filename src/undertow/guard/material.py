"""Everything that is gathered about the fit prompts before anything is fitted: states, behaviour, the split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from undertow.errors import GuardError, PositionError
from undertow.guard.behaviour import observe, sample_rows
from undertow.guard.calibration import Calibration
from undertow.guard.data import FitData, check_enough, split
from undertow.guard.rules.base import Array, rule_named

if TYPE_CHECKING:
    from undertow.measure.judge import RefusalJudge
    from undertow.model import ChatModel

STATE_ROWS = 4000
"""Most prompts of which every state is held in memory; the chosen states alone are read of the others."""

BEHAVIOUR_ROWS = 400
"""Most prompts that the model replies to, to see whether it refuses them."""


@dataclass(frozen=True)
class FitSettings:
    """The arguments of `LatentGuard.fit` beside the model and the prompts."""

    rule: str = "auto"
    calibration: Calibration | float | None = None
    seed: int = 0
    refusal_rule: str | None = "auto"
    anchors: Literal["labels", "behaviour"] = "labels"
    steering: bool = True
    judge: RefusalJudge | None = None
    reply_tokens: int = 24
    progress: bool = True

    @property
    def published_threshold(self) -> bool:
        """Whether the published threshold 0 is kept."""
        return self.rule == "centroid" and self.calibration is None

    def resolved(self) -> Calibration:
        """The calibration as an object. Raises GuardError for values out of range."""
        if self.calibration is None:
            return Calibration()
        if isinstance(self.calibration, Calibration):
            return self.calibration
        return Calibration(rate=float(self.calibration))

    def check(self) -> None:
        """Raises GuardError for an unknown rule or kind of anchors before anything expensive is done."""
        for name in (self.rule, self.refusal_rule):
            if name not in ("auto", None):
                rule_named(str(name))
        if self.anchors not in ("labels", "behaviour"):
            raise GuardError(f"anchors must be 'labels' or 'behaviour', not {self.anchors!r}.")
        self.resolved()


@dataclass
class Material:
    """All that is known about the fit prompts.

    Attributes:
        model: the model.
        data: prompts and labels.
        states: every state of the model.
        sampled: indices of the rows of which every state at t_inst is held, ascending.
        observed: indices of the rows whose behaviour was looked at, ascending; their states at t_post are held.
        refused: (n,) of bool, meaningful at `observed`.
        fit_rows, held_out: the split.
        notes: what limits the fit, in sentences.
    """

    model: ChatModel
    data: FitData
    states: tuple[int, ...]
    sampled: Array
    observed: Array
    refused: Array
    fit_rows: Array
    held_out: Array
    notes: list[str]
    progress: bool
    _instruction: Array = field(repr=False)
    _end: Array = field(repr=False)
    _wide: tuple[tuple[int, ...], Array] | None = field(default=None, repr=False)

    @property
    def behaviour(self) -> list[str]:
        """Per row "refused", "answered" or "unknown"."""
        found = ["unknown"] * len(self.data.prompts)
        for row in self.observed:
            found[row] = "refused" if self.refused[row] else "answered"
        return found

    @property
    def strata(self) -> list[tuple[bool, str, str]]:
        """Per row (harmful, family, behaviour)."""
        return list(zip(self.data.labels.tolist(), self.data.families, self.behaviour, strict=True))

    @property
    def kinds(self) -> list[tuple[object, ...]]:
        """Per row what is weighed alike: `strata` where the behaviour of every row is known, else (harmful, family)."""
        if len(self.observed) == len(self.data.prompts):
            return list(self.strata)
        return list(zip(self.data.labels.tolist(), self.data.families, strict=True))

    @property
    def is_sampled(self) -> Array:
        """(n,) of bool."""
        mask = np.zeros(len(self.data.prompts), dtype=bool)
        mask[self.sampled] = True
        return mask

    def at_instruction(self, rows: Array, states: Sequence[int] | None = None) -> Array:
        """States at t_inst, (rows, states, d) float32; all states by default, of sampled rows only."""
        wanted = self.states if states is None else tuple(states)
        if self.is_sampled[rows].all():
            block = self._instruction[np.searchsorted(self.sampled, rows)]
            return block if wanted == self.states else block[:, [self.states.index(state) for state in wanted]]
        if self._wide is None or self._wide[0] != wanted:
            captured = self.model.capture(
                list(self.data.prompts), states=wanted, positions=("t_inst",), progress=self.progress
            )
            self._wide = (wanted, _finite(captured.at("t_inst").float().numpy()))
        return self._wide[1][rows]

    def at_end(self, rows: Array) -> Array:
        """All states at t_post, (rows, S, d) float32, of observed rows."""
        return self._end[np.searchsorted(self.observed, rows)]


def prepare(model: ChatModel, data: FitData, calibration: Calibration, settings: FitSettings) -> Material:
    """Read states and behaviour, and split.

    Every state is held of at most 4,000 prompts (t_inst) and 400 (t_post), so that memory stays bounded however many
    prompts are given.

    Raises:
        GuardError: states are not finite, or a class has too few prompts on one side of the split.
    """
    watch = settings.refusal_rule is not None or settings.steering or settings.anchors == "behaviour"
    try:
        model.renderer.render_many(data.prompts)
    except PositionError:
        data = _renderable(model, data)
    kinds = [str(kind) for kind in zip(data.labels, data.families, strict=True)]
    sampled = sample_rows(kinds, STATE_ROWS, settings.seed)
    observed = (
        sampled[sample_rows([kinds[row] for row in sampled], BEHAVIOUR_ROWS, settings.seed)] if watch else sampled[:0]
    )
    instruction, end = _capture(model, data, sampled, observed, settings.progress)
    refused = np.zeros(len(data.prompts), dtype=bool)
    doubts: tuple[str, ...] = ()
    if watch:
        refused[observed], doubts = observe(
            model,
            [data.prompts[row] for row in observed],
            judge=settings.judge,
            max_new_tokens=settings.reply_tokens,
            progress=settings.progress,
        )
    material = Material(
        model,
        data,
        tuple(range(model.layers + 1)),
        sampled,
        observed,
        refused,
        observed,
        observed,
        list(doubts),
        settings.progress,
        instruction,
        end,
    )
    material.fit_rows, material.held_out = split(material.strata, calibration.fraction, settings.seed)
    for name, rows in (("fit", material.fit_rows), ("held out", material.held_out)):
        if data.labels[rows].sum() < 2 or (~data.labels[rows]).sum() < 2:
            raise GuardError(
                f"With a held-out fraction of {calibration.fraction:g} a class has fewer than two prompts {name}; add "
                "prompts or change the fraction."
            )
    return material


def _capture(model: ChatModel, data: FitData, sampled: Array, observed: Array, progress: bool) -> tuple[Array, Array]:
    """States at t_inst of the sampled rows and at t_post of the observed ones, every prompt read once."""
    states = tuple(range(model.layers + 1))
    others = np.setdiff1d(sampled, observed)
    instruction = np.empty((len(sampled), len(states), model.width), dtype=np.float32)
    end = np.empty((len(observed), len(states), model.width), dtype=np.float32)
    if len(observed):
        both = model.capture([data.prompts[row] for row in observed], states=states, progress=progress)
        instruction[np.searchsorted(sampled, observed)] = both.at("t_inst").float().numpy()
        end[:] = both.at("t_post").float().numpy()
    if len(others):
        rest = model.capture(
            [data.prompts[row] for row in others], states=states, positions=("t_inst",), progress=progress
        )
        instruction[np.searchsorted(sampled, others)] = rest.at("t_inst").float().numpy()
    return _finite(instruction), _finite(end)


def _finite(values: Array) -> Array:
    if not np.isfinite(values).all():
        raise GuardError(
            "The model gives states that are not finite for some fit prompts; load it in bfloat16 or float32."
        )
    return values


def _renderable(model: ChatModel, data: FitData) -> FitData:
    kept, reason = [], ""
    for row, prompt in enumerate(data.prompts):
        try:
            model.render(prompt)
            kept.append(row)
        except PositionError as error:
            reason = reason or str(error)
    lost = len(data.prompts) - len(kept)
    data = data.keep(
        kept, f"{lost} prompts were left out of the fit because they cannot be rendered (the first: {reason})"
    )
    check_enough(data)
    return data
