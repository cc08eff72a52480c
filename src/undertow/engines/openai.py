"""Asking a guarded server, which answers moderations as OpenAI's do, with the verdict in the field `undertow`."""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from undertow.errors import GuardError
from undertow.guard.rows import SCORES, score_row
from undertow.prompts import Prompt

if TYPE_CHECKING:
    import httpx

_TOO_MUCH = (400, 413, 422)
_PASSING = (408, 425, 429, 502, 503, 504)
_MOST_FAILURES = 3
_LONGEST_PAUSE = 30.0
_LONGEST_WISH = 60.0
_FIRST_PATIENCE = 5.0

_REASONS = {
    "too_long": "it is longer than the server takes",
    "not_rendered": "its place in the chat template cannot be told for certain",
    "not_finite": "the model gives states that are not finite for it",
    "error": "the server failed at it",
}


class OpenAIScorer:
    """Scores chunks of prompts by asking a server that `undertow serve` runs; use it as a context manager.

    Refusals to answer for now (429, 503, no connection) are waited out, as long as the server asks for (a minute at
    most) and `patience` allows. Conversations of several messages get an error in their row: a moderation takes one
    text, and asking for a chat completion instead would pay for a reply that nobody reads.

    Args:
        base_url: the server's address, with or without `/v1` at its end.
        api_key: bearer token; the environment variable OPENAI_API_KEY where left out, or none.
        requests_in_flight: requests at the same time.
        timeout: seconds that one request may take.
        patience: seconds for which a request is tried again before the scan ends.

    Attributes:
        fingerprint: says which guard the server has; where it does not tell, the server's address.
        model_fingerprint: name of the served model.
        has_refusal: whether the server's guard has a belief of refusal.
        warnings: what limits the server's verdicts, in its own words.

    Raises:
        GuardError: the address or the key cannot be one, the server cannot be reached, refuses the key, or is not a
            guarded server of Undertow.
    """

    chunk_rows = 32

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        requests_in_flight: int = 8,
        timeout: float = 120.0,
        patience: float = 300.0,
    ) -> None:
        import httpx

        address = base_url.strip().rstrip("/")
        if not address.startswith(("http://", "https://")):
            raise GuardError(f"{base_url!r} is not the address of a server; it begins with http:// or https://.")
        try:
            httpx.URL(address)
        except httpx.InvalidURL as error:
            raise GuardError(f"{base_url!r} is not the address of a server: {_sentence(error)}.") from None
        if requests_in_flight < 1:
            raise GuardError("The number of requests in flight must be at least 1.")
        self.url = address if address.endswith("/v1") else f"{address}/v1"
        self.chunks_in_flight = requests_in_flight
        self.patience = patience
        key = api_key or os.environ.get("OPENAI_API_KEY")
        # Here, since a header that cannot be sent is told of later with its value.
        if key and not (key.isascii() and key.isprintable() and key == key.strip()):
            raise GuardError("The key has a blank at an edge, a line break, or a letter that no header can hold.")
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        limits = httpx.Limits(max_connections=requests_in_flight)
        try:
            self._client = httpx.Client(headers=headers, timeout=timeout, limits=limits)
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise GuardError(f"The proxy that the environment names cannot be used: {_sentence(error)}.") from None
        self._stop = threading.Event()
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._noting = threading.Lock()
        self._checking = threading.Lock()
        self._checked = float("-inf")
        try:
            about = self._about(min(patience, _FIRST_PATIENCE))
        except BaseException:
            self.close()
            raise
        self.model_fingerprint = str(about["id"])
        self.guard_fingerprint = _guard_of(about)
        self.fingerprint = f"server:{self.guard_fingerprint or self.url}"
        told = about["undertow"]
        quadrants, warnings = told.get("quadrants"), told.get("warnings")
        self.has_refusal = not isinstance(quadrants, list) or len(quadrants) > 2
        self.warnings = [str(warning) for warning in warnings] if isinstance(warnings, list) else []

    def __enter__(self) -> OpenAIScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connections; requests that wait, for their answer or to be tried again, give up."""
        self._stop.set()
        with self._noting:
            open_sockets = list(self._sockets)
        for one in open_sockets:
            _hang_up(one)
        self._client.close()

    def score_chunk(self, prompts: list[Prompt], first_row: int, include_prompts: bool = False) -> list[dict[str, Any]]:
        """Rows of one aligned chunk, in order; may be called from several threads at once.

        Args:
            prompts: the prompts.
            first_row: number of the first prompt within the source.
            include_prompts: whether the text is written too.

        Raises:
            GuardError: the server stays away for longer than `patience`, refuses the key, answers something else than
                verdicts, or has another guard now than when the scorer was made.
        """
        single = [index for index, prompt in enumerate(prompts) if len(prompt.messages) == 1]
        found = dict(zip(single, self._judge([prompts[index].text for index in single]), strict=True))
        if found:
            self._check_same_guard()
        rows = []
        for index, prompt in enumerate(prompts):
            if index in found:
                scores, error = found[index]
            else:
                scores = None
                error = (
                    f"A moderation takes one text, and this is a conversation of {len(prompt.messages)} messages; "
                    "score it with another engine."
                )
            rows.append(score_row(first_row + index, prompt, include_prompts, scores, error))
        return rows

    def _judge(self, texts: Sequence[str]) -> list[tuple[Mapping[str, Any] | None, str | None]]:
        """Scores or an error for every text; a request that is refused as a whole is asked again in halves."""
        if not texts:
            return []
        response = self._ask("POST", "/moderations", self.patience, {"input": list(texts)})
        if response.status_code in _TOO_MUCH:
            if len(texts) == 1:
                return [(None, f"The server refuses this prompt: {_message(response)}")]
            middle = len(texts) // 2
            return [*self._judge(texts[:middle]), *self._judge(texts[middle:])]
        results = self._body(response).get("results")
        if not isinstance(results, list) or len(results) != len(texts):
            raise GuardError(f"The server at {self.url} does not answer one result for every text.")
        return [self._read(result) for result in results]

    def _read(self, result: Any) -> tuple[Mapping[str, Any] | None, str | None]:
        verdict = result.get("undertow") if isinstance(result, dict) else None
        if not isinstance(verdict, dict):
            raise GuardError(
                f"The server at {self.url} answers moderations without the field `undertow`, so it is no guarded "
                "server of Undertow; give the address of one that `undertow serve` runs."
            )
        if not verdict.get("judged"):
            reason = str(verdict.get("reason"))
            return None, f"The server did not judge this prompt: {_REASONS.get(reason, reason)}."
        missing = [name for name in SCORES if name not in verdict]
        if missing:
            raise GuardError(f"The server at {self.url} gives verdicts without {', '.join(missing)}.")
        return verdict, None

    def _about(self, patience: float) -> dict[str, Any]:
        """What GET /v1/models says about the first model."""
        data = self._body(self._ask("GET", "/models", patience)).get("data")
        about = data[0] if isinstance(data, list) and data else None
        if not isinstance(about, dict) or not isinstance(about.get("undertow"), dict) or "id" not in about:
            raise GuardError(
                f"The server at {self.url} names no guard (its models lack the field `undertow`); give the address of "
                "one that `undertow serve` runs."
            )
        return about

    def _ask(self, method: str, path: str, patience: float, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """One request, tried again while that may help."""
        import httpx

        content = None if body is None else json.dumps(body).encode("ascii")
        deadline = time.monotonic() + patience
        attempt = failures = 0
        while True:
            wish: float | None = None
            try:
                response = self._client.request(
                    method, self.url + path, content=content, extensions={"trace": self._note}
                )
            except (httpx.RequestError, RuntimeError) as error:
                if self._stop.is_set():
                    raise GuardError("The scan was interrupted.") from None
                if not isinstance(error, httpx.RequestError):
                    raise
                reason = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                failures += response.status_code == 500
                passing = response.status_code in _PASSING or (
                    response.status_code == 500 and failures < _MOST_FAILURES
                )
                if not passing:
                    return response
                reason = f"status {response.status_code}"
                wish = _retry_after(response)
            pause = min(0.25 * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1.0) if wish is None else wish
            attempt += 1
            if time.monotonic() + pause > deadline:
                raise GuardError(
                    f"The server at {self.url} gave no answer for {patience:.0f} seconds ({reason}); what was scored "
                    "is kept, so run the scan again when it is up."
                )
            if self._stop.wait(pause):
                raise GuardError("The scan was interrupted.")

    def _note(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember the socket of every connection: closing one wakes nobody who waits for an answer on it."""
        if not event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            return
        found = info["return_value"].get_extra_info("socket")
        with self._noting:
            self._sockets.add(found)
        if self._stop.is_set():
            _hang_up(found)

    def _check_same_guard(self) -> None:
        """Refuse answers of a server that came back with another guard.

        A server can be exchanged without a failure that is seen here (behind a proxy, or between two requests), so
        every chunk is followed by a check before its rows count. One check serves all chunks answered before it began.
        """
        answered = time.monotonic()
        with self._checking:
            if answered < self._checked:
                return
            begin = time.monotonic()
            if _guard_of(self._about(self.patience)) != self.guard_fingerprint:
                raise GuardError(f"The server at {self.url} came back with another guard; use overwrite to start anew.")
            self._checked = begin

    def _body(self, response: httpx.Response) -> dict[str, Any]:
        """The JSON object of a success; GuardError for anything else."""
        status = response.status_code
        if status in (401, 403):
            raise GuardError(
                f"The server at {self.url} refuses the key ({status}); give it as --api-key or in OPENAI_API_KEY."
            )
        if status != 200:
            raise GuardError(f"The server at {self.url} answers with status {status}: {_message(response)}")
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise GuardError(f"The server at {self.url} does not answer with a JSON object.")
        return body


def _guard_of(about: Mapping[str, Any]) -> str | None:
    """Fingerprint of the guard in a model's description."""
    found = about["undertow"].get("fingerprint")
    return found if isinstance(found, str) else None


def _hang_up(connection: socket.socket) -> None:
    # Not the method of a TLS socket, which would undo the encryption under the reader's hands.
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _message(response: httpx.Response) -> str:
    """What a response says is wrong, in one line."""
    try:
        text = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = response.reason_phrase or "no reason given"
    return " ".join(text.split())[:300]


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait, at most a minute; None where it does not say."""
    text = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, IndexError):
            return None
    return min(max(seconds, 0.05), _LONGEST_WISH) if seconds == seconds else None
