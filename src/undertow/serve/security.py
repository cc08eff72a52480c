"""Who may ask: the key, the host name, and the headers that keep a browser's page to itself."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from undertow.serve.failures import Failure
from undertow.serve.jobs import ServeError
from undertow.serve.settings import ServeSettings
from undertow.serve.sources import is_loopback

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/", "/healthz", "/readyz", "/favicon.ico")
"""Paths that need no key, beside the inspector's scripts and styles."""

JSON_PATHS = ("/v1/chat/completions", "/v1/moderations")
"""Paths that take a body, beside the inspector's."""

HEADERS: dict[str, str] = {
    "x-content-type-options": "nosniff",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""Sent with every response that does not set them itself."""


def check_listening(settings: ServeSettings) -> None:
    """Refuse to serve other machines without a key.

    Raises:
        ServeError: the host is not loopback and no key is set.
    """
    if settings.api_key is None and not is_loopback(settings.host):
        raise ServeError(
            f"Listening on {settings.host} lets other machines in, so a key is needed: set UNDERTOW_API_KEY, or listen "
            "on 127.0.0.1."
        )
    if settings.api_key is not None and not settings.api_key.get_secret_value().strip():
        raise ServeError("The key is empty; set UNDERTOW_API_KEY to one of 20 or more random characters.")


class Gate:
    """Turns away requests without the key, for another host's name, or with a body that is no JSON.

    Args:
        app: what stands behind the gate.
        settings: with the key and the host.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.app = app
        key = settings.api_key
        self._digest = None if key is None else _digest(key.get_secret_value().encode())
        # A page of another site could reach a keyless local server by a name of its own that it points here.
        self._hosts = None
        if key is None and is_loopback(settings.host):
            self._hosts = {*LOOPBACK_NAMES, settings.host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            failure = self._failure(scope)
            if failure is not None:
                scope["state"]["rejected"] = failure.code
                await failure.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _failure(self, scope: Scope) -> Failure | None:
        headers = Headers(scope=scope)
        if self._hosts is not None and not _named(headers.getlist("host"), self._hosts):
            return Failure(
                421, "This server answers only by the name of this machine; ask http://127.0.0.1.", "wrong_host"
            )
        if self._digest is not None and not is_open(scope["path"]) and not self._has_key(scope):
            return Failure(
                401,
                "This server needs a key: send it as 'Authorization: Bearer KEY'.",
                "invalid_api_key",
                kind="authentication_error",
                headers={"www-authenticate": "Bearer"},
            )
        if scope["method"] == "POST" and takes_json(scope["path"]) and not _is_json(headers.getlist("content-type")):
            # A page of another site may send anything but this without the browser asking first.
            return Failure(415, "The body must be JSON, sent with 'Content-Type: application/json'.", "not_json")
        return None

    def _has_key(self, scope: Scope) -> bool:
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = sent[0].partition(b" ") if len(sent) == 1 else (b"", b"", b"")
        # Digests are of equal length, so the comparison tells nothing about the key's.
        equal = hmac.compare_digest(_digest(token.strip()), self._digest or b"")
        return equal and scheme.lower() == b"bearer"


def is_open(path: str) -> bool:
    """Whether a path needs no key: health, and the inspector's page, scripts and styles."""
    return path in OPEN_PATHS or (path.startswith("/inspector/") and path.endswith((".js", ".css", ".svg")))


def takes_json(path: str) -> bool:
    """Whether a path takes bodies, all of which are JSON."""
    return path in JSON_PATHS or path.startswith("/inspector/")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _named(hosts: list[str], allowed: Iterable[str]) -> bool:
    # Browsers always name the host; HTTP/1.0 probes need not.
    return not hosts or (len(hosts) == 1 and _without_port(hosts[0]) in allowed)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_json(types: list[str]) -> bool:
    return len(types) == 1 and types[0].partition(";")[0].strip().lower() == "application/json"
