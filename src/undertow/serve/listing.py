"""GET /v1/models: what is served, and under which guard."""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from undertow.guard import QUADRANTS
from undertow.serve.failures import answer
from undertow.serve.policies import allowed_choices
from undertow.serve.responses import MODEL_RESPONSES, MODELS_RESPONSES
from undertow.serve.service import Service


def listing_router(service: Service) -> APIRouter:
    """The routes of models."""
    router = APIRouter()
    model = describe(service)

    @router.get("/v1/models", response_model=None, responses=MODELS_RESPONSES)
    async def list_models() -> Response:
        """The served model and its guard."""
        return answer({"object": "list", "data": [model]})

    @router.get("/v1/models/{id:path}", response_model=None, responses=MODEL_RESPONSES)
    async def retrieve_model(id: str) -> Response:
        """The served model by its name."""
        service.check_model(id)
        return answer(model)

    return router


def describe(service: Service) -> dict[str, Any]:
    """A served model as JSON values."""
    guard, policy = service.guard, service.settings.policy
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "undertow",
        "undertow": {
            "fingerprint": guard.fingerprint,
            "rule": guard.rule,
            "threshold": guard.threshold if math.isfinite(guard.threshold) else None,
            "states": list(guard.states),
            "quadrants": list(QUADRANTS if guard.refusal is not None else ("harmful", "harmless")),
            "policy": {
                "on_harmful": policy.on_harmful,
                "on_over_refusal": policy.on_over_refusal,
                "on_unjudged": policy.on_unjudged,
                "allowed": {name: list(choices) for name, choices in allowed_choices(policy).items()},
            },
            "warnings": [*guard.warnings, *guard.mismatches],
        },
    }
