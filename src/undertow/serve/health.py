"""GET /healthz, /readyz and /metrics: for whatever watches over the server."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from undertow.serve.failures import answer
from undertow.serve.responses import HEALTH_RESPONSES, METRICS_RESPONSES, READY_RESPONSES
from undertow.serve.service import Service

STALLED_SECONDS = 60.0
"""For which the engine may take no step while work waits, before the server counts as stuck."""


def health_router(service: Service) -> APIRouter:
    """The routes of health and metrics; there are no metrics where nothing is counted."""
    router = APIRouter()
    metrics = service.metrics

    @router.get("/healthz", response_model=None, responses=HEALTH_RESPONSES)
    async def health() -> Response:
        """Whether the process lives."""
        return answer({"status": "ok"})

    @router.get("/readyz", response_model=None, responses=READY_RESPONSES)
    async def ready() -> Response:
        """Whether requests are taken."""
        status = service.engine.status()
        if not status.ready:
            return answer({"status": "draining"}, 503, {"retry-after": "1"})
        if status.stalled > STALLED_SECONDS:
            return answer({"status": "stalled"}, 503, {"retry-after": "1"})
        return answer({"status": "ready"})

    if metrics is not None:

        @router.get("/metrics", response_model=None, responses=METRICS_RESPONSES)
        async def read_metrics() -> Response:
            """Counters, gauges and histograms for Prometheus."""
            body, kind = metrics.render(service.engine.status())
            return Response(body, headers={"content-type": kind})

    return router
