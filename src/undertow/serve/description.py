"""The OpenAPI description, with this server's own limits and names in it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from undertow.serve.policies import allowed_choices
from undertow.serve.security import is_open
from undertow.serve.service import Service


def describe_as_served(app: FastAPI, service: Service) -> None:
    """Make `app.openapi` tell what this very server takes and answers."""

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            app.openapi_schema = _with_key(_with_limits(found, service), service)
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]


def _with_limits(found: dict[str, Any], service: Service) -> dict[str, Any]:
    schemas, limits = found["components"]["schemas"], service.settings.limits
    chat = schemas["ChatRequest"]["properties"]
    chat["model"] = {"enum": [service.name]}
    for name in ("max_tokens", "max_completion_tokens"):
        chat[name]["anyOf"][0]["maximum"] = limits.reply_tokens
    moderation = schemas["ModerationRequest"]["properties"]
    moderation["model"] = {"enum": [service.name, None]}
    for kind in moderation["input"]["anyOf"]:
        if kind.get("items") == {"type": "string"}:
            kind["maxItems"] = limits.inputs
    for name, choices in allowed_choices(service.settings.policy).items():
        schemas["PolicyRequest"]["properties"][name] = {"enum": [*choices, None]}
    for path in found["paths"].values():
        for operation in path.values():
            # Wrong input is answered with 400, as OpenAI does; the framework would have told of a 422.
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return found


def _with_key(found: dict[str, Any], service: Service) -> dict[str, Any]:
    if service.settings.api_key is not None:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for name, path in found["paths"].items():
        for operation in path.values():
            if service.settings.api_key is None or is_open(name):
                operation["responses"].pop("401", None)
            else:
                operation["security"] = [{"key": []}]
    return found
