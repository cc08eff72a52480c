"""What a model does with prompts, and what its states are meanwhile: both out of one generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from undertow.measure.judge import RefusalJudge, SubstringJudge

if TYPE_CHECKING:
    from undertow.model import ChatModel
    from undertow.model.generate import PrefillBatch
    from undertow.prompts import Prompt

POSITIONS = ("t_inst", "t_post")


@dataclass(frozen=True)
class Observed:
    """Prompts with the model's replies and states.

    Attributes:
        prompts: n prompts.
        replies: the openings of their replies, temperature 0.
        refused: (n,) of bool, by the judge.
        states: position ("t_inst", "t_post") -> (n, L + 1, d) float32, every state.
    """

    prompts: list[Prompt]
    replies: list[str]
    refused: npt.NDArray[Any]
    states: Mapping[str, npt.NDArray[Any]] = field(repr=False)

    def part(self, rows: slice | Sequence[int] | npt.NDArray[Any]) -> Observed:
        """Some of them: a slice, or row indices."""
        chosen = np.arange(len(self.prompts))[rows]
        return Observed(
            [self.prompts[row] for row in chosen],
            [self.replies[row] for row in chosen],
            self.refused[chosen],
            {position: values[rows] for position, values in self.states.items()},
        )


def observe_replies(
    model: ChatModel,
    prompts: Sequence[Prompt],
    *,
    reply_tokens: int = 16,
    judge: RefusalJudge | None = None,
    progress: bool = True,
) -> Observed:
    """Generate replies and read every state at both positions in the prefill of the same generation.

    Args:
        model: the chat model.
        prompts: the prompts.
        reply_tokens: tokens of a reply that is judged: a refusal shows in its first sentence.
        judge: tells refusals from answers; the published substring list when left out.
        progress: whether a bar is shown.

    Raises:
        PositionError: a prompt's positions cannot be told, or it leaves no room for a reply.
    """
    states = tuple(range(model.layers + 1))
    held = np.empty((len(prompts), len(states), len(POSITIONS), model.width), dtype=np.float32)

    def collect(batch: PrefillBatch) -> list[None]:
        held[batch.indices] = batch.values.float().cpu().numpy()
        return [None] * len(batch.indices)

    replies = model.generate(
        list(prompts),
        max_new_tokens=reply_tokens,
        progress=progress,
        on_prefill=collect,
        prefill_states=states,
        prefill_positions=POSITIONS,
    )
    refused = np.array((judge or SubstringJudge()).refused(replies), dtype=bool)
    return Observed(list(prompts), replies, refused, {name: held[:, :, place] for place, name in enumerate(POSITIONS)})
