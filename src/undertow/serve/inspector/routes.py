"""The inspector's addresses: the page, its files, and what the page asks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from importlib import resources
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import Response

from undertow.guard import LatentGuard
from undertow.model.positions import Renderer
from undertow.prompts import Prompt
from undertow.serve.engine import Engine, control_tokens
from undertow.serve.failures import DISCONNECTED, Failure, answer, failure_of
from undertow.serve.inspector.about import describe
from undertow.serve.inspector.asked import ReadRequest, ReplyRequest, Steering
from undertow.serve.inspector.gate import choices
from undertow.serve.inspector.reading import MOST_TOKENS, Reading, read_prompt
from undertow.serve.inspector.replying import Replies, Wire
from undertow.serve.inspector.words import in_words
from undertow.serve.jobs import ChatJob, Full, Judgement, Policy
from undertow.serve.policies import NotAllowed, NotPossible, chosen_policy
from undertow.serve.security import HEADERS
from undertow.serve.service import deadline
from undertow.serve.settings import ServeSettings
from undertow.serve.stream import Disconnected, EventStream, event, while_connected

CONTENT_SECURITY_POLICY = HEADERS["content-security-policy"]
"""Nothing inline, nothing from elsewhere."""


class Note(Protocol):
    """Counts a verdict and writes it down; `Service.note` is one."""

    def __call__(
        self,
        request: Request,
        route: str,
        prompt: Prompt,
        judgement: Judgement,
        policy: Policy,
        *,
        steered_by_hand: Mapping[str, Any] | None = None,
    ) -> None: ...


_READING_AT_ONCE = 8
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = HEADERS | {"cache-control": "no-cache"}


def inspector_router(
    engine: Engine, guard: LatentGuard, settings: ServeSettings, note: Note | None = None
) -> APIRouter:
    """The inspector page and what it asks.

    The page and its files are the same for everybody and need no key; `/inspector/about`, `/inspector/read` and
    `/inspector/reply` must stand behind the server's key, and errors are left to the app (`failures.install`).

    Args:
        engine: serves the guard.
        guard: the same guard.
        settings: policy and limits.
        note: called for every verdict.
    """
    router = APIRouter(include_in_schema=False)
    replies = Replies(engine, guard, choices(settings.policy, guard))
    # The engine's own is used on other threads.
    renderer = Renderer(guard.model.tokenizer, context=guard.model.context, thinking=guard.model.thinking)
    controls = control_tokens(guard.model.tokenizer)
    reading = _Turnstile(_READING_AT_ONCE)
    about = describe(guard, settings)
    files = {file.name: file for file in resources.files(__package__).joinpath("page").iterdir() if file.is_file()}

    def file(name: str) -> Response:
        kind = _TYPES.get(name.rpartition(".")[2])
        if name not in files or kind is None:
            raise Failure(404, "There is no such file of the inspector.", "not_found")
        return Response(files[name].read_bytes(), media_type=f"{kind}; charset=utf-8", headers=_HEADERS)

    def noter(
        request: Request, route: str, prompt: Prompt, policy: Policy, steering: Steering | None = None
    ) -> Callable[[Judgement], None]:
        def hear(judgement: Judgement) -> None:
            if note is not None:
                by_hand = None if steering is None or judgement.action == "refused" else steering.model_dump()
                note(request, route, prompt, judgement, policy, steered_by_hand=by_hand)

        return hear

    @router.get("/")
    def page() -> Response:
        return file("index.html")

    @router.get("/inspector/about")
    def tell() -> Response:
        return answer(about, headers=HEADERS)

    @router.get("/inspector/{name}")
    def asset(name: str) -> Response:
        return file(name)

    @router.post("/inspector/read")
    async def read(body: ReadRequest, request: Request) -> Response:
        policy, prompt = _policy(settings, guard, body), body.prompt()
        most = min(MOST_TOKENS, engine.most_tokens)
        gone = False

        def read_unless_gone() -> Reading:
            if gone:
                raise Disconnected
            return read_prompt(guard, renderer, prompt, policy, most, controls)

        async with reading:
            try:
                found = await while_connected(request.receive, engine.call(read_unless_gone))
            except Disconnected:
                gone = True
                return _given_up(request)
        noter(request, "/inspector/read", prompt, policy)(found.judgement)
        wire = found.to_wire(guard.threshold) | {"words": in_words(found.judgement, guard)}
        return answer(wire, headers=HEADERS)

    @router.post("/inspector/reply")
    async def reply(body: ReplyRequest, request: Request) -> Response:
        policy, prompt = _policy(settings, guard, body), body.prompt()
        job = ChatJob(
            prompt,
            policy,
            max_new_tokens=min(body.max_tokens, settings.limits.reply_tokens),
            temperature=body.temperature,
            seed=body.seed,
            refusal_text=settings.policy.refusal_text,
            watch=True,
        )
        heard = noter(request, "/inspector/reply", prompt, policy, body.steering)
        until = deadline(request, settings.limits.seconds)
        if body.steering is None:
            events = replies.plain(job, heard, until)
        else:
            events = replies.steered(job, body.steering, heard, until)
        # The first event is awaited here, so that a full queue or a bad conversation becomes a status, not a stream.
        try:
            first = await while_connected(request.receive, _first(events))
        except BaseException as error:
            await events.aclose()
            if isinstance(error, Disconnected):
                return _given_up(request)
            raise
        return EventStream(_lines(first, events), HEADERS, events.aclose)

    return router


def _policy(settings: ServeSettings, guard: LatentGuard, body: ReadRequest) -> Policy:
    try:
        return chosen_policy(settings.policy, guard, body.on_harmful, body.on_over_refusal)
    except NotAllowed as error:
        raise Failure(403, str(error), "policy_not_allowed", error.param, kind="permission_error") from None
    except NotPossible as error:
        raise Failure(400, str(error), "policy_not_possible", error.param) from None


def _given_up(request: Request) -> Response:
    """For a client that has gone: only the count sees it."""
    request.scope["state"].update(rejected="disconnected", status=DISCONNECTED)
    return Response(status_code=DISCONNECTED)


async def _first(events: AsyncGenerator[Wire, None]) -> Wire:
    return await anext(events)


async def _lines(first: Wire, events: AsyncGenerator[Wire, None]) -> AsyncGenerator[bytes, None]:
    yield event(first)
    try:
        async for one in events:
            yield event(one)
    except Exception as error:
        # The response has begun, so the page learns of it in the stream.
        yield event({"type": "ended", "reason": "error", "tokens": 0, "message": failure_of(error).message})


class _Turnstile:
    """Lets so many in at once and turns the others away."""

    def __init__(self, places: int) -> None:
        self._free = places

    async def __aenter__(self) -> None:
        if self._free == 0:
            raise Full(1)
        self._free -= 1

    async def __aexit__(self, *exception: object) -> None:
        self._free += 1
