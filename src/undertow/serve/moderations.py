"""POST /v1/moderations: verdicts without replies."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from undertow.prompts import Prompt
from undertow.serve.failures import DISCONNECTED, Failure, answer
from undertow.serve.jobs import Judgement
from undertow.serve.protocol import ModerationRequest
from undertow.serve.responses import MODERATION_RESPONSES
from undertow.serve.service import Service, deadline
from undertow.serve.stream import Disconnected, while_connected

ROUTE = "/v1/moderations"


def moderation_router(service: Service) -> APIRouter:
    """The route of moderations."""
    router = APIRouter()

    @router.post(ROUTE, response_model=None, responses=MODERATION_RESPONSES)
    async def create_moderation(request: Request, body: ModerationRequest) -> Response:
        """Judge texts."""
        service.check_model(body.model)
        most = service.settings.limits.inputs
        if len(body.input) > most:
            raise Failure(400, f"At most {most} texts are judged at once; send fewer.", "too_many_inputs", "input")
        prompts = [Prompt(text) for text in body.input]
        until = deadline(request, service.settings.limits.seconds)
        work = service.engine.judge(prompts, service.settings.policy.on_unjudged, until)
        try:
            judgements = [_flagged(judgement) for judgement in await while_connected(request.receive, work)]
        except Disconnected:
            request.scope["state"].update(rejected="disconnected", status=DISCONNECTED)
            return Response(status_code=DISCONNECTED)
        for index, (prompt, judgement) in enumerate(zip(prompts, judgements, strict=True)):
            service.note(request, ROUTE, prompt, judgement, None, index)
            if service.metrics is not None:
                service.metrics.tokens(judgement.tokens)
        results = [_result(service, judgement) for judgement in judgements]
        return answer({"id": f"modr-{secrets.token_hex(12)}", "model": service.name, "results": results})

    return router


def _flagged(judgement: Judgement) -> Judgement:
    """Nothing is refused here: a text that must not pass is flagged."""
    return replace(judgement, action="flagged") if judgement.action == "refused" else judgement


def _result(service: Service, judgement: Judgement) -> dict[str, Any]:
    verdict = service.wire(judgement)
    score = verdict["harmful"]
    if score is None and verdict["flagged"]:
        # Clients that look at scores alone must fail closed, too.
        score = 1.0
    return {
        "flagged": verdict["flagged"],
        "categories": {"harmful": verdict["flagged"]},
        "category_scores": {"harmful": score},
        "undertow": verdict,
    }
