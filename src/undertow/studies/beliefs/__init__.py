"""The beliefs study: what a chat model believes of a request, apart from whether it refuses it (arXiv 2507.11878)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undertow.studies.beliefs.result import BeliefsResult as BeliefsResult
    from undertow.studies.beliefs.run import measure_beliefs as measure_beliefs
    from undertow.studies.beliefs.run import run_beliefs as run_beliefs

_HOMES = {"BeliefsResult": "result", "measure_beliefs": "run", "run_beliefs": "run"}

__all__ = ["BeliefsResult", "measure_beliefs", "run_beliefs"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
