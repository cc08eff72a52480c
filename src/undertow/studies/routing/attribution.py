"""Part 3: direct logit attribution of every head and MLP to the refusal log-odds, exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from undertow.errors import CoverageError
from undertow.measure.attribution import LogitAttribution
from undertow.model import Replace
from undertow.studies.routing.context import Context, Half
from undertow.studies.routing.readings import Array, Head
from undertow.studies.routing.readouts import LogOdds

_NUMBERS_AT_ONCE = 30_000_000

Edits = Callable[[Sequence[int]], Sequence[Replace]]
"""Edits for some rows of a half: values are listed for these rows alone."""


@dataclass(frozen=True)
class Attributed:
    """Attribution to the log-odds on one side of the pairs.

    Attributes:
        heads: (n, H), in the order of `Context.heads`.
        mlps: (n,) all MLPs together.
        rest: (n,) embedding, biases and other modules.
        residue: largest relative difference between the parts' sum and the logits.
    """

    heads: Array
    mlps: Array
    rest: Array
    residue: float


class Attributor:
    """Attributes the log-odds of a context; opens the model's readout once.

    Args:
        context: the pairs and the model.

    Raises:
        CoverageError: the model's logits are no sum of parts.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._attribution = LogitAttribution(context.chat)
        openings = context.openings
        self._tokens = [*openings.refusal_tokens, *(openings.answer_tokens or ())]
        self._readout = LogOdds(openings)
        self._known: dict[int, tuple[Half, torch.Tensor]] = {}

    def __call__(self, half: Half, side: str, edits: Edits | None = None) -> Attributed:
        """Attribute one side's prompts, with or without edits.

        The weights of the tokens are those at the sensitive prompt's own logits, on both sides of a pair and under any
        edit, so that only parts differ. Where the model squashes its logits, they carry the slope there.

        Args:
            half: choose or report.
            side: "sensitive" or "control".
            edits: makes the edits for some rows.
        """
        chat, prompts = self.context.chat, half.prompts(side)
        parts = sum(chat.anatomy.heads) + 3 * chat.layers + 2
        step = max(1, _NUMBERS_AT_ONCE // (parts * chat.width))
        pieces = []
        for begin in range(0, len(prompts), step):
            rows = list(range(begin, min(begin + step, len(prompts))))
            chosen = [prompts[row] for row in rows]
            if edits is None:
                found = self._attribution(chosen, self._tokens)
            else:
                with chat.edit(*edits(rows)):
                    found = self._attribution(chosen, self._tokens)
            weights = self._weights(half)[rows]
            if found.capped:
                weights = weights * self._slope(found.logits)
            pieces.append((found, torch.einsum("npt,nt->np", found.values.double(), weights.double())))
        kinds = np.array([part.kind for part in pieces[0][0].parts])
        order = {(part.block, part.head): place for place, part in enumerate(pieces[0][0].parts) if part.kind == "head"}
        values = torch.cat([values for _, values in pieces]).numpy()
        heads = np.stack(
            [values[:, order[head]] if head in order else np.zeros(len(values)) for head in self.context.heads], axis=1
        )
        mlps = values[:, kinds == "mlp"].sum(1)
        rest = values.sum(1) - values[:, kinds == "head"].sum(1) - mlps
        return Attributed(heads, mlps, rest, max(found.residue for found, _ in pieces))

    def _weights(self, half: Half) -> torch.Tensor:
        if id(half) not in self._known:
            chat = self.context.chat
            # Log-probabilities differ from logits by a constant a prompt, which no weight sees.
            logits = chat.logits(half.prompts("sensitive"))[:, self._tokens]
            self._known[id(half)] = (half, self._readout.weights(logits))
        return self._known[id(half)][1]

    def _slope(self, logits: torch.Tensor) -> torch.Tensor:
        """Of cap * tanh(logit / cap), at these logits."""
        config = self.context.chat.model.config.get_text_config(decoder=True)
        cap = getattr(config, "final_logit_softcapping", None)
        if not cap:
            raise CoverageError("It squashes its logits in a way that is not known, so attribution has another unit.")
        return 1 - torch.tanh(logits / cap) ** 2


def interchange(half: Half, donor: str, heads: Sequence[Head]) -> Edits:
    """Edits that put another side's outputs into heads at t_post, each pair's own."""

    def edits(rows: Sequence[int]) -> list[Replace]:
        return half.swap(donor, heads, list(rows))

    return edits
