"""POST /v1/chat/completions: a guarded reply, whole or streamed, with the verdict before its first token."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from undertow.errors import PositionError
from undertow.serve.failures import DISCONNECTED, Failure, answer, failure_of
from undertow.serve.jobs import ChatJob, Ended, Event, Judged, Judgement, Piece, Policy, Reason, TooLong
from undertow.serve.policies import NotAllowed, NotPossible, chosen_policy
from undertow.serve.protocol import ChatRequest
from undertow.serve.responses import CHAT_RESPONSES
from undertow.serve.service import Service, deadline
from undertow.serve.stream import DONE, Disconnected, EventStream, event, while_connected

ROUTE = "/v1/chat/completions"
_FINISHED = {"stop": "stop", "length": "length", "content_filter": "content_filter", "time": "length"}


def chat_router(service: Service) -> APIRouter:
    """The route of chat completions."""
    router = APIRouter()

    @router.post(ROUTE, response_model=None, responses=CHAT_RESPONSES)
    async def create_chat_completion(request: Request, body: ChatRequest) -> Response:
        """Answer a conversation under the guard's eye."""
        service.check_model(body.model)
        reply = _Reply(service, request, body, _job(service, body))
        try:
            return await reply.response()
        except Disconnected:
            request.scope["state"].update(rejected="disconnected", status=DISCONNECTED)
            return Response(status_code=DISCONNECTED)

    return router


def _job(service: Service, body: ChatRequest) -> ChatJob:
    limits = service.settings.limits
    most = limits.reply_tokens
    if body.most_tokens is not None and body.most_tokens > most:
        raise Failure(400, f"At most {most} tokens of a reply may be asked for here.", "invalid_value", "max_tokens")
    return ChatJob(
        body.prompt(),
        _policy(service, body),
        max_new_tokens=min(limits.reply_tokens_default, most) if body.most_tokens is None else body.most_tokens,
        # OpenAI's own defaults, which clients rely on when they leave these out.
        temperature=1.0 if body.temperature is None else float(body.temperature),
        top_p=1.0 if body.top_p is None else float(body.top_p),
        seed=body.seed,
        stop=body.stop,
        refusal_text=service.settings.policy.refusal_text,
    )


def _policy(service: Service, body: ChatRequest) -> Policy:
    asked = body.undertow
    try:
        return chosen_policy(
            service.settings.policy,
            service.guard,
            None if asked is None else asked.on_harmful,
            None if asked is None else asked.on_over_refusal,
        )
    except NotAllowed as error:
        raise Failure(
            403, str(error), "policy_not_allowed", f"undertow.{error.param}", kind="permission_error"
        ) from None
    except NotPossible as error:
        raise Failure(400, str(error), "policy_not_possible", f"undertow.{error.param}") from None


class _Reply:
    """One reply on its way from the engine to the client."""

    def __init__(self, service: Service, request: Request, body: ChatRequest, job: ChatJob) -> None:
        self.service, self.request, self.body, self.job = service, request, body, job
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.begun = False

    async def response(self) -> Response:
        """The response; for a stream, as soon as the verdict is there."""
        until = deadline(self.request, self.service.settings.limits.seconds)
        # The engine gives generators, which can be closed.
        events = cast(AsyncGenerator[Event, None], self.service.engine.chat(self.job, until))
        handed_on = False
        try:
            judgement = await while_connected(self.request.receive, self._judgement(events))
            headers = self.service.headers(judgement)
            if self.body.stream:
                handed_on = True
                return EventStream(self._chunks(events, judgement), headers, events.aclose)
            text, ended = await while_connected(self.request.receive, self._whole(events, judgement))
        finally:
            if not handed_on:
                await events.aclose()
        self._note_tokens(judgement, ended)
        if ended.reason == "error":
            raise _broken(headers)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": _FINISHED[ended.reason],
            "ended_by": ended.reason,
        }
        completion = self._head("chat.completion") | {
            "choices": [choice],
            "usage": _usage(judgement, ended),
            "undertow": self.service.wire(judgement),
        }
        return answer(completion, headers=headers)

    async def _judgement(self, events: AsyncIterator[Event]) -> Judgement:
        try:
            first = await anext(events)
        except (TooLong, PositionError) as error:
            raise self._unread(error) from None
        assert isinstance(first, Judged), "the engine's first event is the verdict"
        self.service.note(self.request, ROUTE, self.job.prompt, first.judgement, self.job.policy)
        return first.judgement

    def _unread(self, error: Exception) -> Failure:
        """A conversation that cannot be read at all is refused whatever the policy, and counts as a verdict, too."""
        reason: Reason = "too_long" if isinstance(error, TooLong) else "not_rendered"
        judgement = Judgement(None, "refused", reason)
        self.service.note(self.request, ROUTE, self.job.prompt, judgement, self.job.policy)
        failure = failure_of(error)
        failure.headers.update(self.service.headers(judgement))
        return failure

    async def _whole(self, events: AsyncIterator[Event], judgement: Judgement) -> tuple[str, Ended]:
        texts: list[str] = []
        async for one in events:
            if isinstance(one, Piece):
                self._note_first(judgement)
                texts.append(one.text)
            elif isinstance(one, Ended):
                return "".join(texts), one
        raise AssertionError("the engine ended a reply without saying so")

    async def _chunks(self, events: AsyncIterator[Event], judgement: Judgement) -> AsyncGenerator[bytes, None]:
        head = self._head("chat.completion.chunk")
        options = self.body.stream_options
        counted = options is not None and bool(options.include_usage)
        if counted:
            head["usage"] = None
        opening = {"role": "assistant", "content": "", "refusal": None}
        try:
            yield event(head | {"choices": [_delta(opening)], "undertow": self.service.wire(judgement)})
            async for one in events:
                if isinstance(one, Piece):
                    self._note_first(judgement)
                    yield event(head | {"choices": [_delta({"content": one.text})]})
                elif isinstance(one, Ended):
                    self._note_tokens(judgement, one)
                    if one.reason == "error":
                        yield event(_broken({}).body())
                        return
                    yield event(head | {"choices": [_delta({}, _FINISHED[one.reason], one.reason)]})
                    if counted:
                        yield event(head | {"choices": [], "usage": _usage(judgement, one)})
                    yield DONE
                    return
        except Exception as error:
            # The response has begun, so the client learns of it in the stream.
            yield event(failure_of(error).body())

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.service.name}

    def _note_first(self, judgement: Judgement) -> None:
        # The guard's own words are no token of the model's.
        if not self.begun and judgement.action != "refused" and self.service.metrics is not None:
            self.service.metrics.first_token(time.perf_counter() - self.request.state.arrived)
        self.begun = True

    def _note_tokens(self, judgement: Judgement, ended: Ended) -> None:
        if self.service.metrics is not None:
            self.service.metrics.tokens(judgement.tokens, ended.tokens)


def _delta(delta: dict[str, Any], finished: str | None = None, ended_by: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finished}
    return choice if ended_by is None else choice | {"ended_by": ended_by}


def _usage(judgement: Judgement, ended: Ended) -> dict[str, int]:
    return {
        "prompt_tokens": judgement.tokens,
        "completion_tokens": ended.tokens,
        "total_tokens": judgement.tokens + ended.tokens,
    }


def _broken(headers: dict[str, str]) -> Failure:
    return Failure(
        500, "The reply broke off; send the request again.", "reply_broken", kind="server_error", headers=headers
    )
