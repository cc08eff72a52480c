"""Requests and responses on the wire, as OpenAI has them, with a field `undertow` for what is ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from undertow.prompts import Prompt
from undertow.serve.fields import Content, Inputs, Name, Only, Stop, wrong
from undertow.serve.jobs import Action, OnHarmful, OnOverRefusal, Reason


class _Request(BaseModel):
    # Values of another type are refused rather than converted, so that the schema says what is taken.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ChatMessage(_Request):
    """One turn; the fields after the content are taken where they say nothing, as clients send replies back whole."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Any = None
    refusal: Any = None
    annotations: Any = None
    audio: Annotated[Any, Only(None)] = None
    function_call: Annotated[Any, Only(None)] = None
    tool_calls: Annotated[Any, Only(None, [])] = None


class PolicyRequest(_Request):
    """What a request wants done with its verdict, within what the server allows."""

    on_harmful: OnHarmful | None = None
    on_over_refusal: OnOverRefusal | None = None


class StreamOptions(_Request):
    """How a stream is sent."""

    include_usage: bool | None = None
    include_obfuscation: Any = None


class ChatRequest(_Request):
    """A conversation to be answered.

    Options that would change the reply and are not offered are refused by name; those that cannot change it are taken
    and ignored.
    """

    messages: list[ChatMessage] = Field(min_length=1, description="The last one must be the user's.")
    model: Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop = ()
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    undertow: PolicyRequest | None = None

    n: Annotated[Any, Only(None, 1)] = None
    logprobs: Annotated[Any, Only(None, False)] = None
    top_logprobs: Annotated[Any, Only(None, 0)] = None
    tools: Annotated[Any, Only(None, [])] = None
    tool_choice: Annotated[Any, Only(None, "none", "auto")] = None
    functions: Annotated[Any, Only(None, [])] = None
    function_call: Annotated[Any, Only(None, "none", "auto")] = None
    response_format: Annotated[Any, Only(None, {"type": "text"})] = None
    logit_bias: Annotated[Any, Only(None, {})] = None
    frequency_penalty: Annotated[Any, Only(None, 0)] = None
    presence_penalty: Annotated[Any, Only(None, 0)] = None
    modalities: Annotated[Any, Only(None, ["text"])] = None
    audio: Annotated[Any, Only(None)] = None
    web_search_options: Annotated[Any, Only(None)] = None
    moderation: Annotated[Any, Only(None)] = None

    metadata: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None
    verbosity: Any = None

    @model_validator(mode="after")
    def _agrees(self) -> ChatRequest:
        if self.messages[-1].role != "user":
            raise wrong("The last message must be the user's.", "messages")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise wrong("'max_tokens' and 'max_completion_tokens' differ; send one of them.", "max_tokens")
        return self

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of the reply, by whichever name it was sent."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def prompt(self) -> Prompt:
        """The conversation."""
        return Prompt(tuple({"role": message.role, "content": message.content} for message in self.messages))


class ModerationRequest(_Request):
    """Texts to be judged, each as a conversation's only message."""

    input: Inputs
    model: Name | None = None


class VerdictBody(BaseModel):
    """What the guard said, or why it could not, and what was done."""

    action: Action
    judged: bool
    reason: Reason | None
    harmful: float | None = Field(description="Calibrated probability that the request is harmful.")
    harmfulness: float | None = Field(description="Belief of harmfulness, in the units of the guard's rule.")
    threshold: float | None = Field(description="From which harmfulness on a request is flagged.")
    refusal: float | None = Field(description="Belief of refusal; positive where the model is about to refuse.")
    flagged: bool
    quadrant: str | None = Field(description="Both beliefs in words.")
    warnings: list[str]


class ReplyMessage(BaseModel):
    """The reply."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(BaseModel):
    """The only choice of a response; `ended_by` is "time" where the time limit cut the reply."""

    index: int
    message: ReplyMessage
    logprobs: None
    finish_reason: Literal["stop", "length", "content_filter"]
    ended_by: Literal["stop", "length", "content_filter", "time"]


class Usage(BaseModel):
    """Tokens that were read and generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """A reply with the verdict on its prompt."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    undertow: VerdictBody


class ModerationResult(BaseModel):
    """What the guard says of one text; a text that it cannot judge is flagged and scores 1,
    unless the operator lets such texts pass: then it is not flagged and has no score."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float | None]
    undertow: VerdictBody


class ModerationResponse(BaseModel):
    """One result a text, in order."""

    id: str
    model: str
    results: list[ModerationResult]


class GuardBody(BaseModel):
    """The guard of a served model."""

    fingerprint: str
    rule: str
    threshold: float | None
    states: list[int]
    quadrants: list[str]
    policy: dict[str, Any]
    warnings: list[str]


class ModelBody(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    undertow: GuardBody


class ModelList(BaseModel):
    """All served models, which is one."""

    object: Literal["list"]
    data: list[ModelBody]


class StatusBody(BaseModel):
    """How the server is."""

    status: Literal["ok", "ready", "draining", "stalled"]
