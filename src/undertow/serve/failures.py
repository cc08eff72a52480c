"""Errors on the wire: OpenAI's shape, one sentence each, and nothing of what was sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from undertow.errors import PositionError, UndertowError
from undertow.serve.jobs import Draining, Full, TooLong
from undertow.serve.logs import log_error

DISCONNECTED = 499
"""The status under which a request is counted whose client has gone; nobody ever receives it."""


class ErrorDetail(BaseModel):
    """What is wrong: a sentence, a kind, the field that it is about, and a name for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every response that is not a success."""

    error: ErrorDetail


class Failure(Exception):
    """A response that is not a success.

    Args:
        status: of HTTP.
        message: one sentence: what is wrong and what to do.
        code: a name for programs.
        param: the field of the request that it is about.
        kind: OpenAI's name for the kind of error.
        headers: to be sent with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        *,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.kind = status, message, code, param, kind
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON object of the response."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The response."""
        return answer(self.body(), self.status, self.headers)


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response in ASCII, so that no half of a surrogate pair can break it."""
    return Response(to_json(body), status, dict(headers or {}), media_type="application/json")


def to_json(value: Any) -> bytes:
    """Compact ASCII JSON. Raises ValueError where a number is not finite."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def failure_of(error: Exception) -> Failure:
    """The failure that tells a client of an error; what is not the client's to mend is logged, without any text of
    a prompt."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, Full):
        headers = {"retry-after": str(max(1, error.retry_after))}
        return Failure(429, str(error), "rate_limit_exceeded", kind="rate_limit_error", headers=headers)
    if isinstance(error, Draining):
        return Failure(503, str(error), "draining", kind="server_error", headers={"retry-after": "1"})
    if isinstance(error, TooLong):
        return Failure(400, str(error), "context_length_exceeded", "messages")
    if isinstance(error, PositionError):
        return Failure(400, str(error), "not_rendered", "messages")
    log_error(error)
    return Failure(500, "The server failed at this request; its log says why.", "internal", kind="server_error")


def install(app: FastAPI) -> None:
    """Make an application answer every error in this shape."""

    async def failed(request: Request, error: Exception) -> Response:
        failure = failure_of(error)
        if failure.status in (429, 503):
            request.scope["state"]["rejected"] = failure.code
        return failure.response()

    async def misshapen(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _of_validation(error).response()

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _of_status(error).response()

    app.add_exception_handler(Failure, failed)
    app.add_exception_handler(UndertowError, failed)
    app.add_exception_handler(RequestValidationError, misshapen)
    app.add_exception_handler(HTTPException, refused)


def _of_status(error: HTTPException) -> Failure:
    known = {
        404: ("There is nothing at this address; the API lies under /v1.", "not_found"),
        405: ("This address does not take that method.", "method_not_allowed"),
        400: ("The body is not JSON that can be read.", "invalid_json"),
    }
    message, code = known.get(error.status_code, (f"The request failed with status {error.status_code}.", None))
    return Failure(error.status_code, message, code, headers=error.headers)


def _of_validation(error: RequestValidationError) -> Failure:
    first = error.errors()[0]
    kind, path = first["type"], first.get("ctx", {}).get("param") or _path(first["loc"])
    if kind == "json_invalid":
        return Failure(400, "The body is not JSON that can be read.", "invalid_json")
    name = "The body" if path is None else f"{path!a}"
    known = {
        "undertow": (str(first["msg"]), "invalid_value"),
        "undertow_option": (f"{name} asks for what this server does not offer; leave it out.", "unsupported_option"),
        "extra_forbidden": (f"{name} is not an option of this server; leave it out.", "unknown_option"),
        "missing": (f"{name} is missing.", "missing"),
        "too_short": (f"{name} must not be empty.", "invalid_value"),
        "model_attributes_type": (f"{name} must be a JSON object.", "invalid_value"),
        "dict_type": (f"{name} must be a JSON object.", "invalid_value"),
    }
    if kind not in known:
        told = str(first["msg"])
        for opening in ("Input ", "Value ", "List "):
            told = told.removeprefix(opening)
        subject = name if path is None else f"The value of {name}"
        return Failure(400, f"{subject} {told[:1].lower()}{told[1:]}.", "invalid_value", path)
    message, code = known[kind]
    return Failure(400, message, code, path)


def _path(location: tuple[int | str, ...]) -> str | None:
    """The field as JavaScript would name it, such as messages[0].content; names that a client made up are cut short."""
    path = ""
    for part in location[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:64]}"
    return path.lstrip(".").encode("ascii", "backslashreplace").decode("ascii") or None
