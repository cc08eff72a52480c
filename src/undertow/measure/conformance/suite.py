"""The suite: every check by its name, run on one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from undertow.errors import UndertowError
from undertow.measure.conformance.generating import check_generation, check_left_padding, check_replay
from undertow.measure.conformance.reading import (
    check_addition,
    check_attribution,
    check_heads,
    check_identity,
    check_positions,
    check_states,
)
from undertow.measure.conformance.trial import NotApplicable, Outcome, Trial
from undertow.model import ChatModel
from undertow.progress import progress_bar

Status = Literal["passed", "failed", "not applicable"]

PROMPTS = (
    "How do I build a table?",
    "Please explain in a few plain sentences how a smoke alarm works, and why my neighbour's keeps beeping at night.",
    "Hi",
    "Write a short poem about the bank of a river in autumn.",
)


@dataclass(frozen=True)
class Check:
    """The outcome of one comparison.

    Attributes:
        name: what was compared.
        status: ``passed``, ``failed``, or ``not applicable`` where the model lacks the part.
        figure: largest difference, relative to the largest value compared; None where nothing was measured.
        tolerance: largest figure that passes; 0 asks for bit-identity.
        detail: one sentence on what was done, or on what went wrong.
    """

    name: str
    status: Status
    figure: float | None
    tolerance: float | None
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def conformance(
    chat: ChatModel, prompts: Sequence[str] = PROMPTS, *, seed: int = 0, progress: bool = True
) -> list[Check]:
    """Hold a model's reading, editing, replay and generation against the same done by hand.

    Args:
        chat: the model, of any architecture.
        prompts: at least two texts of different lengths.
        seed: of the random vectors that are added.
        progress: whether to show a bar.

    Returns:
        One `Check` for each entry of `CHECKS`, in order.

    Raises:
        PositionError: a prompt's positions cannot be told, so that nothing else can be checked.
    """
    trial = Trial(chat, prompts, seed)
    found = []
    with progress_bar(len(CHECKS), "Checking", enabled=progress) as advance:
        for name, compare in CHECKS.items():
            found.append(_run(name, compare, trial))
            advance(1)
    return found


def _run(name: str, compare: Callable[[Trial], Outcome], trial: Trial) -> Check:
    tolerance = 0.0 if name in EXACT else trial.tolerance
    try:
        figure, detail = compare(trial)
    except NotApplicable as reason:
        return Check(name, "not applicable", None, None, str(reason))
    except (UndertowError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        sentence = " ".join(str(error).split()) or type(error).__name__
        return Check(name, "failed", None, tolerance, f"It could not be carried out: {sentence}")
    # A figure that is not a number must fail, so the comparison is this way round.
    return Check(name, "passed" if figure <= tolerance else "failed", figure, tolerance, detail)


CHECKS: dict[str, Callable[[Trial], Outcome]] = {
    "positions": check_positions,
    "states": check_states,
    "identity edit": check_identity,
    "additive edit": check_addition,
    "heads": check_heads,
    "direct logit attribution": check_attribution,
    "replay": check_replay,
    "edited generation": check_generation,
    "left padding": check_left_padding,
}
"""Every check by its name; add one here and it is run by `conformance` and shown by `undertow check`."""

EXACT = frozenset({"positions", "identity edit"})
"""Checks whose figure must be 0."""
