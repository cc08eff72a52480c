"""Counters and histograms of a server, in the format that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from undertow.serve.jobs import EngineStatus, Judgement

ROUTES: tuple[str, ...] = (
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/v1/chat/completions",
    "/v1/models",
    "/v1/models/{id}",
    "/v1/moderations",
    "/inspector/about",
    "/inspector/read",
    "/inspector/reply",
    "/inspector/{name}",
)
"""Routes that are counted by name; every other path counts as "other", so that clients cannot invent labels."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Metrics:
    """What one server has done since its start; several servers in one process do not share anything.

    Every method may be called from any thread, never raises for what a client sends, and costs a few microseconds.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._status = _StatusCollector()
        self.registry.register(self._status)
        self._requests = Counter(
            "undertow_requests", "Requests that were answered.", ["route", "status"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "undertow_request_seconds",
            "Seconds from a request's arrival to the end of its response.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._first_token = Histogram(
            "undertow_first_token_seconds",
            "Seconds from a chat request's arrival to the first token of its reply, where the guard lets it reply.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._verdicts = Counter(
            "undertow_verdicts",
            "Verdicts by what the model believes and is about to do, and by what was done.",
            ["quadrant", "action"],
            registry=self.registry,
        )
        self._unjudged = Counter(
            "undertow_unjudged", "Prompts that the guard could not judge.", ["reason", "action"], registry=self.registry
        )
        self._rejected = Counter(
            "undertow_rejected", "Requests that were turned away.", ["reason"], registry=self.registry
        )
        self._prompt_tokens = Histogram(
            "undertow_prompt_tokens", "Tokens of a prompt.", buckets=TOKENS, registry=self.registry
        )
        self._reply_tokens = Histogram(
            "undertow_reply_tokens", "Tokens of a reply.", buckets=TOKENS, registry=self.registry
        )
        self._audit_failures = Counter(
            "undertow_audit_failures", "Verdicts that could not be written to the audit file.", registry=self.registry
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request whose response has ended.

        Args:
            route: the route's pattern, such as "/v1/chat/completions".
            status: the HTTP status.
            seconds: from its arrival to the end of its response.
        """
        name = route if route in ROUTES else "other"
        self._requests.labels(name, str(status)).inc()
        self._request_seconds.labels(name).observe(seconds)

    def verdict(self, judgement: Judgement) -> None:
        """Count a verdict, or that there is none; once for every prompt."""
        if judgement.verdict is None:
            self._unjudged.labels(judgement.reason or "error", judgement.action).inc()
        else:
            self._verdicts.labels(judgement.verdict.quadrant, judgement.action).inc()

    def first_token(self, seconds: float) -> None:
        """Note the seconds from a chat request's arrival to the first piece of its reply."""
        self._first_token.observe(seconds)

    def tokens(self, prompt: int, reply: int | None = None) -> None:
        """Note the length of a prompt and of its reply.

        Args:
            prompt: tokens of the prompt; 0, where it could not be rendered, is not noted.
            reply: tokens that were generated; None for a prompt that was only judged.
        """
        if prompt:
            self._prompt_tokens.observe(prompt)
        if reply is not None:
            self._reply_tokens.observe(reply)

    def rejected(self, reason: str) -> None:
        """Count a request that was turned away.

        Args:
            reason: one of a few words of the server's own, such as "full", "draining", "key", "body", "host",
                "slow_reader", "connections" or "disconnected"; never anything that a client sent.
        """
        self._rejected.labels(reason).inc()

    def audit_failed(self) -> None:
        """Count a verdict that could not be written to the audit file."""
        self._audit_failures.inc()

    def render(self, status: EngineStatus) -> tuple[bytes, str]:
        """Everything as text.

        Args:
            status: of the engine, now.

        Returns:
            The body and its content type.
        """
        self._status.status = status
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _StatusCollector(Collector):
    """The engine's queues as they were when the metrics were last asked for."""

    def __init__(self) -> None:
        self.status: EngineStatus | None = None

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        status = self.status
        if status is None:
            return
        yield GaugeMetricFamily("undertow_waiting", "Replies that wait for a slot.", status.waiting)
        yield GaugeMetricFamily("undertow_running", "Replies that are being generated.", status.running)
        yield GaugeMetricFamily("undertow_judging", "Guard-only prompts that wait.", status.judging)
        yield GaugeMetricFamily("undertow_ready", "1 while the engine takes work.", float(status.ready))
        for name, value in sorted(status.totals.items()):
            yield CounterMetricFamily(f"undertow_engine_{name}", f"The engine's count of {name}.", value)
