"""The application: routes, and the layers around them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from undertow.guard import LatentGuard
from undertow.serve.body import BoundedBody
from undertow.serve.chat import chat_router
from undertow.serve.description import describe_as_served
from undertow.serve.engine import Engine, EngineLimits
from undertow.serve.failures import install
from undertow.serve.health import health_router
from undertow.serve.listing import listing_router
from undertow.serve.moderations import moderation_router
from undertow.serve.observed import Observed
from undertow.serve.policies import check_possible, own_policy
from undertow.serve.security import Gate
from undertow.serve.service import Service
from undertow.serve.settings import LimitSettings, ServeSettings

if TYPE_CHECKING:
    from undertow.serve.audit import Audit
    from undertow.serve.metrics import Metrics

SWITCH_SECONDS = 1e-4
"""How long a thread may keep the interpreter while another waits for it.

The engine's thread gives it up at every tensor operation and waits so long to get it back from a busy event loop: with
Python's own 5 ms a step of the model takes dozens of times as long while requests pour in.
"""


def create_app(
    guard: LatentGuard,
    settings: ServeSettings,
    *,
    guarded: bool = True,
    metrics: Metrics | None = None,
    audit: Audit | None = None,
) -> FastAPI:
    """The application that serves a guard; its engine runs while the application's lifespan does.

    Args:
        guard: the guard; its model answers.
        settings: policy, limits, key.
        guarded: False judges nothing (a baseline for measurements only).
        metrics: counts what happens; nothing is counted where left out.
        audit: writes verdicts down; nothing is written where left out. Whoever made it closes it.

    Returns:
        An application with `state.engine`, `state.service` and `state.failure`, the error that kept the engine from
        starting.

    Raises:
        NotPossible: the guard cannot carry out the server's own policy.
    """
    check_possible(guard, own_policy(settings.policy))
    engine = Engine(guard, engine_limits(settings.limits), guarded=guarded)
    service = Service(engine, guard, settings, metrics, audit)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            try:
                engine.start()
            except Exception as error:
                app.state.failure = error
                raise
            yield
        finally:
            engine.stop()
            sys.setswitchinterval(before)

    from undertow import __version__

    app = FastAPI(
        title="Undertow",
        summary="A guarded chat model.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.engine, app.state.service, app.state.failure = engine, service, None
    for router in (chat_router, moderation_router, listing_router, health_router):
        app.include_router(router(service))
    if settings.inspector:
        from undertow.serve.inspector.routes import inspector_router

        app.include_router(inspector_router(engine, guard, settings, note=service.note))
    install(app)
    describe_as_served(app, service)
    # The last one added is the first that a request meets.
    app.add_middleware(BoundedBody, most=settings.limits.body_bytes, seconds=settings.limits.seconds)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(Observed, metrics=metrics)
    return app


def engine_limits(limits: LimitSettings) -> EngineLimits:
    """The bounds of the engine out of a server's."""
    return EngineLimits(
        rows=limits.rows,
        batch_tokens=limits.batch_tokens,
        waiting=limits.waiting,
        judging=limits.judging,
        prompt_tokens=limits.prompt_tokens,
        seconds=limits.seconds,
    )
