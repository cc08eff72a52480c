"""What goes into the engine and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from undertow.errors import UndertowError
from undertow.prompts import Prompt

if TYPE_CHECKING:
    from undertow.guard import Verdict
    from undertow.model import Edit

OnHarmful = Literal["refuse", "flag", "steer"]
OnOverRefusal = Literal["keep", "release"]
OnUnjudged = Literal["refuse", "answer"]
Action = Literal["none", "refused", "flagged", "steered", "released"]
Reason = Literal["too_long", "not_rendered", "not_finite", "error"]
Ending = Literal["stop", "length", "content_filter", "time", "error"]


class ServeError(UndertowError):
    """The server cannot be set up or asked as wanted."""


class Full(ServeError):
    """The queue is full.

    Attributes:
        retry_after: seconds after which room is likely, at least 1.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__("The server's queue is full; try again later.")
        self.retry_after = retry_after


class Draining(ServeError):
    """The server is about to end and takes nothing new."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down; ask another.")


class TooLong(ServeError):
    """A prompt has more tokens than the server or the model reads.

    Attributes:
        tokens: of the prompt; None where it was refused by its characters alone.
        most: tokens that a prompt may have.
    """

    def __init__(self, tokens: int | None, most: int) -> None:
        length = "too many" if tokens is None else str(tokens)
        super().__init__(f"The conversation has {length} tokens, and at most {most} are read; shorten it.")
        self.tokens, self.most = tokens, most


@dataclass(frozen=True)
class Policy:
    """What is done with a verdict.

    Attributes:
        on_harmful: for flagged prompts: "refuse" generates nothing, "flag" generates as ever, "steer" pushes toward
            refusal where the model is about to answer.
        on_over_refusal: for prompts believed harmless and about to be refused: "release" pushes away from refusal.
        on_unjudged: for prompts that the guard cannot judge: "refuse" (fails closed) or "answer".
    """

    on_harmful: OnHarmful = "refuse"
    on_over_refusal: OnOverRefusal = "keep"
    on_unjudged: OnUnjudged = "refuse"


@dataclass(frozen=True)
class Judgement:
    """A verdict, or why there is none, and what follows from it.

    Attributes:
        verdict: None where the guard could not judge.
        action: what is done; "refused" where the guard could not judge and the policy fails closed.
        reason: why the guard could not judge; None where it could.
        tokens: of the prompt; 0 where it could not be rendered.
    """

    verdict: Verdict | None
    action: Action
    reason: Reason | None = None
    tokens: int = 0

    def to_wire(self, threshold: float) -> dict[str, Any]:
        """The JSON object that stands in responses and headers.

        Args:
            threshold: of the guard.
        """
        verdict = self.verdict
        return {
            "action": self.action,
            "judged": verdict is not None,
            "reason": self.reason,
            "harmful": None if verdict is None else verdict.harmful,
            "harmfulness": None if verdict is None else verdict.harmfulness,
            "threshold": threshold,
            "refusal": None if verdict is None else verdict.refusal,
            # Fails closed: what was not judged and was refused counts as flagged.
            "flagged": self.action in ("refused", "flagged") if verdict is None else verdict.flagged,
            "quadrant": None if verdict is None else verdict.quadrant,
            "warnings": [] if verdict is None else list(verdict.warnings),
        }


@dataclass(frozen=True)
class ChatJob:
    """One reply to be generated.

    Attributes:
        prompt: the conversation, ending with a user message.
        policy: what is done with the verdict.
        max_new_tokens: most tokens of the reply; less where the context ends first.
        temperature: 0 takes the likeliest token.
        top_p: probability mass that sampling keeps.
        seed: fixes the random numbers: the reply is then that of `ChatModel.generate` with this seed; None draws one.
        stop: texts before which the reply ends.
        refusal_text: the reply in the place of a refused one.
        edits: further edits in force from the prefill on, for the inspector.
        watch: whether both beliefs are read at every reply token.
    """

    prompt: Prompt
    policy: Policy = field(default_factory=Policy)
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    refusal_text: str = "I'm sorry, but I can't help with that."
    edits: tuple[Edit, ...] = ()
    watch: bool = False


@dataclass(frozen=True)
class Judged:
    """The first event of every reply: the verdict, read in the reply's own prefill."""

    judgement: Judgement


@dataclass(frozen=True)
class Piece:
    """A further part of the reply.

    Attributes:
        text: never empty, never part of a stop text or of an unfinished character.
    """

    text: str


@dataclass(frozen=True)
class Belief:
    """Both beliefs at one reply token, where they are watched.

    Attributes:
        index: of the token within the reply, from 0.
        token: its text on its own.
        harmfulness, refusal: at the guard's own states, on the scale of `BeliefDirections.read` (-1: the mean of the
            harmless or answered prompts, +1: of the harmful or refused ones); None where the guard has none.
    """

    index: int
    token: str
    harmfulness: float | None
    refusal: float | None


@dataclass(frozen=True)
class Ended:
    """The last event of every reply.

    Attributes:
        reason: "stop" (end of reply or a stop text), "length", "content_filter" (refused by the guard), "time" (the
            time limit), "error".
        tokens: generated.
        message: one sentence where the reason is "error".
    """

    reason: Ending
    tokens: int
    message: str | None = None


Event = Judged | Piece | Belief | Ended


@dataclass(frozen=True)
class EngineStatus:
    """A look at the engine at one moment.

    Attributes:
        waiting: replies that wait for a slot.
        running: replies that are being generated.
        judging: guard-only prompts that wait.
        ready: whether it takes work.
        totals: counters since the start: tokens read and generated, batches, their rows, failures.
        stalled: seconds since the last step was done where the engine is at work, else 0.
    """

    waiting: int
    running: int
    judging: int
    ready: bool
    totals: Mapping[str, int] = field(default_factory=dict)
    stalled: float = 0.0
