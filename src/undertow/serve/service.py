"""What all routes share: the engine, the guard, the settings, and where verdicts are noted."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from undertow.guard import LatentGuard
from undertow.prompts import Prompt
from undertow.serve.engine import Engine
from undertow.serve.failures import Failure, to_json
from undertow.serve.jobs import Judgement, Policy
from undertow.serve.settings import ServeSettings

if TYPE_CHECKING:
    from undertow.serve.audit import Audit
    from undertow.serve.metrics import Metrics

VERDICT_HEADER = "x-undertow-verdict"
ACTION_HEADER = "x-undertow-action"
REQUEST_HEADER = "x-request-id"


@dataclass(frozen=True)
class Service:
    """One served guard.

    Attributes:
        engine: generates and judges.
        guard: whose verdicts these are.
        settings: of the server.
        metrics: counts; None counts nothing.
        audit: writes verdicts down; None writes nothing.
        created: when the server was set up, in seconds since 1970.
    """

    engine: Engine
    guard: LatentGuard
    settings: ServeSettings
    metrics: Metrics | None = None
    audit: Audit | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        """Under which the model is served."""
        return served_name(self.settings, self.guard)

    def check_model(self, asked: str | None) -> None:
        """Refuse any other model than the one that is served.

        Raises:
            Failure: with status 404, as OpenAI has it.
        """
        if asked is not None and asked != self.name:
            raise Failure(
                404, f"The model {asked[:100]!a} is not served here; {self.name!a} is.", "model_not_found", "model"
            )

    def wire(self, judgement: Judgement) -> dict[str, Any]:
        """A verdict as JSON values; numbers that are not finite, which JSON has not, are null."""
        values = judgement.to_wire(self.guard.threshold)
        return {name: _finite(value) for name, value in values.items()}

    def headers(self, judgement: Judgement) -> dict[str, str]:
        """The headers that carry a verdict."""
        return {
            VERDICT_HEADER: to_json(self.wire(judgement)).decode("ascii"),
            ACTION_HEADER: judgement.action,
        }

    def note(
        self,
        request: Request,
        route: str,
        prompt: Prompt,
        judgement: Judgement,
        policy: Policy | None,
        index: int = 0,
        *,
        steered_by_hand: Mapping[str, Any] | None = None,
    ) -> None:
        """Count a verdict and write it down, where the server is told to; see `Audit.record`."""
        if judgement.verdict is None and judgement.reason is None:
            return  # Nothing was to be judged.
        if self.metrics is not None:
            self.metrics.verdict(judgement)
        if self.audit is not None:
            name = request.state.request_id
            self.audit.record(name, route, prompt, judgement, policy, index=index, steered_by_hand=steered_by_hand)


def served_name(settings: ServeSettings, guard: LatentGuard) -> str:
    """Under which a guard's model is served; of a folder only its last part, so that no path gets out."""
    if settings.name is not None:
        return settings.name
    own = guard.model.name
    return Path(own).name if Path(own).is_absolute() else own


def deadline(request: Request, seconds: float) -> float:
    """When a request has to be done with, on the clock `time.monotonic`.

    Args:
        request: any.
        seconds: that it is given, from its arrival on.
    """
    return time.monotonic() + seconds - (time.perf_counter() - request.state.arrived)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
