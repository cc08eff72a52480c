"""What each route may answer, for the OpenAPI description."""

from __future__ import annotations

from typing import Any

from undertow.serve.failures import ErrorBody
from undertow.serve.protocol import ChatCompletion, ModelBody, ModelList, ModerationResponse, StatusBody
from undertow.serve.service import ACTION_HEADER, REQUEST_HEADER, VERDICT_HEADER

Responses = dict[int | str, dict[str, Any]]

_REQUEST_ID = {
    REQUEST_HEADER: {
        "description": "Id of the request, as in the audit file.",
        "required": True,
        "schema": {"type": "string", "pattern": "^req-[0-9a-f]{24}$"},
    }
}
_VERDICT = {
    VERDICT_HEADER: {
        "description": "The verdict as one line of JSON.",
        "required": True,
        "schema": {"type": "string"},
    },
    ACTION_HEADER: {
        "description": "What was done.",
        "required": True,
        "schema": {"enum": ["none", "refused", "flagged", "steered", "released"]},
    },
}
_RETRY = {
    "retry-after": {
        "description": "Seconds to wait.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    }
}
_KEY = {"www-authenticate": {"required": True, "schema": {"const": "Bearer"}}}


def _error(description: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"model": ErrorBody, "description": description, "headers": _REQUEST_ID | (headers or {})}


def _success(model: Any, description: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"model": model, "description": description, "headers": _REQUEST_ID | (headers or {})}


_ALL: Responses = {
    401: _error("The key is missing or wrong.", _KEY),
    408: _error("The body came too slowly."),
    413: _error("The body is too large."),
    421: _error("The server was asked by another host's name."),
    500: _error("The server failed."),
}
_POSTED: Responses = {
    400: _error("The request cannot be carried out as it is."),
    404: _error("The model is not served here."),
    415: _error("The body is not sent as JSON."),
    429: _error("The queue is full.", _RETRY),
    503: _error("The server is shutting down.", _RETRY),
}

_COMPLETION = _success(ChatCompletion, "The reply, or the stream of its parts.", _VERDICT) | {
    "content": {"text/event-stream": {"schema": {"type": "string"}}}
}
CHAT_RESPONSES: Responses = {
    200: _COMPLETION,
    403: _error("The policy is not allowed."),
    **_POSTED,
    **_ALL,
}
MODERATION_RESPONSES: Responses = {200: _success(ModerationResponse, "The verdicts, in order."), **_POSTED, **_ALL}
MODELS_RESPONSES: Responses = {200: _success(ModelList, "The served model."), **_ALL}
MODEL_RESPONSES: Responses = {
    200: _success(ModelBody, "The served model."),
    404: _error("The model is not served here."),
    **_ALL,
}
METRICS_RESPONSES: Responses = {
    200: {
        "description": "Counters and histograms.",
        "headers": _REQUEST_ID,
        "content": {"text/plain": {"schema": {"type": "string"}}},
    },
    **_ALL,
}
HEALTH_RESPONSES: Responses = {
    200: _success(StatusBody, "The process lives."),
    **{status: response for status, response in _ALL.items() if status != 401},
}
READY_RESPONSES: Responses = {
    **HEALTH_RESPONSES,
    200: _success(StatusBody, "Requests are taken."),
    503: _success(StatusBody, "Requests are no longer taken.", _RETRY),
}
