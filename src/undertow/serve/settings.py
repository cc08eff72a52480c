"""What a server is told: from a TOML file, the environment and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from undertow.guard.generation import REFUSAL_TEXT
from undertow.serve.jobs import OnHarmful, OnOverRefusal, OnUnjudged

Choice = Literal["refuse", "flag", "steer", "keep", "release"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicySettings(_Settings):
    """What is done with verdicts, and what a request may choose for itself.

    Attributes:
        on_harmful, on_over_refusal, on_unjudged: see `undertow.serve.jobs.Policy`.
        allowed: choices that a request may make beside the server's own and the strictest ("refuse", "keep").
        refusal_text: the reply in the place of a refused one.
    """

    on_harmful: OnHarmful = "refuse"
    on_over_refusal: OnOverRefusal = "keep"
    on_unjudged: OnUnjudged = "refuse"
    allowed: tuple[Choice, ...] = ()
    refusal_text: str = REFUSAL_TEXT


class LimitSettings(_Settings):
    """Bounds of sizes, queues and time.

    Attributes:
        body_bytes: of a request's body.
        prompt_tokens: of a conversation.
        reply_tokens: most tokens that a request may ask for.
        reply_tokens_default: where a request does not say.
        inputs: texts of one moderations request.
        rows: replies generated at once.
        batch_tokens: tokens of one prefill or guard-only batch.
        waiting: replies that wait.
        judging: guard-only prompts that wait.
        connections: open at once; further ones are closed as soon as they are made.
        seconds: from a request's arrival to its reply's end.
        write_seconds: for which a client may leave a response unread before it is cut off.
        drain_seconds: given to open requests at the end.
    """

    body_bytes: int = Field(default=262_144, ge=1024)
    prompt_tokens: int = Field(default=4096, ge=1)
    reply_tokens: int = Field(default=2048, ge=1)
    reply_tokens_default: int = Field(default=512, ge=1)
    inputs: int = Field(default=256, ge=1)
    rows: int = Field(default=32, ge=1)
    batch_tokens: int = Field(default=8192, ge=1)
    waiting: int = Field(default=256, ge=0)
    judging: int = Field(default=4096, ge=1)
    connections: int = Field(default=2048, ge=1)
    seconds: float = Field(default=120.0, gt=0)
    write_seconds: float = Field(default=30.0, gt=0)
    drain_seconds: float = Field(default=30.0, ge=0)


class LogSettings(_Settings):
    """What is written down.

    Attributes:
        level: of the server's log on standard error.
        prompts: whether prompts may stand in the log and the audit file.
        audit: file of one JSON line a verdict; none where left out.
        audit_bytes: size at which it is rotated.
        audit_files: how many rotated files are kept.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    prompts: bool = False
    audit: Path | None = None
    audit_bytes: int = Field(default=100_000_000, ge=1024)
    audit_files: int = Field(default=5, ge=1)


class ServeSettings(_Settings):
    """Everything a server is told.

    Attributes:
        guard: folder or Hub id of the guard.
        model: another model than the guard's own.
        force: accept it.
        name: under which the model is served; the model's own name where left out.
        host, port: where to listen; port 0 takes a free one.
        api_key: that clients must send as a bearer token; needed wherever the host is not loopback.
        inspector: whether the inspector page is served.
        device, dtype, revision, trust_remote_code, thinking: how the model is loaded.
    """

    guard: str
    model: str | None = None
    force: bool = False
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr | None = None
    inspector: bool = True
    device: str | None = None
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    thinking: bool | None = None
    policy: PolicySettings = PolicySettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
