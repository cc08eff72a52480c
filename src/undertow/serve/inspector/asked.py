"""What the inspector page may ask for."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from undertow.prompts import Prompt
from undertow.serve.fields import wrong
from undertow.serve.jobs import OnHarmful, OnOverRefusal

MOST_REPLY_TOKENS = 256
MOST_COEFFICIENT = 8.0

Span = Literal["instruction", "tail", "prompt", "generated", "all"]
SPANS: tuple[Span, ...] = ("instruction", "tail", "prompt", "generated", "all")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Turn(_Body):
    """One message of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str

    @field_validator("content")
    @classmethod
    def _whole(cls, content: str) -> str:
        try:
            content.encode("utf-8")
        except UnicodeEncodeError:
            raise wrong("A message holds half of a surrogate pair, which is no text; send whole characters.") from None
        return content


class ReadRequest(_Body):
    """A conversation to be read.

    Attributes:
        messages: the conversation, ending with a user message.
        on_harmful, on_over_refusal: the policy, where it is not to be the server's own.
    """

    messages: list[Turn] = Field(min_length=1, max_length=64)
    on_harmful: OnHarmful | None = None
    on_over_refusal: OnOverRefusal | None = None

    @model_validator(mode="after")
    def _ends_with_the_user(self) -> Self:
        if self.messages[-1].role != "user" or not self.messages[-1].content.strip():
            raise wrong("The conversation must end with a user message that is not empty.")
        return self

    def prompt(self) -> Prompt:
        """The conversation."""
        return Prompt(tuple(turn.model_dump() for turn in self.messages))


class Steering(_Body):
    """A push along one of the guard's directions.

    Attributes:
        direction: which belief.
        state: at which state.
        coefficient: in differences of means at that state; negative ones lead away.
        span: on which tokens.
    """

    direction: Literal["harmfulness", "refusal"]
    state: int = Field(ge=0, le=4096)
    coefficient: float = Field(ge=-MOST_COEFFICIENT, le=MOST_COEFFICIENT)
    span: Span


class ReplyRequest(ReadRequest):
    """A conversation to be answered.

    Attributes:
        steering: None for the plain reply.
        max_tokens: most tokens of the reply.
        temperature: 0 takes the likeliest token.
        seed: fixes the random numbers where the temperature is above 0.
    """

    steering: Steering | None = None
    max_tokens: int = Field(default=64, ge=1, le=MOST_REPLY_TOKENS)
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
