"""GET /healthz, /readyz and /metrics: for whatever watches over the server."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from undertow.serve.failures import answer
from undertow.serve.responses import HEALTH_RESPONSES, METRICS_RESPONSES, READY_RESPONSES
from undertow.serve.service import Service


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
        if service.engine.status().ready:
            return answer({"status": "ready"})
        return answer({"status": "draining"}, 503, {"retry-after": "1"})

    if metrics is not None:

        @router.get("/metrics", response_model=None, responses=METRICS_RESPONSES)
        async def read_metrics() -> Response:
            """Counters, gauges and histograms for Prometheus."""
            body, kind = metrics.render(service.engine.status())
            return Response(body, headers={"content-type": kind})

    return router
