"""What is read of a reply: higher means nearer to a refusal. Every number of the study names its readout.

`LogOdds` is the default. `ControlLoss` is the published one; it also counts what the two sides of a pair are about.
`Projection` reads a state along a stated direction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from undertow.errors import UndertowError
from undertow.measure.judge import FirstTokenJudge, JudgeError
from undertow.studies.routing.readings import Array

if TYPE_CHECKING:
    from undertow.measure import Direction
    from undertow.model import ChatModel
    from undertow.model.replay import Branch
    from undertow.prompts import Prompt

READOUTS = ("log-odds", "control-loss", "projection")
PUBLISHED_REFUSALS = ("I", "I'm", "Sorry", "cannot", "can't", "unable", "As", "Unfortunately")


class Readout(Protocol):
    """A number a prompt, under any edits of its last tokens."""

    @property
    def name(self) -> str:
        """What it is, in words, for every table."""
        ...

    @property
    def unit(self) -> str:
        """Its unit."""
        ...

    def branches(
        self,
        chat: ChatModel,
        prompts: Sequence[Prompt],
        controls: Sequence[Prompt],
        branches: Sequence[Branch],
        *,
        last: int = 1,
        budget: int = 512,
    ) -> Array:
        """(n, R) readout of each prompt under each branch of edits on its last tokens.

        Args:
            chat: the model.
            prompts: n prompts.
            controls: the control of each prompt's pair (the prompt itself, where it is one).
            branches: R lists of edits, as for `ChatModel.replay`.
            last: how many tokens are run again.
            budget: most branches in one pass.
        """
        ...


@dataclass(frozen=True)
class LogOdds:
    """Log-odds that the first reply token opens a refusal rather than an answer, in nats.

    Attributes:
        judge: the tokens on both sides.
    """

    judge: FirstTokenJudge
    name: str = "refusal log-odds at the first reply token"
    unit: str = "nats"

    def branches(
        self,
        chat: ChatModel,
        prompts: Sequence[Prompt],
        controls: Sequence[Prompt],
        branches: Sequence[Branch],
        *,
        last: int = 1,
        budget: int = 512,
    ) -> Array:
        """See `Readout.branches`."""
        refusing, answering = self.judge.refusal_tokens, self.judge.answer_tokens or ()
        tokens = [*refusing, *answering] if answering else None
        found = chat.replay(list(prompts), branches, last=last, tokens=tokens, branch_budget=budget, progress=False)
        if tokens is None:
            return self.judge.scores(found.flatten(0, 1)).reshape(found.shape[:2]).numpy().astype(np.float64)
        split = len(refusing)
        return (found[..., :split].logsumexp(-1) - found[..., split:].logsumexp(-1)).numpy().astype(np.float64)

    def weights(self, logits: torch.Tensor) -> torch.Tensor:
        """How the readout changes with each token's logit, at a prompt's own logits.

        Args:
            logits: (n, refusal tokens + answer tokens).

        Returns:
            (n, tokens): exact where either side has one token, the slope at the prompt's own logits otherwise.
        """
        split = len(self.judge.refusal_tokens)
        refusing, answering = logits[:, :split].softmax(-1), logits[:, split:].softmax(-1)
        return torch.cat([refusing, -answering], dim=1)


@dataclass(frozen=True)
class ControlLoss:
    """Negative log-likelihood of the control's own greedy continuation, in nats a token (the published readout).

    Attributes:
        continuations: text of a control -> its first reply tokens.
    """

    continuations: dict[str, list[int]]
    name: str = "loss of the control's own continuation"
    unit: str = "nats a token"

    @classmethod
    def of(cls, chat: ChatModel, controls: Sequence[Prompt], tokens: int = 5) -> ControlLoss:
        """Generates every control's continuation; an empty reply is the model's end token.

        Args:
            chat: the model.
            controls: the controls of all pairs.
            tokens: how many tokens of the reply.
        """
        replies = chat.generate(list(controls), max_new_tokens=tokens, progress=False)
        stop = sorted(chat.stop_ids)[:1]
        found = {}
        for prompt, reply in zip(controls, replies, strict=True):
            ids = chat.tokenizer.encode(reply, add_special_tokens=False)[:tokens] or stop
            if not ids:
                raise UndertowError("A control gets an empty reply, so its loss is no readout: use another one.")
            found[prompt.text] = list(ids)
        return cls(found)

    def branches(
        self,
        chat: ChatModel,
        prompts: Sequence[Prompt],
        controls: Sequence[Prompt],
        branches: Sequence[Branch],
        *,
        last: int = 1,
        budget: int = 512,
    ) -> Array:
        """See `Readout.branches`."""
        wanted = [self.continuations[control.text] for control in controls]
        found = chat.replay_losses(list(prompts), wanted, branches, last=last, branch_budget=budget, progress=False)
        return found.numpy().astype(np.float64)


@dataclass(frozen=True)
class Projection:
    """A state at t_post along a unit direction, in the units of the residual stream.

    Attributes:
        direction: its vector at `state` is taken and normed.
        state: the state read.
        fitted: texts of the prompts that the direction comes from; no effect is tested on them.
    """

    direction: Direction
    state: int
    fitted: frozenset[str] = frozenset()
    unit: str = "units of the residual stream"

    @property
    def name(self) -> str:
        """Says which direction and which state."""
        return f"projection of state {self.state} at t_post on the {self.direction.kind} direction"

    def branches(
        self,
        chat: ChatModel,
        prompts: Sequence[Prompt],
        controls: Sequence[Prompt],
        branches: Sequence[Branch],
        *,
        last: int = 1,
        budget: int = 512,
    ) -> Array:
        """See `Readout.branches`."""
        found = chat.replay_states(
            list(prompts), branches, [self.state], last=last, branch_budget=budget, progress=False
        )
        vector = self.direction[self.state].float()
        return (found[:, :, 0] @ (vector / vector.norm())).numpy().astype(np.float64)


def openings_of(
    tokenizer: Any,
    replies: Sequence[str],
    refused: Sequence[bool],
    *,
    controls: Sequence[str] = (),
    refusal_tokens: Sequence[str] = (),
    answer_tokens: Sequence[str] = (),
) -> tuple[FirstTokenJudge, str]:
    """The tokens of the log-odds, and where they come from.

    Stated tokens come first; else the first tokens of the model's own refusals and answers on choose pairs, each on the
    side that opens with it more often; else the published refusal openings against the openings of its replies to the
    controls.

    Args:
        tokenizer: the model's.
        replies: replies to choose pairs, both sides.
        refused: which of them refuse.
        controls: replies to the controls.
        refusal_tokens, answer_tokens: stated openings, both or neither.

    Raises:
        UndertowError: only one side is stated, or nothing tells refusals from answers.
    """
    if bool(refusal_tokens) != bool(answer_tokens):
        raise UndertowError("State the openings of both refusals and answers, or of neither.")
    if refusal_tokens:
        return (
            FirstTokenJudge.from_tokenizer(tokenizer, list(refusal_tokens), list(answer_tokens)),
            "first tokens as stated",
        )
    refusals = [reply for reply, no in zip(replies, refused, strict=True) if no and reply.strip()]
    answers = [reply for reply, no in zip(replies, refused, strict=True) if not no and reply.strip()]
    if refusals and answers and (found := _own_openings(tokenizer, refusals, answers)) is not None:
        return found
    spaced = [text for word in PUBLISHED_REFUSALS for text in (word, f" {word}")]
    try:
        judge = FirstTokenJudge.from_tokenizer(
            tokenizer, [*spaced, *refusals], [reply for reply in controls if reply.strip()]
        )
    except JudgeError:
        raise UndertowError(
            "No first token tells this model's refusals from its answers: state them with --refusal-token and "
            "--answer-token, or choose another readout."
        ) from None
    return judge, "published refusal openings against the openings of replies to the controls"


def _own_openings(
    tokenizer: Any, refusals: Sequence[str], answers: Sequence[str]
) -> tuple[FirstTokenJudge, str] | None:
    """First tokens, each on the side whose replies open with it more often; None where one side is left without."""
    counts = [
        Counter(int(ids[0]) for text in texts if (ids := tokenizer.encode(text, add_special_tokens=False)))
        for texts in (refusals, answers)
    ]
    shares = [{token: count / max(1, side.total()) for token, count in side.items()} for side in counts]
    refusing = {token for token, share in shares[0].items() if share > shares[1].get(token, 0.0)}
    answering = {token for token, share in shares[1].items() if share > shares[0].get(token, 0.0)}
    if not refusing or not answering:
        return None
    covered = [sum(shares[side][token] for token in tokens) for side, tokens in enumerate((refusing, answering))]
    return (
        FirstTokenJudge(tuple(sorted(refusing)), tuple(sorted(answering))),
        "first tokens of the model's own replies to choose pairs, each on the side that opens with it more often; they "
        f"open {covered[0]:.0%} of its refusals and {covered[1]:.0%} of its answers",
    )
